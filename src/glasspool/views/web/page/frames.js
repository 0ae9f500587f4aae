// When something is drawn. Parts of the page say that they have changed; they are drawn together, at most once
// per frame and only in a tab that is in view. Those that are scrolled out of view are drawn when they come into
// view, and now and then before, so that what is above does not grow under the reader's eyes.
"use strict";
const Frames = (() => {
  const OUT_OF_VIEW_MS = 4000;
  const parts = new Map();
  let asked = false;
  let everything = false; // for print: also what is out of view

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const part = parts.get(entry.target.id);
      part.inView = entry.isIntersecting;
    }
    ask();
  }, { rootMargin: "100px" });

  /** Register a part by the id of its element. */
  function add(id, draw) {
    parts.set(id, { draw, inView: false, stale: true, drawnAt: -Infinity });
    observer.observe(Elements.byId(id));
  }

  /** Say that parts have to be drawn anew; all of them if none is named. */
  function changed(...ids) {
    for (const id of ids.length ? ids : parts.keys()) parts.get(id).stale = true;
    ask();
  }

  function ask() {
    if (asked || document.hidden) return;
    asked = true;
    requestAnimationFrame(drawAll);
  }

  function drawAll() {
    asked = false;
    const now = performance.now();
    for (const part of parts.values()) {
      const isDue = part.inView || everything || now - part.drawnAt > OUT_OF_VIEW_MS;
      if (!part.stale || !isDue) continue;
      part.stale = false;
      part.drawnAt = now;
      try {
        part.draw();
      } catch (error) {
        reportError(error); // one part that fails must not keep the others from being drawn
      }
    }
  }

  const isInView = (id) => !document.hidden && parts.get(id).inView;

  document.addEventListener("visibilitychange", ask);
  window.addEventListener("beforeprint", () => {
    everything = true;
    changed();
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    everything = false;
    changed();
  });

  return Object.freeze({ add, changed, isInView, isForPrint: () => everything });
})();
