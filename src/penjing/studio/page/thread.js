// The conversation in the middle: messages of the branch that is shown, and what can be done with each.
import { $, copy, el, iconButton, number, say } from "/studio/common.js";
import { draw, redraw } from "/studio/markup.js";
import { t } from "/studio/words.js";

const shown = new Map(); // id -> Shown

// A message on the page. It is drawn once, then only what changes in it.
class Shown {
  constructor(record, tree, actions) {
    this.actions = actions;
    this.pending = new Map(); // blocks that came since the last frame
    this.blocks = new Map();
    this.body = el("div", { class: record.role === "user" ? "said" : "prose" });
    this.calls = el("div", { class: "calls" });
    this.state = el("div", { class: "state" });
    this.foot = el("div", { class: "foot" });
    this.node = el("article", { class: `message ${record.role}`, "data-id": record.id }, this.calls, this.body, this.state, this.foot);
    this.update(record, tree);
    this.content();
  }

  content() {
    const { record, body } = this;
    if (record.role === "user") body.textContent = record.content;
    else draw(body, record.html || "");
  }

  update(record, tree) {
    this.record = record;
    this.tree = tree;
    const running = record.status === "running";
    this.node.classList.toggle("running", running);
    this.node.setAttribute("aria-label", record.role === "user" ? t("you") : t("assistant"));
    this.node.setAttribute("aria-busy", String(running));
    this.drawCalls();
    this.drawState();
    this.drawFoot();
  }

  // The blocks of a reply that is being written; drawn together, once a frame.
  block(index, html) {
    if (!this.pending.size) requestAnimationFrame(() => this.flush());
    this.pending.set(index, html);
  }

  flush() {
    if (!this.blocks.size && this.pending.size) this.body.replaceChildren();
    for (const [index, html] of [...this.pending].sort((one, other) => one[0] - other[0])) {
      let node = this.blocks.get(index);
      if (node) redraw(node, html);
      else {
        node = el("div", { class: "block" });
        draw(node, html);
        this.blocks.set(index, node);
        this.body.append(node);
      }
    }
    this.pending.clear();
  }

  tool(call) {
    const calls = this.record.tool_calls.filter((known) => known.id !== call.id);
    this.record.tool_calls = [...calls, call];
    this.drawCalls();
  }

  drawCalls() {
    const cards = (this.record.tool_calls ?? []).map((call) => {
      const given = typeof call.arguments === "string" ? call.arguments : JSON.stringify(call.arguments);
      const result = call.result === undefined || call.result === null ? "…" : String(call.result);
      return el("details", { class: "call" }, el("summary", {}, `${t("tool")} `, el("code", {}, `${call.name}(${given})`)), el("pre", { tabindex: "0" }, result));
    });
    this.calls.replaceChildren(...cards);
  }

  drawState() {
    const { record } = this;
    const lines = [];
    if (record.status === "running" && !record.content && !this.blocks.size)
      lines.push(el("p", { class: "dots" }, el("span", { class: "hidden" }, t("thinking")), el("i"), el("i"), el("i")));
    if (record.status === "interrupted")
      lines.push(el("p", { class: "note" }, record.error ? `${t("interrupted")}: ${record.error}` : t("interrupted")));
    if (record.notice) {
      const { action, reasons = [], help } = record.notice;
      const head = action === "block" || record.status === "blocked" ? t("blocked") : "";
      if (head || reasons.length) lines.push(el("p", { class: "note warn" }, [head, reasons.join("; ")].filter(Boolean).join(": ")));
      if (help) lines.push(el("p", { class: "help" }, help));
    } else if (record.status === "blocked") lines.push(el("p", { class: "note warn" }, t("blocked")));
    this.state.replaceChildren(...lines);
  }

  drawFoot() {
    const { record, tree, actions } = this;
    const parts = [];
    const brothers = tree.brothers(record);
    if (brothers.length > 1) {
      const place = brothers.findIndex((one) => one.id === record.id);
      const go = (step) => () => actions.branch(brothers[place + step].id);
      parts.push(
        el(
          "span",
          { class: "branches", role: "group", "aria-label": t("branch", { n: place + 1, of: brothers.length }) },
          iconButton("left", t("branch-before"), go(-1), { disabled: place === 0 }),
          el("span", { "aria-hidden": "true" }, `${place + 1}/${brothers.length}`),
          iconButton("right", t("branch-after"), go(1), { disabled: place === brothers.length - 1 }),
        ),
      );
    }
    if (record.status !== "running") {
      parts.push(iconButton("copy", t("copy"), (event) => this.copied(event.currentTarget)));
      if (record.role === "user") parts.push(iconButton("edit", t("edit"), () => this.edit(), { "data-edit": true }));
      else {
        parts.push(iconButton("again", t("again"), () => actions.regenerate(record)));
        parts.push(iconButton("look", t("look"), () => actions.look(this), { class: "icon look-button", "aria-pressed": "false" }));
        for (const [value, name, label] of [[1, "up-thumb", "good"], [-1, "down-thumb", "bad"]]) {
          const on = record.feedback === value;
          parts.push(iconButton(name, t(label), () => actions.feedback(record, on ? null : value), { "aria-pressed": String(on) }));
        }
      }
      parts.push(iconButton("pin", t("pin"), () => actions.pin(record), { "aria-pressed": String(Boolean(record.pinned)) }));
      parts.push(iconButton("fork", t("fork"), () => actions.fork(record)));
      parts.push(iconButton("trash", t("remove-message"), () => actions.remove(record)));
    }
    const { usage } = record;
    if (usage?.completion_tokens && usage.tokens_per_second) {
      const title = t("usage-title", { prompt: usage.prompt_tokens, cached: usage.cached_tokens ?? 0, completion: usage.completion_tokens });
      const text = t("speed", { rate: number(usage.tokens_per_second, 0), first: number(usage.first_token_seconds ?? 0, 2) });
      parts.push(el("span", { class: "usage", title }, text));
    }
    this.foot.replaceChildren(...parts);
  }

  async copied(button) {
    await copy(this.record.content);
    flash(button);
  }

  edit() {
    const field = el("textarea", { class: "edit", "aria-label": t("edit-label"), rows: "2" });
    field.value = this.record.content;
    const done = () => {
      box.replaceWith(this.body);
      this.foot.hidden = false;
      this.node.classList.remove("editing");
    };
    const send = () => {
      const text = field.value.trim();
      done();
      if (text) this.actions.edit(this.record, text);
    };
    const box = el(
      "form",
      { class: "edit-box", onsubmit: (event) => { event.preventDefault(); send(); } },
      field,
      el("div", { class: "buttons" }, el("button", { type: "submit", class: "primary" }, t("edit-send")), el("button", { type: "button", onclick: done }, t("cancel"))),
    );
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); done(); this.foot.querySelector("[data-edit]")?.focus(); }
      if (event.key === "Enter" && !event.shiftKey && !composing(event)) { event.preventDefault(); send(); }
    });
    this.body.replaceWith(box);
    this.foot.hidden = true;
    this.node.classList.add("editing");
    field.addEventListener("input", () => grow(field));
    grow(field);
    field.focus();
  }
}

export function flash(button) {
  const before = button.querySelector("use").getAttribute("href");
  button.querySelector("use").setAttribute("href", "/studio/symbols.svg#done");
  setTimeout(() => button.querySelector("use").setAttribute("href", before), 1500);
}

// Whether a key belongs to an input method, which is putting together a word: Enter then chooses it and sends nothing.
// Safari ends the composition before the key that ended it is told of; 229 is how it still says so.
export const composing = (event) => event.isComposing || event.keyCode === 229;

export function grow(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, innerHeight * 0.4)}px`;
}

// Shows a branch: messages that are there already stay as they are.
export function showPath(path, tree, actions) {
  const thread = $("thread");
  const nodes = path.map((record) => {
    const known = shown.get(record.id);
    if (known) {
      known.update(record, tree);
      return known.node;
    }
    const made = new Shown(record, tree, actions);
    shown.set(record.id, made);
    return made.node;
  });
  nodes.forEach((node, place) => {
    if (thread.children[place] !== node) thread.insertBefore(node, thread.children[place] ?? null);
  });
  while (thread.children.length > nodes.length) thread.lastChild.remove();
  $("welcome").hidden = nodes.length > 0;
}

export function forget() {
  shown.clear();
  $("thread").replaceChildren();
}

export const shownMessage = (id) => shown.get(id);

// --- scrolling ------------------------------------------------------------------------------------------------------

// The view stays at the end while a reply grows, unless the reader has moved away from it.
const scroller = $("scroller");
let following = true;
let placed = 0;
const distance = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;

scroller.addEventListener(
  "scroll",
  () => {
    const up = scroller.scrollTop < placed - 2; // the reader's doing: the page itself only scrolls down
    if (up && distance() > 4) following = false;
    else if (distance() < 40) following = true;
    placed = scroller.scrollTop;
    $("latest").hidden = following || distance() < 120;
  },
  { passive: true },
);

export function toLatest() {
  following = true;
  scroller.scrollTop = scroller.scrollHeight;
  placed = scroller.scrollTop;
  $("latest").hidden = true;
}

new ResizeObserver(() => {
  if (following) toLatest();
  else $("latest").hidden = distance() < 120;
}).observe($("thread"));
new ResizeObserver(() => following && toLatest()).observe(scroller);

export const announce = (record) => say(t("answered", { text: record.content.slice(0, 500) }));
