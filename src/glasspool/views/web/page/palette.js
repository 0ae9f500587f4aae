// Colours: those of functions, which stay the same for as long as the page is open and can be told apart by the
// colour-blind (after Paul Tol's "bright" and "muted" schemes; red is kept for what failed), and those of the
// theme, for canvases.
"use strict";
const Palette = (() => {
  const LIGHT = ["#4477aa", "#dd9922", "#228833", "#aa4499", "#44aabb", "#887733", "#6655bb", "#bb8899"];
  const DARK = ["#6699cc", "#eeaa33", "#44aa66", "#cc77bb", "#66ccdd", "#bbaa55", "#9988ee", "#ddaabb"];
  const THEMES = ["auto", "light", "dark"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  const places = new Map(); // name of a function -> its place in the palette
  let theme = {};

  function hash(text) {
    let number = 2166136261;
    for (let at = 0; at < text.length; at++) number = Math.imul(number ^ text.charCodeAt(at), 16777619);
    return number >>> 0;
  }

  /** The place that its name gives a function, or the next free one; it depends on no data but the names. */
  function placeOf(name) {
    let place = places.get(name);
    if (place === undefined) {
      const taken = new Set([...places.values()]);
      place = hash(name) % LIGHT.length;
      for (let tries = 0; tries < LIGHT.length && taken.has(place); tries++) place = (place + 1) % LIGHT.length;
      places.set(name, place);
    }
    return place;
  }

  const chosen = () => document.documentElement.dataset.theme ?? "auto";
  const isDark = () => !Frames.isForPrint() && (chosen() === "auto" ? system.matches : chosen() === "dark");
  const colour = (name) => (isDark() ? DARK : LIGHT)[placeOf(name)];

  /** Any text's hue for the flame graph: warm, muted, the same for the same module. */
  function flame(text) {
    const number = hash(text);
    const hue = 15 + (number % 40);
    return isDark() ? `hsl(${hue} 45% ${30 + (number >> 8) % 8}%)` : `hsl(${hue} 80% ${74 + (number >> 8) % 10}%)`;
  }

  /** The theme's colours by the names of their CSS variables. */
  function themed() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(`--${name}`).trim();
    for (const name of ["text", "quiet", "line", "grid", "card", "accent", "good", "warn", "bad", "idle"]) theme[name] = read(name);
    return theme;
  }

  function choose(name) {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem("glasspool-theme", name);
    } catch {
      // Storage is forbidden: the choice holds until the page is closed.
    }
    tell();
  }

  function tell() {
    Elements.setText(Elements.byId("theme"), `Theme: ${chosen()}`);
    Frames.changed();
  }

  function begin() {
    Elements.byId("theme").addEventListener("click", () =>
      choose(THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length]));
    system.addEventListener("change", tell);
    tell();
  }

  return Object.freeze({ begin, colour, flame, themed, isDark });
})();
