// The flame graph of the sampled stacks. Sampling is switched on by a button and lasts while the page asks for
// its results. Calls are buttons: a click zooms, keys reach them, and a mark is found by a word.
"use strict";
const Flame = (() => {
  const { byId, make, setText } = Elements;
  const EVERY_MS = 1000;
  const ROW = 21;
  const LEAST = 2.5; // pixels: narrower calls are left out
  const MOST = 1500; // elements
  let sampling = false;
  let told = null;
  let zoomed = []; // names from the root to what fills the width
  let shows = "";

  function take(answer) {
    told = answer;
    Frames.changed("flame");
  }

  async function toggle() {
    const on = !sampling;
    try {
      await Feed.ask("api/sampling", { post: { on } });
      setSampling(on);
    } catch (error) {
      setText(byId("flame-told"), `It could not be switched: ${error.message}`);
    }
  }

  function setSampling(on) {
    sampling = on;
    byId("flame-sample").setAttribute("aria-pressed", String(on));
    setText(byId("flame-sample"), on ? "Stop sampling" : "Sample stacks");
    Frames.changed("flame");
  }

  /** The call that was zoomed to, or as far towards it as there still is. */
  function zoomedNode() {
    let node = told.root;
    const above = [];
    for (const name of zoomed) {
      const next = node.children.find((child) => child.name === name);
      if (!next) break;
      above.push(node);
      node = next;
    }
    return { node, above };
  }

  function draw() {
    const samples = told?.samples ?? 0;
    const state = sampling ? "sampling twice a second" : samples ? "stopped" : "";
    setText(byId("flame-told"), [samples ? Words.many(samples, "sample") : "", state].filter(Boolean).join(" · "));
    byId("flame-reset").hidden = !zoomed.length;
    const graph = byId("flame-graph");
    if (!samples) {
      graph.style.height = "auto";
      shows = "";
      graph.replaceChildren(make("p", { class: "empty", text: sampling ? "Waiting for the first sample …" : "Samples the stacks of all threads twice a second while it is on: wide calls take much time." }));
      return;
    }
    const mark = byId("flame-search").value.toLowerCase();
    const now = `${JSON.stringify(told)}|${zoomed}|${mark}|${graph.clientWidth}|${Palette.isDark()}`;
    if (now === shows) return;
    shows = now;
    rebuild(graph, mark);
  }

  function rebuild(graph, mark) {
    const focused = document.activeElement?.dataset?.path;
    const { node, above } = zoomedNode();
    const width = graph.clientWidth;
    const calls = [];
    above.forEach((one, depth) => calls.push({ node: one, path: zoomed.slice(0, depth), x: 0, width, depth, dim: true }));
    place(node, zoomed.slice(0, above.length), 0, width, above.length, calls);
    calls.length = Math.min(calls.length, MOST);
    const depth = Math.max(...calls.map((call) => call.depth)) + 1;
    graph.style.height = `${depth * ROW}px`;
    graph.replaceChildren(...calls.map((call) => element(call, mark, width)));
    if (focused) [...graph.children].find((child) => child.dataset.path === focused)?.focus({ preventScroll: true });
  }

  /** Lay a call and what it calls out, level by level, so that a limit cuts the deepest. */
  function place(root, path, x, width, depth, calls) {
    let level = [{ node: root, path, x, width, depth }];
    while (level.length && calls.length < MOST) {
      calls.push(...level);
      const next = [];
      for (const call of level) {
        let left = call.x;
        const children = [...call.node.children].sort((a, b) => (a.name < b.name ? -1 : 1));
        for (const child of children) {
          const wide = call.node.value ? (call.width * child.value) / call.node.value : 0;
          if (wide >= LEAST) next.push({ node: child, path: [...call.path, child.name], x: left, width: wide, depth: call.depth + 1 });
          left += wide;
        }
      }
      level = next;
    }
  }

  function element(call, mark, whole) {
    const { node } = call;
    const part = node.value / told.root.value;
    const label = `${node.name}, ${Words.count(node.value)} of ${Words.count(told.root.value)} (${(100 * part).toFixed(1)} %)`;
    const button = make("button", { type: "button", class: "call-box", title: label, "aria-label": label,
      data: { path: JSON.stringify(call.path) }, on: { click: () => zoomTo(call.path) } }, ...shortly(node.name));
    button.style.left = `${(100 * call.x) / whole}%`;
    button.style.width = `${(100 * call.width) / whole}%`;
    button.style.top = `${call.depth * ROW}px`;
    button.style.background = Palette.flame(node.name.replace(/^.*\(|:\d+\)?$/g, ""));
    if (call.dim) button.classList.add("dim");
    if (mark && node.name.toLowerCase().includes(mark)) button.classList.add("marked");
    return button;
  }

  /** Split "function (file)" into the function and the last part of its file's path. */
  function shortly(name) {
    const found = name.match(/^(.*) \((.*)\)$/);
    return found ? [found[1], make("span", { class: "call-file", text: ` ${found[2].split("/").at(-1)}` })] : [name];
  }

  function zoomTo(path) {
    zoomed = path;
    Frames.changed("flame");
  }

  function begin() {
    byId("flame-sample").addEventListener("click", toggle);
    byId("flame-reset").addEventListener("click", () => zoomTo([]));
    byId("flame-search").addEventListener("input", () => Frames.changed("flame"));
    new ResizeObserver(() => Frames.changed("flame")).observe(byId("flame-graph"));
    Frames.add("flame", draw);
    // Asked for also when out of view, for that keeps the sampling alive.
    setInterval(async () => {
      if (!sampling || Store.connection() !== "live") return;
      try {
        take(await Feed.ask("api/flame"));
      } catch {
        // The stream of events tells what is wrong.
      }
    }, EVERY_MS);
    Store.onChange(({ first }) => {
      if (first && Store.state()?.sampling) setSampling(true);
      if (sampling && Store.connection() === "past") setSampling(false);
    });
  }

  return Object.freeze({ begin });
})();
