// The chat page: one conversation at a time, the tree of its messages, and the reply that is being written.
import { $, ask, confirmed, copy, dialog, el, events, isPhone, nextLanguage, nextTheme, number, onReturn, problem, recall, remember, say, toast, toggleSide, wire } from "/studio/common.js";
import { mark, refresh, rename, startHistory } from "/studio/history.js";
import { closeLook, openLook } from "/studio/look.js";
import { exchange, loadPresets, preferred, showSettings, toggleSettings } from "/studio/settings.js";
import { announce, composing, flash, forget, grow, showPath, shownMessage, toLatest } from "/studio/thread.js";
import { t } from "/studio/words.js";

const page = { id: null, title: "", settings: preferred(), messages: new Map(), leaf: null, running: null, models: [] };

// --- the tree -------------------------------------------------------------------------------------------------------

const tree = {
  brothers: (record) => [...page.messages.values()].filter((one) => one.parent === record.parent && one.role === record.role),
};

function path() {
  const found = [];
  for (let id = page.leaf; id; id = page.messages.get(id)?.parent) {
    const record = page.messages.get(id);
    if (!record) break;
    found.push(record);
  }
  return found.reverse();
}

function show() {
  showPath(path(), tree, actions);
  $("title").textContent = page.title || (page.id ? t("untitled") : t("new-title"));
  document.title = page.title ? `${page.title} · Penjing` : "Penjing";
  const busy = Boolean(page.running);
  $("send").hidden = busy;
  $("stop").hidden = !busy;
}

// --- one conversation -----------------------------------------------------------------------------------------------

async function go(id, { keepFocus = false } = {}) {
  leave();
  const found = await ask(`/api/conversations/${id}`);
  take(found);
  forget();
  show();
  toLatest();
  if (location.hash !== `#${id}`) history.pushState(null, "", `#${id}`);
  if (isPhone()) toggleSide(false);
  else if (!keepFocus) $("question").focus();
  budget();
  const running = found.messages.find((record) => record.status === "running");
  if (running) write(`/api/conversations/${id}/messages/${running.id}/follow`, undefined, "GET");
}

function take(found) {
  page.id = found.id;
  page.title = found.title;
  page.settings = found.settings;
  page.messages = new Map(found.messages.map((record) => [record.id, record]));
  page.leaf = found.leaf;
  mark(found.id);
  useSettings();
}

function leave() {
  closeLook();
  page.running?.controller.abort(); // the reply is written on; `follow` finds it again
  page.running = null;
}

function start() {
  leave();
  Object.assign(page, { id: null, title: "", messages: new Map(), leaf: null, settings: preferred() });
  forget();
  mark(null);
  useSettings();
  show();
  $("budget").textContent = $("speed").textContent = "";
  if (location.hash) history.pushState(null, "", location.pathname);
  if (isPhone()) toggleSide(false);
  $("question").focus();
}

function useSettings() {
  if (page.settings.model && !page.models.includes(page.settings.model)) page.settings.model = null; // no longer served
  $("model").value = page.settings.model ?? page.models[0] ?? "";
  showSettings(page.settings, saveSettings);
}

async function saveSettings(settings) {
  if (!page.id) return;
  try {
    await ask(`/api/conversations/${page.id}`, { method: "PATCH", body: { settings } });
    budget();
  } catch (error) {
    problem(error);
  }
}

async function budget() {
  const { id, leaf } = page;
  if (!id || !leaf) return;
  try {
    const now = await ask(`/api/conversations/${id}/budget?leaf=${leaf}`);
    if (id !== page.id) return;
    const parts = [t("budget", { tokens: number(now.tokens, 0), context: number(now.context, 0) })];
    if (now.summarised) parts.push(t("summarised"));
    else if (now.dropped) parts.push(t("dropped", { n: now.dropped }));
    $("budget").textContent = parts.join(" · ");
  } catch {
    $("budget").textContent = ""; // of a model that cannot be asked now
  }
}

// --- a reply --------------------------------------------------------------------------------------------------------

// Reads the events of a reply that is asked for, or followed, until it is over. Whether the server took the question.
async function write(path, body, method = "POST") {
  const controller = new AbortController();
  const mine = { controller, reply: null, taken: false };
  page.running = mine;
  say(t("answering"));
  show();
  let failed = null;
  try {
    for await (const { event, data } of events(path, { method, body, signal: controller.signal })) {
      if (page.running !== mine) return true;
      if (event === "message") arrived(data, mine);
      else if (event === "block") shownMessage(mine.reply)?.block(data.index, data.html);
      else if (event === "text") counted(mine, data.text);
      else if (event === "tool") shownMessage(mine.reply)?.tool(data);
      else if (event === "blocked" || event === "notice") noticed(mine, data);
      else if (event === "error") failed = data.message;
      else if (event === "done") finished(data);
    }
  } catch (error) {
    if (error.name === "AbortError") return true;
    problem(error);
  } finally {
    if (page.running === mine) {
      page.running = null;
      show();
      budget();
      refresh().catch(() => {});
    }
  }
  if (failed) toast(t("failed", { why: failed }));
  return mine.taken;
}

// Asks, and gives the text back where the server did not take it: nothing that was written is lost.
async function put(text, parent) {
  const taken = await write(`/api/conversations/${page.id}/messages`, { parent, content: text });
  if (!taken && !$("question").value) draft(text);
  return taken;
}

function arrived(record, mine) {
  mine.taken = true;
  page.messages.set(record.id, record);
  page.leaf = record.id;
  if (record.role === "assistant") mine.reply = record.id;
  show();
  toLatest();
}

function counted(mine, text) {
  const record = page.messages.get(mine.reply);
  if (!record) return;
  const first = !record.content;
  record.content += text;
  if (first) shownMessage(mine.reply)?.drawState();
}

function noticed(mine, notice) {
  const record = page.messages.get(mine.reply);
  if (!record) return;
  record.notice = notice;
  shownMessage(mine.reply)?.drawState();
}

function finished(record) {
  const before = shownMessage(record.id);
  page.messages.set(record.id, record);
  if (before) {
    before.flush();
    const drawn = before.blocks.size > 0 || !record.html;
    before.update(record, tree);
    if (!drawn || record.status === "blocked") before.content(); // what was held back is not left on the page
  }
  if (record.status === "interrupted") say(t("stopped"));
  else announce(record);
}

async function send(text) {
  if (page.running) return;
  try {
    if (!page.id) {
      const { model, system, sampling, context } = page.settings;
      take(await ask("/api/conversations", { method: "POST", body: { model, system, sampling, context } }));
      history.pushState(null, "", `#${page.id}`);
    }
    const titled = Boolean(page.title);
    draft("");
    if ((await put(text, page.leaf)) && !titled && page.id) await retitle(page.id);
  } catch (error) {
    draft(text); // nothing that was written is lost
    problem(error);
  }
}

async function retitle(id) {
  const found = await ask(`/api/conversations/${id}`);
  if (id !== page.id) return;
  page.title = found.title;
  show();
}

function draft(text) {
  $("question").value = text;
  remember("draft", text || null);
  grow($("question"));
}

const actions = {
  async branch(id) {
    if (page.running) return;
    try {
      take(await changed({ leaf: id }));
      show();
      budget();
    } catch (error) {
      problem(error);
    }
  },
  edit: (record, text) => !page.running && put(text, record.parent),
  regenerate: (record) => !page.running && write(`/api/conversations/${page.id}/messages/${record.id}/regenerate`, {}),
  look: (shown) => openLook(shown, path(), page.settings),
  async feedback(record, feedback) {
    await patch(record, { feedback });
  },
  async pin(record) {
    await patch(record, { pinned: !record.pinned });
    budget();
  },
  async fork(record) {
    try {
      const made = await ask(`/api/conversations/${page.id}/fork`, { method: "POST", body: { message: record.id } });
      await go(made.id);
      await refresh();
      toast(t("forked"));
    } catch (error) {
      problem(error);
    }
  },
  async remove(record) {
    if (!(await confirmed(t("delete-message"), t("delete")))) return;
    try {
      await ask(`/api/conversations/${page.id}/messages/${record.id}`, { method: "DELETE" });
      take(await ask(`/api/conversations/${page.id}`));
      show();
      budget();
    } catch (error) {
      problem(error);
    }
  },
};

async function changed(body) {
  await ask(`/api/conversations/${page.id}`, { method: "PATCH", body });
  return ask(`/api/conversations/${page.id}`);
}

async function patch(record, body) {
  try {
    await ask(`/api/conversations/${page.id}/messages/${record.id}`, { method: "PATCH", body });
    Object.assign(record, body);
    shownMessage(record.id)?.update(record, tree);
  } catch (error) {
    problem(error);
  }
}

async function stop() {
  const reply = page.running?.reply;
  if (reply) await ask(`/api/conversations/${page.id}/messages/${reply}/stop`, { method: "POST" }).catch(problem);
}

// --- keyboard -------------------------------------------------------------------------------------------------------

const mac = /Mac|iPhone|iPad/.test(navigator.platform);
const SHORTCUTS = [
  ["Enter", "s-send"],
  ["Shift Enter", "s-line"],
  ["/", "s-focus"],
  ["Mod K", "s-search"],
  ["Mod Shift O", "s-new"],
  ["Mod Shift S", "s-side"],
  ["Mod .", "s-settings"],
  ["Mod Shift Y", "s-copy"],
  ["Mod Shift I", "s-look"],
  ["↑", "s-edit"],
  ["← →", "s-tokens"],
  ["Mod Shift L", "s-theme"],
  ["Esc", "s-stop"],
  ["?", "s-help"],
];
const keyName = (key) => (key === "Mod" ? (mac ? "⌘" : "Ctrl") : key);

function help() {
  if (document.querySelector("dialog[open]")) return;
  const rows = SHORTCUTS.map(([keys, what]) =>
    el("div", {}, el("dt", {}, ...keys.split(" ").map((key) => el("kbd", {}, keyName(key)))), el("dd", {}, t(what))),
  );
  dialog(t("shortcuts"), el("dl", { class: "keys" }, ...rows), [el("button", { value: "", class: "primary" }, t("close"))], { wide: true });
}

const lastReply = () => path().findLast((record) => record.role === "assistant" && record.status !== "running");

function pressed(event) {
  if (event.defaultPrevented || composing(event)) return;
  const typing = event.target.matches("input, textarea, select");
  if (event.ctrlKey || event.metaKey) {
    const key = event.key.toLowerCase();
    const work = event.shiftKey
      ? { o: start, s: () => toggleSide(), y: () => lastReply() && copy(lastReply().content), l: nextTheme, i: () => lastReply() && actions.look(shownMessage(lastReply().id)) }[key]
      : { k: search, ".": toggleSettings }[key];
    if (!work || event.altKey) return;
    event.preventDefault();
    work();
  } else if (event.key === "Escape") escape();
  else if (!typing && event.key === "?") help();
  else if (!typing && event.key === "/") {
    event.preventDefault();
    $("question").focus();
  }
}

function escape() {
  if (document.querySelector("dialog[open]")) return; // closes by itself
  if (page.running) stop();
  else if (!$("look").hidden) closeLook();
  else if (!$("settings").hidden) toggleSettings();
  else if (isPhone()) toggleSide(false);
}

function search() {
  toggleSide(true);
  $("search").focus();
  $("search").select();
}

function asked(event) {
  event.preventDefault();
  const text = $("question").value.trim();
  if (text) send(text);
}

$("question").addEventListener("keydown", (event) => {
  if (composing(event)) return; // the Enter that chooses a Chinese word sends nothing
  if (event.key === "Enter" && !event.shiftKey) asked(event);
  else if (event.key === "ArrowUp" && !$("question").value) {
    const mine = path().findLast((record) => record.role === "user");
    if (mine && !page.running) {
      event.preventDefault();
      shownMessage(mine.id).edit();
    }
  }
});
$("question").addEventListener("input", () => {
  remember("draft", $("question").value || null);
  grow($("question"));
});
$("composer").addEventListener("submit", asked);
$("model").addEventListener("change", () => {
  page.settings.model = $("model").value;
  remember("settings", JSON.stringify(page.settings));
  saveSettings(page.settings);
  closeLook();
});
$("title").addEventListener("dblclick", () => page.id && rename(page.id, page.title).catch(problem));
addEventListener("keydown", pressed);
addEventListener("renamed", ({ detail }) => {
  if (detail.id !== page.id) return;
  page.title = detail.title;
  show();
});
addEventListener("popstate", arrive);
addEventListener("languagechange", () => {
  closeLook();
  ideas();
  if (!page.running) forget(); // what is being written keeps its blocks
  useSettings();
  show();
  budget();
});

// --- beginning ------------------------------------------------------------------------------------------------------

function ideas() {
  const buttons = t("ideas").map((text) => el("li", {}, el("button", { type: "button", onclick: () => send(text) }, text)));
  $("ideas").replaceChildren(...buttons);
}

function arrive() {
  const id = location.hash.slice(1);
  if (id && id !== page.id) go(id).catch((error) => (problem(error), start()));
  else if (!id) start();
}

async function load() {
  const [models] = await Promise.all([ask("/v1/models"), refresh(), loadPresets()]);
  page.models = models.data.map((model) => model.id);
  $("model").replaceChildren(...page.models.map((name) => el("option", { value: name }, name)));
  useSettings();
}

wire({
  new: start,
  side: () => toggleSide(),
  settings: toggleSettings,
  language: nextLanguage,
  theme: nextTheme,
  help,
  stop,
  latest: toLatest,
  export: () => exchange(page.id, async ([first]) => (await refresh(), first && go(first.id))),
  "copy-code": async (event) => {
    const button = event.target.closest("button");
    await copy(button.closest(".code").querySelector("pre").textContent);
    flash(button);
  },
});
startHistory({ go: (id) => go(id).catch(problem), gone: start });
onReturn(async () => {
  try {
    await load();
    if (!page.id && location.hash) arrive();
    else if (page.id && !page.running) await go(page.id, { keepFocus: true });
  } catch (error) {
    problem(error);
  }
});
ideas();
show();
draft(recall("draft") ?? "");
load().then(arrive).catch(problem);
