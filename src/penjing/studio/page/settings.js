// The panel of a conversation's settings: system prompt, parameters, presets. Saved as they are changed.
import { $, ask, dialog, el, iconButton, problem, prompted, recall, remember, toast } from "/studio/common.js";
import { t } from "/studio/words.js";

const PARAMETERS = [
  ["temperature", { min: 0, max: 2, step: 0.05 }],
  ["top_p", { min: 0.05, max: 1, step: 0.05 }],
  ["top_k", { min: 1, max: 200, step: 1 }],
  ["min_p", { min: 0, max: 0.5, step: 0.01 }],
  ["repetition_penalty", { min: 1, max: 2, step: 0.05 }],
];
const PLAIN = [["max_new_tokens", { min: 1, max: 100000 }], ["seed", { min: 0, max: 2 ** 31 - 1 }]];

export const fresh = () => ({ model: null, system: "", sampling: {}, context: "trim" });

// What a new conversation begins with: as the last one was.
export function preferred() {
  try {
    return { ...fresh(), ...JSON.parse(recall("settings") ?? "{}") };
  } catch {
    return fresh();
  }
}

let presets = [];
let state = { settings: fresh(), changed: () => {} };

export async function loadPresets() {
  presets = (await ask("/api/presets")).presets;
  if (!$("settings").hidden) draw();
}

export function showSettings(settings, changed) {
  state = { settings, changed };
  if (!$("settings").hidden) draw();
}

export function toggleSettings() {
  const panel = $("settings");
  panel.hidden = !panel.hidden;
  document.querySelector('[data-do="settings"][aria-controls]').setAttribute("aria-expanded", String(!panel.hidden));
  if (panel.hidden) return;
  draw();
  panel.querySelector("button, textarea")?.focus();
}

let timer = null;
function change(part) {
  Object.assign(state.settings, part);
  const { settings, changed } = state;
  clearTimeout(timer);
  timer = setTimeout(() => {
    remember("settings", JSON.stringify({ model: settings.model, system: settings.system, sampling: settings.sampling, context: settings.context }));
    changed(settings);
  }, 300);
}

function sample(name, value) {
  const sampling = { ...state.settings.sampling };
  if (value === null) delete sampling[name];
  else sampling[name] = value;
  change({ sampling });
}

function slider([name, range]) {
  const value = state.settings.sampling[name];
  const output = el("output", {}, value === undefined ? t("by-default") : String(value));
  const input = el("input", { type: "range", "aria-label": t(name), ...Object.fromEntries(Object.entries(range).map(([key, one]) => [key, String(one)])) });
  input.value = value ?? { temperature: 1, top_p: 1, top_k: 200, min_p: 0, repetition_penalty: 1 }[name];
  const reset = el("button", { type: "button", class: "plain small", hidden: value === undefined }, t("reset-one"));
  input.addEventListener("input", () => {
    output.textContent = input.value;
    reset.hidden = false;
    sample(name, Number(input.value));
  });
  reset.addEventListener("click", () => {
    sample(name, null);
    draw();
  });
  return el("div", { class: "setting" }, el("div", { class: "setting-head" }, el("span", {}, t(name)), output, reset), input);
}

function plain([name, range]) {
  const input = el("input", { type: "number", min: String(range.min), max: String(range.max), placeholder: t("by-default") });
  input.value = state.settings.sampling[name] ?? "";
  input.addEventListener("input", () => {
    if (input.value === "") sample(name, null);
    else if (input.checkValidity()) sample(name, Number(input.value));
  });
  return el("label", { class: "setting row" }, el("span", {}, t(name)), input);
}

function draw() {
  const { settings } = state;
  const system = el("textarea", { rows: "5", id: "system", maxlength: "32000" });
  system.value = settings.system ?? "";
  system.addEventListener("input", () => change({ system: system.value }));
  const context = el("select", { "aria-label": t("context-how") }, el("option", { value: "trim" }, t("trim")), el("option", { value: "summary" }, t("summary")));
  context.value = settings.context ?? "trim";
  context.addEventListener("change", () => change({ context: context.value }));
  const chooser = el("select", { "aria-label": t("presets") }, el("option", { value: "" }, t("preset-none")), ...presets.map((one) => el("option", { value: one.name }, one.name)));
  const remove = el("button", { type: "button", class: "plain danger", hidden: true }, t("preset-delete"));
  chooser.addEventListener("change", () => {
    const chosen = presets.find((one) => one.name === chooser.value);
    if (!chosen) return;
    change({ system: chosen.system ?? "", sampling: { ...chosen.sampling } });
    draw();
    const again = $("settings").querySelector(".presets select");
    again.value = chosen.name;
    $("settings").querySelector(".presets .danger").hidden = false;
    again.focus();
  });
  remove.addEventListener("click", () => keep(presets.filter((one) => one.name !== $("settings").querySelector(".presets select").value)));
  $("settings").replaceChildren(
    el("div", { class: "panel-head" }, el("h2", {}, t("settings")), iconButton("close", t("close"), toggleSettings)),
    el("div", { class: "presets" }, el("h3", {}, t("presets")), el("div", { class: "pair" }, chooser, el("button", { type: "button", onclick: savePreset }, t("preset-save"))), remove),
    el("label", { class: "setting", for: "system" }, el("h3", {}, t("system")), el("span", { class: "hint" }, t("system-hint")), system),
    el("h3", {}, t("parameters")),
    ...PARAMETERS.map(slider),
    ...PLAIN.map(plain),
    el("label", { class: "setting" }, el("span", {}, t("context-how")), context),
    el("button", { type: "button", class: "plain", onclick: () => { change({ sampling: {}, system: "", context: "trim" }); draw(); } }, t("reset")),
  );
}

async function savePreset() {
  const name = (await prompted(t("preset-save"), t("preset-name")))?.trim();
  if (!name) return;
  const { system, sampling } = state.settings;
  await keep([...presets.filter((one) => one.name !== name), { name, system, sampling }]);
  const chooser = $("settings").querySelector(".presets select");
  if (chooser) chooser.value = name;
}

async function keep(now) {
  try {
    await ask("/api/presets", { method: "PUT", body: { presets: now } });
    presets = now;
    toast(t("preset-saved"));
    draw();
  } catch (error) {
    problem(error);
  }
}

// Export of this conversation or of all, thumbs as preference data, and import.
export async function exchange(id, imported) {
  const link = (href, text) => el("a", { href, download: "", class: "button" }, text);
  const formats = (base, names) => names.map((name) => link(`${base}?format=${name}`, { markdown: "Markdown", json: "JSON", sharegpt: "ShareGPT" }[name]));
  const input = el("input", { type: "file", class: "hidden", accept: ".json,.jsonl,.md,.markdown,.txt", "aria-label": t("import") });
  input.addEventListener("change", async () => {
    try {
      const found = await ask("/api/conversations/import?format=auto", { method: "POST", raw: await input.files[0].arrayBuffer() });
      toast(t("imported", { n: found.conversations.length }));
      await imported(found.conversations);
    } catch (error) {
      problem(error);
    }
  });
  const content = el(
    "div",
    { class: "exchange" },
    id ? el("h3", {}, t("export-this")) : null,
    id ? el("div", { class: "choices" }, ...formats(`/api/conversations/${id}/export`, ["markdown", "json", "sharegpt"])) : null,
    el("h3", {}, t("export-all")),
    el("div", { class: "choices" }, ...formats("/api/conversations/export", ["json", "sharegpt"]), link("/api/feedback/export", t("feedback-export"))),
    el("h3", {}, t("import")),
    el("div", { class: "choices" }, el("button", { type: "button", onclick: () => input.click() }, t("import")), input),
  );
  await dialog(t("export-title"), content, [el("button", { value: "" }, t("close"))]);
}
