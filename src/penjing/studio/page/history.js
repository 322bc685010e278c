// The list of conversations: by day, searched as one types, renamed and deleted.
import { $, ask, confirmed, dialog, el, iconButton, problem, prompted } from "/studio/common.js";
import { language, t } from "/studio/words.js";

let known = [];
let more = false;
let query = "";
let open = { id: null, go: null, gone: null };
let turn = 0;

export function startHistory({ go, gone }) {
  open = { ...open, go, gone };
  let timer = null;
  $("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      query = $("search").value.trim();
      refresh().catch(problem);
    }, 180);
  });
  addEventListener("languagechange", list);
}

export function mark(id) {
  open.id = id;
  list();
}

export async function refresh() {
  const mine = ++turn;
  const found = await ask(`/api/conversations?limit=60${query ? `&query=${encodeURIComponent(query)}` : ""}`);
  if (mine !== turn) return; // an answer to an older question
  known = found.conversations;
  more = found.more;
  list();
}

async function older() {
  const found = await ask(`/api/conversations?limit=60&before=${known.at(-1).id}${query ? `&query=${encodeURIComponent(query)}` : ""}`);
  known.push(...found.conversations);
  more = found.more;
  list();
}

function group(updated) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const days = (midnight - updated * 1000) / 86_400_000;
  return days <= 0 ? "today" : days <= 1 ? "yesterday" : days <= 6 ? "week" : "older";
}

function list() {
  const parts = [];
  let last = null;
  for (const one of known) {
    const day = group(one.updated);
    if (day !== last) {
      parts.push(el("h3", { class: "day" }, t(day)), el("ul", {}));
      last = day;
    }
    parts.at(-1).append(row(one));
  }
  if (!known.length) parts.push(el("p", { class: "none" }, t(query ? "nothing" : "empty")));
  if (more) parts.push(el("button", { type: "button", class: "plain", onclick: () => older().catch(problem) }, t("more-list")));
  $("conversations").replaceChildren(...parts);
}

function row(one) {
  const title = one.title || t("untitled");
  const when = new Date(one.updated * 1000).toLocaleString(language() === "zh" ? "zh-CN" : "en");
  const link = el(
    "a",
    { href: `#${one.id}`, class: "conversation", title: when, "aria-current": one.id === open.id ? "page" : null },
    el("span", { class: "name" }, title),
    query && one.preview ? el("span", { class: "preview" }, one.preview) : null,
  );
  link.addEventListener("click", (event) => {
    event.preventDefault();
    open.go(one.id);
  });
  return el("li", {}, link, iconButton("more", t("options", { title }), () => options(one, title)));
}

async function options(one, title) {
  const choice = (value, text, look = "") => el("button", { value, class: look }, text);
  const chosen = await dialog(title, "", [choice("rename", t("rename")), choice("delete", t("delete"), "danger"), choice("", t("cancel"))]);
  try {
    if (chosen === "rename") await rename(one.id, one.title);
    if (chosen === "delete" && (await confirmed(t("delete-sure", { title }), t("delete")))) {
      await ask(`/api/conversations/${one.id}`, { method: "DELETE" });
      if (one.id === open.id) open.gone();
      await refresh();
    }
  } catch (error) {
    problem(error);
  }
}

export async function rename(id, before) {
  const title = await prompted(t("rename-title"), t("title-label"), before);
  if (title === null || !title.trim()) return;
  await ask(`/api/conversations/${id}`, { method: "PATCH", body: { title: title.trim() } });
  await refresh();
  dispatchEvent(new CustomEvent("renamed", { detail: { id, title: title.trim() } }));
}
