// The only place where elements are made. Text goes in as text and never as HTML: names of functions, threads
// and programs may hold anything.
"use strict";
const Elements = (() => {
  const byId = (id) => document.getElementById(id);

  /**
   * Make an element. `properties`: class, text, on (listeners), data (data-*), and attributes by name; null
   * and false leave an attribute out. Children are elements or texts; null ones are left out.
   */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else if (name === "text") element.textContent = value;
      else if (name === "on") for (const [kind, listener] of Object.entries(value)) element.addEventListener(kind, listener);
      else if (name === "data") Object.assign(element.dataset, value);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  /** Change a text only where it differs, so that a page at rest lays nothing out. */
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function setAttribute(element, name, value) {
    if (value === null) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }

  /** Make a table for short lists. `rows` are lists of texts or elements; `numbers` are columns set right. */
  function table(caption, headings, rows, { numbers = [] } = {}) {
    const kind = (at) => (numbers.includes(at) ? "number" : "");
    return make("table", {},
      make("caption", { class: "unseen", text: caption }),
      make("thead", {}, make("tr", {},
        ...headings.map((text, at) => make("th", { scope: "col", class: kind(at), text })))),
      make("tbody", {}, ...rows.map((row) => make("tr", {},
        ...row.map((cell, at) => make("td", { class: kind(at), data: { label: headings[at] } }, cell))))));
  }

  /** List facts as terms and their descriptions; those without a description are left out. */
  function facts(pairs) {
    const list = make("dl", { class: "facts" });
    for (const [term, told] of pairs) {
      if (told === null || told === undefined || told === "") continue;
      list.append(make("dt", { text: term }), make("dd", {}, told));
    }
    return list;
  }

  /** List the calls of a stack, the innermost first. */
  function stack(frames) {
    return make("ol", { class: "stack" }, ...[...frames].reverse().map((frame) =>
      make("li", { title: `${frame.file}:${frame.line}` },
        make("span", { class: "call", text: frame.function }),
        make("span", { class: "quiet", text: frame.line ? `${Words.path(frame.file)}:${frame.line}` : Words.path(frame.file) }))));
  }

  return Object.freeze({ byId, make, setText, setAttribute, table, facts, stack });
})();
