// The server's HTML on the page: safe already, changed as little as possible, with a bar above each piece of code.
import { el, symbol } from "/studio/common.js";
import { t } from "/studio/words.js";

function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = html; // cleaned by the server; and the page's policy lets no script run that is written into it
  for (const pre of template.content.querySelectorAll("pre")) {
    const bar = el(
      "div",
      { class: "code-bar" },
      el("span", {}, pre.dataset.language || "text"),
      el("button", { type: "button", class: "icon", "data-do": "copy-code", title: t("copy-code"), "aria-label": t("copy-code") }, symbol("copy")),
    );
    const frame = el("div", { class: "code" });
    pre.replaceWith(frame);
    frame.append(bar, pre);
  }
  for (const scrolled of template.content.querySelectorAll("pre, .table, div.formula")) {
    scrolled.setAttribute("role", "group"); // it takes the keyboard's focus, so it needs a name
    scrolled.setAttribute("aria-label", scrolled.matches("pre") ? scrolled.dataset.language || "code" : scrolled.className);
  }
  return template.content;
}

export const draw = (node, html) => node.replaceChildren(parsed(html));

// Makes `node` look like `html`, keeping every element that stays as it is: a selection in it survives.
export const redraw = (node, html) => become(node, parsed(html));

function become(old, now) {
  const wanted = [...now.childNodes];
  for (let place = 0; place < wanted.length; place++) {
    const was = old.childNodes[place];
    const next = wanted[place];
    if (!was) old.append(next);
    else if (was.isEqualNode(next)) continue;
    else if (was.nodeType === Node.TEXT_NODE && next.nodeType === Node.TEXT_NODE) was.data = next.data;
    else if (was.nodeType === Node.ELEMENT_NODE && was.cloneNode().isEqualNode(next.cloneNode())) become(was, next);
    else was.replaceWith(next);
  }
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}
