// What has to happen before the first paint: the chosen theme, and that the basic form does not flash by.
// If the page's scripts fail before they have begun, the basic form is shown after all.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  try {
    const theme = localStorage.getItem("glasspool-theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch {
    // Storage is forbidden: the system's theme holds.
  }
  window.addEventListener("error", () => {
    if (!root.classList.contains("begun")) root.classList.remove("scripted");
  });
})();
