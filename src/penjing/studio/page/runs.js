// The page of training runs: which there are, and the curves, samples, plots and reports of one, live.
import { $, ask, el, isPhone, nextLanguage, nextTheme, number, onReturn, problem, toggleSide, wire } from "/studio/common.js";
import { Chart, compact } from "/studio/chart.js";
import { language, t } from "/studio/words.js";

const EVERY = 2000; // milliseconds from look to look at a run
const FIRST = ["loss", "reward", "kl", "learning_rate", "grad_norm", "tokens_per_second"];
const FACTS = new Set(["step", "seconds", "tokens", "validation"]);
const page = { runs: [], folder: "", name: null, mark: "", series: new Map(), charts: new Map(), last: {}, files: "" };

async function list() {
  const found = await ask("/api/runs");
  page.runs = found.runs;
  page.folder = found.folder;
  drawList();
  const wanted = decodeURIComponent(location.hash.slice(1));
  const name = page.runs.some((run) => run.name === wanted) ? wanted : page.runs[0]?.name;
  if (!name) return nothing();
  $("none").hidden = true;
  if (name !== page.name) await choose(name);
}

function nothing() {
  $("none").textContent = t("no-runs", { folder: page.folder });
  $("none").hidden = false;
  $("title").textContent = t("runs");
}

function drawList() {
  const rows = page.runs.map((run) => {
    const link = el(
      "a",
      { href: `#${encodeURIComponent(run.name)}`, class: "conversation", "aria-current": run.name === page.name ? "page" : null },
      el("span", { class: "name" }, run.active ? el("i", { class: "live", title: t("running") }) : null, run.name),
      el("span", { class: "preview" }, `${t("step", { n: number(run.step, 0) })}${run.loss === null ? "" : ` · ${compact(run.loss)}`}`),
    );
    return el("li", {}, link);
  });
  $("runs").replaceChildren(el("ul", {}, ...rows));
}

async function choose(name) {
  Object.assign(page, { name, mark: "", series: new Map(), charts: new Map(), last: {}, files: "" });
  $("charts").replaceChildren();
  $("title").textContent = name;
  document.title = `${name} · Penjing`;
  if (isPhone()) toggleSide(false);
  drawList();
  await Promise.all([curves(), details()]);
}

// What is new in the curves; nothing is read twice.
async function curves() {
  const { name } = page;
  for (let more = true; more; ) {
    const found = await ask(`/api/runs/curves?run=${encodeURIComponent(name)}&mark=${page.mark}`);
    if (name !== page.name) return;
    if (found.again) page.series = new Map();
    page.mark = found.mark;
    for (const line of found.lines) add(line);
    more = found.more;
    if (found.lines.length || found.again) draw();
  }
}

function add(line) {
  for (const [key, value] of Object.entries(line)) {
    if (key === "validation" && value) for (const [name, number_] of Object.entries(value)) point(name, "validation", line.step, number_);
    else if (!FACTS.has(key)) point(key, "training", line.step, value);
    if (key !== "validation") page.last[key] = value;
  }
}

function point(name, kind, step, value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return;
  if (!page.series.has(name)) page.series.set(name, { training: [], validation: [] });
  page.series.get(name)[kind].push([step, value]);
}

function draw() {
  const options = { smooth: Number($("smooth").value), logarithmic: $("logarithmic").checked };
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  const names = [...page.series.keys()].sort((one, other) => rank(one) - rank(other));
  for (const name of names) {
    const { training, validation } = page.series.get(name);
    const lines = [training.length && { label: "training", points: training }, validation.length && { label: "validation", points: validation }].filter(Boolean);
    if (!page.charts.has(name)) {
      page.charts.set(name, new Chart(name));
      $("charts").append(page.charts.get(name).node);
    }
    page.charts.get(name).set(lines, options);
  }
  facts();
}

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")} h` : minutes ? `${minutes}:${String(Math.floor(seconds % 60)).padStart(2, "0")} min` : `${number(seconds, 1)} s`;
}

function facts() {
  const run = page.runs.find((one) => one.name === page.name);
  const validation = page.series.get("loss")?.validation.at(-1)?.[1];
  const when = run ? new Date(run.updated * 1000).toLocaleString(language() === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" }) : "";
  const { step, loss, tokens, seconds, tokens_per_second: speed } = page.last;
  const rows = [
    ["fact-state", run?.active ? t("running") : t("rests", { when })],
    ["fact-step", step === undefined ? undefined : number(step, 0)],
    ["fact-loss", loss === undefined ? undefined : compact(loss)],
    ["fact-validation", validation === undefined ? undefined : compact(validation)],
    ["fact-tokens", tokens === undefined ? undefined : number(tokens, 0)],
    ["fact-speed", speed === undefined ? undefined : number(speed, 0)],
    ["fact-time", seconds === undefined ? undefined : duration(seconds)],
  ].filter(([, value]) => value !== undefined);
  $("facts").replaceChildren(...rows.map(([name, value]) => el("div", {}, el("dt", {}, t(name)), el("dd", { class: name === "fact-state" && run?.active ? "is-live" : "" }, value))));
}

async function details() {
  const { name } = page;
  const found = await ask(`/api/runs/details?run=${encodeURIComponent(name)}`);
  if (name !== page.name) return;
  $("samples").hidden = !found.samples.length;
  $("texts").replaceChildren(...found.samples.map((one) => el("li", {}, el("span", { class: "hint" }, t("step", { n: number(one.step, 0) })), el("p", {}, one.text))));
  const files = found.files.join("\n");
  if (files === page.files) return; // plots are drawn at a run's end
  page.files = files;
  const plots = found.files.filter((path) => path.endsWith(".png"));
  $("plots").hidden = !plots.length;
  $("pictures").replaceChildren(
    ...plots.map((path) => {
      const address = `/api/runs/plot?path=${encodeURIComponent(path)}`;
      return el("a", { href: address, target: "_blank" }, el("img", { src: address, alt: path, loading: "lazy" }));
    }),
  );
  const report = found.files.find((path) => path.endsWith("report.md"));
  $("report").hidden = !report;
  if (report) {
    const { html } = await ask(`/api/runs/report?path=${encodeURIComponent(report)}`);
    if (name === page.name) $("page").innerHTML = html; // cleaned by the server
  }
}

let turn = 0;
async function look() {
  if (document.hidden) return;
  try {
    if (turn++ % 5 === 0) {
      await list();
      facts();
      if (page.name && turn > 1) await details();
    }
    if (page.name) await curves();
  } catch (error) {
    problem(error);
  }
}

wire({ side: () => toggleSide(), language: nextLanguage, theme: nextTheme });
$("smooth").addEventListener("input", draw);
$("logarithmic").addEventListener("change", draw);
addEventListener("themechange", draw);
addEventListener("languagechange", () => {
  drawList();
  if (page.name) draw();
  else nothing();
});
addEventListener("hashchange", () => choose(decodeURIComponent(location.hash.slice(1))).catch(problem));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
onReturn(look);
let busy = look();
setInterval(() => {
  busy = busy.then(look);
}, EVERY);
