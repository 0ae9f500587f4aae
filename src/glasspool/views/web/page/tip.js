// The small box beside the pointer that tells what is under it. One for the whole page.
"use strict";
const Tip = (() => {
  const { byId, make } = Elements;
  let shows = "";

  /** Show pairs of a term and what is told of it beside a point of the window. */
  function show(pairs, x, y) {
    const tip = byId("tip");
    const now = JSON.stringify(pairs);
    if (now !== shows) {
      shows = now;
      tip.replaceChildren(...pairs.flatMap(([term, told]) => [
        make("span", { class: "tip-term", text: term }), make("span", { class: "tip-told", text: Words.cut(told, 200) })]));
    }
    tip.hidden = false;
    const left = x + 14 + tip.offsetWidth > window.innerWidth ? Math.max(4, x - tip.offsetWidth - 10) : x + 14;
    const top = y + 14 + tip.offsetHeight > window.innerHeight ? Math.max(4, y - tip.offsetHeight - 10) : y + 14;
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }

  function hide() {
    byId("tip").hidden = true;
  }

  return Object.freeze({ show, hide });
})();
