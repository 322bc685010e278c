// A look inside a reply: its tokens, what else was possible at each, and where the model looked as it wrote one.
import { $, Refused, ask, el, iconButton, number, problem } from "/studio/common.js";
import { t } from "/studio/words.js";

const MOST_BITS = 10; // the strongest colour: one possibility in 1,024
let view = null;

export async function openLook(shown, path, settings) {
  const again = view?.shown === shown;
  closeLook();
  if (again) return;
  const mine = { shown, model: settings.model, messages: conversation(shown.record, path, settings), colour: "surprise", chosen: null, layer: null, head: null };
  view = mine;
  pressed(shown, true);
  try {
    const found = await ask("/api/look", { method: "POST", body: { model: mine.model, messages: mine.messages } });
    if (view !== mine) return;
    Object.assign(mine, found);
    mine.layer = found.layers - 1;
    begin();
  } catch (error) {
    if (view === mine) closeLook();
    problem(error);
  }
}

export function closeLook() {
  if (!view) return;
  const { shown, field } = view;
  view = null;
  if (field) field.replaceWith(shown.body);
  pressed(shown, false);
  $("look").hidden = true;
  $("look").replaceChildren();
}

const pressed = (shown, on) => shown.foot.querySelector(".look-button")?.setAttribute("aria-pressed", String(on));

// What the model was told: as far as the reply, without messages that have no text.
function conversation(record, path, settings) {
  const until = path.slice(0, path.findIndex((one) => one.id === record.id) + 1);
  const said = until.filter((one) => one.content).map(({ role, content }) => ({ role, content }));
  return settings.system ? [{ role: "system", content: settings.system }, ...said] : said;
}

// Text of a token as it is shown: line ends and spaces can be seen, and still break lines.
const visible = (text) => (text.replace(/\n/g, "⏎\n") || "·");
const named = (text) => text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "·";

function begin() {
  const spans = view.tokens.map((token, place) =>
    el("span", { class: "token", role: "option", id: `token-${place}`, "aria-selected": "false" }, visible(token.text)),
  );
  view.field = el("div", { class: "tokens", role: "listbox", tabindex: "0", "aria-label": t("tokens"), "aria-orientation": "horizontal" }, ...spans);
  view.field.addEventListener("click", (event) => {
    const span = event.target.closest(".token");
    if (span) choose(spans.indexOf(span));
  });
  view.field.addEventListener("keydown", (event) => {
    const last = spans.length - 1;
    const now = view.chosen ?? -1;
    const next = { ArrowRight: Math.min(now + 1, last), ArrowLeft: Math.max(now - 1, 0), Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    choose(next);
  });
  view.shown.body.replaceWith(view.field);
  panel();
  colour();
  view.field.scrollIntoView({ block: "nearest" });
  view.field.focus({ preventScroll: true });
}

function panel() {
  const mean = view.tokens.reduce((sum, token) => sum + token.surprise, 0) / Math.max(view.tokens.length, 1);
  const summary = t("look-summary", { n: number(view.tokens.length, 0), bits: number(mean, 2), one: number(2 ** mean, 1) });
  const choices = ["surprise", "uncertainty", "attention"].map((name) => {
    const input = el("input", { type: "radio", name: "colour", value: name, checked: name === view.colour });
    input.addEventListener("change", () => {
      view.colour = name;
      colour();
    });
    return el("label", {}, input, el("span", {}, t(name)));
  });
  const scale = el("div", { class: "scale", "aria-hidden": "true" }, el("span", {}, "0"), el("i"), el("span", { id: "scale-end" }));
  view.token = el("section", { class: "chosen", "aria-live": "polite" }, el("p", { class: "hint" }, t("look-hint")));
  view.heads = el("section", { class: "heads" });
  $("look").replaceChildren(
    el("div", { class: "panel-head" }, el("h2", {}, t("look")), iconButton("close", t("look-close"), closeLook)),
    el("p", { class: "hint" }, summary),
    el("fieldset", { class: "radios" }, el("legend", {}, t("colour")), ...choices),
    scale,
    view.token,
    view.heads,
  );
  $("look").hidden = false;
}

function heat(node, share) {
  node.style.setProperty("--heat", Math.max(0, Math.min(1, share)).toFixed(3));
}

function colour() {
  const spans = view.field.children;
  const weights = view.colour === "attention" ? weightsNow() : null;
  const most = weights ? Math.max(...weights, 1e-9) : 0;
  view.tokens.forEach((token, place) => {
    const share = weights ? (weights[token.place] ?? 0) / most : token[view.colour === "attention" ? "surprise" : view.colour] / MOST_BITS;
    heat(spans[place], view.colour === "attention" && !weights ? 0 : share);
  });
  const end = weights ? most.toFixed(2) : view.colour === "attention" ? "" : `≥ ${MOST_BITS} ${t("bits")}`;
  $("scale-end").textContent = end;
}

const percent = (share) => (share >= 0.9995 ? "100 %" : share < 0.0005 ? "< 0.1 %" : `${number(100 * share, 1)} %`);

function choose(place) {
  const before = view.field.querySelector('[aria-selected="true"]');
  before?.setAttribute("aria-selected", "false");
  const span = view.field.children[place];
  span.setAttribute("aria-selected", "true");
  view.field.setAttribute("aria-activedescendant", span.id);
  span.scrollIntoView({ block: "nearest" });
  view.chosen = place;
  const token = view.tokens[place];
  const rows = token.top.map((other) => row(other, other.id === token.id));
  if (!token.top.some((other) => other.id === token.id)) rows.push(row(token, true));
  view.token.replaceChildren(
    el("h3", { class: "token-name" }, el("code", {}, named(token.text))),
    el("p", { class: "hint" }, t("token-facts", { p: token.probability.toPrecision(3), bits: number(token.surprise, 2), entropy: number(token.uncertainty, 2), rank: number(token.rank + 1, 0) })),
    el("h4", {}, t("alternatives")),
    el("ol", { class: "alternatives" }, ...rows),
  );
  attend();
}

function row(other, chosen) {
  const bar = el("i", { class: "bar" });
  heat(bar, other.probability);
  return el(
    "li",
    { class: chosen ? "is-chosen" : "", "data-probability": String(other.probability) },
    el("code", {}, named(other.text)),
    bar,
    el("span", { class: "percent" }, percent(other.probability)),
    chosen ? el("span", { class: "hidden" }, t("chosen")) : null,
  );
}

// The attention of the place before the token: what is there is all that its probability was made from.
async function attend() {
  const mine = view;
  const place = mine.tokens[mine.chosen].place - 1;
  const layer = mine.layer;
  try {
    const found = await ask("/api/look/attention", { method: "POST", body: { model: mine.model, messages: mine.messages, place, layer } });
    if (view !== mine || mine.layer !== layer || mine.tokens[mine.chosen].place - 1 !== place) return;
    mine.attending = found;
    if (mine.head !== null && mine.head >= found.weights.length) mine.head = null;
    heads();
    if (mine.colour === "attention") colour();
  } catch (error) {
    mine.attending = null;
    if (error instanceof Refused) mine.heads.replaceChildren(el("p", { class: "hint" }, error.message));
    else problem(error);
  }
}

function weightsNow() {
  if (!view.attending) return null;
  const { weights } = view.attending;
  if (view.head !== null) return weights[view.head];
  return weights[0].map((_, key) => weights.reduce((sum, head) => sum + head[key], 0) / weights.length);
}

function heads() {
  const { sharpest, text } = view.attending;
  const body = sharpest.map((row, layer) => {
    const of = el("button", { type: "button", class: "plain", "aria-pressed": String(layer === view.layer && view.head === null), onclick: () => pick(layer, null) }, t("layer-n", { n: layer + 1 }));
    const cells = row.map((share, head) => {
      const label = `${t("layer-n", { n: layer + 1 })}, ${t("head-n", { n: head + 1 })}: ${share.toFixed(2)}`;
      const cell = el("button", { type: "button", class: "cell", title: label, "aria-label": label, "aria-pressed": String(layer === view.layer && head === view.head), onclick: () => pick(layer, head) });
      heat(cell, share);
      return el("td", {}, cell);
    });
    return el("tr", {}, el("th", { scope: "row" }, row.length ? of : t("layer-n", { n: layer + 1 })), ...cells);
  });
  const weights = weightsNow();
  const most = Math.max(...weights, 1e-9);
  const spans = text.map((one, key) => {
    const span = el("span", { title: `${named(one)} ${weights[key].toFixed(4)}`, "data-weight": String(weights[key]) }, visible(one));
    heat(span, weights[key] / most);
    return span;
  });
  const which = `${t("layer-n", { n: view.layer + 1 })}, ${view.head === null ? t("head-mean") : t("head-n", { n: view.head + 1 })}`;
  const seen = el("div", { class: "attended", role: "group", tabindex: "0", "aria-label": t("attention-caption") }, ...spans);
  const focused = document.activeElement?.closest?.(".heads") ? document.activeElement.getAttribute("aria-label") : null;
  view.heads.replaceChildren(
    el("h4", {}, t("heads-caption")),
    el("div", { class: "grid-frame", tabindex: "0", role: "group", "aria-label": t("heads-caption") }, el("table", { class: "grid" }, el("tbody", {}, ...body))),
    el("h4", {}, `${t("attention-caption")} · ${which}`),
    seen,
  );
  if (focused) [...view.heads.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focused)?.focus();
  const best = spans[weights.indexOf(Math.max(...weights))];
  seen.scrollTop = Math.max(0, best.offsetTop - seen.offsetTop - seen.clientHeight / 2);
}

function pick(layer, head) {
  const same = layer === view.layer;
  Object.assign(view, { layer, head });
  if (!same) return attend();
  heads();
  if (view.colour === "attention") colour();
}
