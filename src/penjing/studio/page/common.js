// What both pages share: making elements, asking the server, dialogs, theme and language, and noticing its absence.
import { language, t, translate } from "/studio/words.js";

export const $ = (id) => document.getElementById(id);

// el("button", { class: "icon", onclick, "aria-label": "..." }, ...children); text is always text, never HTML.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function symbol(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `/studio/symbols.svg#${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export const iconButton = (name, label, onclick, more = {}) =>
  el("button", { type: "button", class: "icon", title: label, "aria-label": label, onclick, ...more }, symbol(name));

export const remember = (name, value) => {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // storage is switched off: the choice lasts as long as the page
  }
};

export const recall = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};

// --- the server ---------------------------------------------------------------------------------------------------

export class Away extends Error {} // no answer at all: the server is away
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function reply(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    away(true);
    throw new Away(t("away"));
  }
  if ([502, 503, 504].includes(response.status) && !response.headers.get("content-type")?.includes("json")) {
    away(true); // a proxy answers for a server that is down
    throw new Away(t("away"));
  }
  away(false);
  if (response.status === 401 && path !== "/api/session") {
    await askForKey();
    return reply(path, options);
  }
  if (!response.ok) throw new Refused(response.status, await whatWasWrong(response));
  return response;
}

async function whatWasWrong(response) {
  try {
    const body = await response.json();
    return body.error?.message ?? response.statusText;
  } catch {
    return response.statusText || `HTTP ${response.status}`;
  }
}

export async function ask(path, { method = "GET", body, raw, signal } = {}) {
  const options = { method, signal };
  if (raw !== undefined) options.body = raw;
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await reply(path, options);
  return response.headers.get("content-type")?.includes("json") ? response.json() : response;
}

// The events of a stream, as they come: { event, data }. A stream that breaks off says that the server is away.
export async function* events(path, { method = "POST", body, signal } = {}) {
  const response = await reply(path, {
    method,
    signal,
    headers: { Accept: "text/event-stream", "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        let event = "message";
        const data = [];
        for (const line of part.split(/\r?\n/)) {
          if (line.startsWith("event:")) event = line.slice(6).trim();
          else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        }
        if (data.length) yield { event, data: JSON.parse(data.join("\n")) };
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    away(true);
    throw new Away(t("away"));
  } finally {
    reader.cancel().catch(() => {});
  }
}

let isAway = false;
let waiting = null;
const returned = new Set();

// Runs whenever the server is back.
export const onReturn = (work) => returned.add(work);

export function away(now) {
  if (now === isAway) return;
  isAway = now;
  $("away").hidden = !now;
  document.body.classList.toggle("is-away", now);
  if (!now) {
    clearInterval(waiting);
    say(t("back"));
    for (const work of returned) work();
    return;
  }
  waiting = setInterval(lookForServer, 2500);
}

async function lookForServer() {
  try {
    const response = await fetch("/health", { cache: "no-store" });
    if (response.ok || response.status === 503) away(false);
  } catch {
    // still away
  }
}
addEventListener("offline", lookForServer);
addEventListener("online", lookForServer);

let asking = null; // one question for the key, however many requests wait for it
function askForKey() {
  asking ??= (async () => {
    for (let wrong = false; ; wrong = true) {
      const key = await prompted(t("key"), t("key-label"), "", { type: "password", note: wrong ? t("key-wrong") : "" });
      if (key === null) throw new Refused(401, t("key"));
      const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key }) };
      if ((await fetch("/api/session", options)).ok) return;
    }
  })().finally(() => (asking = null));
  return asking;
}

// --- telling and asking people ------------------------------------------------------------------------------------

export function say(text) {
  $("told").textContent = text; // read out by screen readers, not shown
}

let toastTimer = null;
export function toast(text) {
  const node = $("toast");
  node.textContent = text;
  node.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (node.hidden = true), 4500);
}

export function problem(error) {
  if (error.name === "AbortError" || error instanceof Away) return; // the banner says it
  if (!(error instanceof Refused)) console.error(error);
  toast(t("failed", { why: error.message }));
}

// A modal dialog around some content; resolves with what closed it.
export function dialog(title, content, buttons, { wide = false } = {}) {
  const name = `dialog-${Math.random().toString(36).slice(2)}`;
  const form = el("form", { method: "dialog" }, el("h2", { id: name }, title), content, el("div", { class: "buttons" }, ...buttons));
  const node = el("dialog", { class: wide ? "wide" : "", "aria-labelledby": name }, form);
  node.addEventListener("click", (event) => event.target === node && node.close("")); // outside
  document.body.append(node);
  node.showModal();
  return new Promise((resolve) =>
    node.addEventListener("close", () => {
      node.remove();
      resolve(node.returnValue);
    }),
  );
}

const button = (value, text, look = "") => el("button", { value, class: look }, text);

export const confirmed = async (text, action) =>
  (await dialog(text, "", [button("", t("cancel")), button("yes", action, "danger")])) === "yes";

export async function prompted(title, label, value = "", { type = "text", note = "" } = {}) {
  const input = el("input", { type, value, "aria-label": label, placeholder: label, autocomplete: "off" });
  input.value = value;
  const content = el("div", {}, note ? el("p", { class: "wrong", role: "alert" }, note) : "", input);
  requestAnimationFrame(() => input.select());
  // the first button of a form is what Enter presses: so the one that saves comes first in the DOM, last on the screen
  const chosen = await dialog(title, content, [button("yes", t("ok"), "primary"), el("button", { value: "", type: "submit", formnovalidate: true }, t("cancel"))]);
  return chosen === "yes" ? input.value : null;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = el("textarea", { class: "hidden" }); // plain http on a network: no clipboard there
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say(t("copied"));
}

// --- theme, language, the list at the side -------------------------------------------------------------------------

export function nextTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const order = dark ? ["auto", "light", "dark"] : ["auto", "dark", "light"];
  root.dataset.theme = order[(order.indexOf(root.dataset.theme) + 1) % 3];
  remember("theme", root.dataset.theme);
  say(t(`theme-${root.dataset.theme}`));
  dispatchEvent(new Event("themechange"));
}

export function nextLanguage() {
  document.documentElement.lang = language() === "zh" ? "en" : "zh";
  remember("language", document.documentElement.lang);
  translate();
  dispatchEvent(new Event("languagechange"));
}

export const isPhone = () => matchMedia("(max-width: 760px)").matches;

export function toggleSide(open) {
  const body = document.body;
  const name = isPhone() ? "side-open" : "side-closed";
  const now = open === undefined ? !body.classList.contains(name) : isPhone() === open;
  body.classList.toggle(name, now);
  $("veil").hidden = !body.classList.contains("side-open");
  const shown = isPhone() ? now : !now;
  $("history").inert = !shown;
  for (const toggle of document.querySelectorAll('[data-do="side"][aria-controls]')) toggle.setAttribute("aria-expanded", String(shown));
  if (!isPhone()) remember("side", shown ? null : "closed");
}

// Buttons say what they do by name; `actions` knows how.
export function wire(actions) {
  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-do]");
    if (target && actions[target.dataset.do]) actions[target.dataset.do](event);
  });
  translate();
  toggleSide(!isPhone() && recall("side") !== "closed");
  matchMedia("(max-width: 760px)").addEventListener("change", () => {
    document.body.classList.remove("side-open", "side-closed");
    toggleSide(!isPhone());
  });
  if ("serviceWorker" in navigator && isSecureContext) navigator.serviceWorker.register("/sw.js").catch(() => {});
}

export const number = (value, digits = 1) =>
  new Intl.NumberFormat(language() === "zh" ? "zh-CN" : "en", { maximumFractionDigits: digits }).format(value);
