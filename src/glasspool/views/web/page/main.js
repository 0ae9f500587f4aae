// Begins the page: from here on the basic form is replaced.
"use strict";
(() => {
  Palette.begin();
  Inspector.begin();
  for (const part of [Head, Stream, Charts, Threads, Slowest, Deaths, Flame]) part.begin();
  Elements.byId("basic").remove();
  document.documentElement.classList.add("begun");
  Feed.begin();
})();
