// What happened over the last ten minutes: finished tasks per second, how many waited and ran. Small line charts
// with the value under the pointer; the server's history is asked for while they are in view.
"use strict";
const Charts = (() => {
  const { byId, make, setText } = Elements;
  const EVERY_MS = 1000;
  const HEIGHT = 150;
  const PAD = { left: 46, right: 10, top: 10, bottom: 22 };
  const CHARTS = [
    { name: "throughput", title: "Throughput", lines: [{ of: "done", title: "done", colour: "accent", filled: true }, { of: "failed", title: "failed", colour: "bad", dashed: true }], say: Words.rate, isRate: true },
    { name: "waiting", title: "Waiting", lines: [{ of: "waiting", title: "waiting", colour: "warn", filled: true }], say: Words.count },
    { name: "running", title: "Running", lines: [{ of: "running", title: "running", colour: "good", filled: true }], say: Words.count },
  ];
  const drawn = [];

  /** Sum a series over the chosen pools, by second; the last value is of the second that is not over yet. */
  function series(name, { isRate = false } = {}) {
    const history = Store.history();
    if (!history) return [];
    const chosen = Store.chosen();
    const all = Object.entries(history.pools).filter(([key]) => chosen === null || key === chosen).map(([, pool]) => pool[name] ?? []);
    const length = Math.max(0, ...all.map((values) => values.length));
    const sums = new Array(length).fill(null);
    for (const values of all) {
      const shift = length - values.length; // a pool that is younger than the others
      values.forEach((value, at) => {
        if (value !== null) sums[at + shift] = (sums[at + shift] ?? 0) + value;
      });
    }
    if (isRate && length && Store.connection() !== "past") sums[length - 1] = null; // counted in part only
    return sums;
  }

  function build(chart) {
    const canvas = make("canvas", { role: "img", "aria-label": chart.title });
    const now = make("span", { class: "chart-now" });
    const card = make("figure", { class: "card chart", id: `chart-${chart.name}` },
      make("figcaption", {}, make("h2", { text: chart.title }), now), canvas);
    byId("charts").append(card);
    const one = { chart, canvas, context: canvas.getContext("2d"), now, pointer: null, values: [] };
    canvas.addEventListener("pointermove", (event) => point(one, event.offsetX, event));
    canvas.addEventListener("pointerleave", () => point(one, null, null));
    new ResizeObserver(() => Frames.changed("charts")).observe(card);
    drawn.push(one);
  }

  function niceTop(value) {
    if (value <= 1) return 1;
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 2.5, 5, 10].map((step) => step * power).find((top) => top >= value && (top >= 10 || Number.isInteger(top))) ?? 10 * power;
  }

  function short(value) {
    if (value >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
    return value >= 1e4 ? `${+(value / 1e3).toFixed(1)}k` : Words.count(value);
  }

  function draw() {
    if (!Store.history()) return;
    const theme = Palette.themed();
    for (const one of drawn) drawChart(one, theme);
  }

  function drawChart(one, theme) {
    const { canvas, context, chart } = one;
    const width = canvas.parentElement.clientWidth - 24;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = HEIGHT * ratio;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${HEIGHT}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    one.values = chart.lines.map((line) => series(line.of, chart));
    const every = Store.history()?.every_s ?? 1;
    // At least a minute, at most all there is: a program that is young shall not hide in a corner.
    const first = one.values[0].findIndex((value) => value !== null);
    const length = Math.max(60 / every, one.values[0].length - Math.max(0, first));
    const top = niceTop(Math.max(1, ...one.values.flatMap((values) => values.slice(-length).map((value) => value ?? 0))));
    const plot = { left: PAD.left, top: PAD.top, width: width - PAD.left - PAD.right, height: HEIGHT - PAD.top - PAD.bottom, length, every };
    one.plot = plot;
    drawAxes(context, theme, plot, top);
    chart.lines.forEach((line, at) => drawLine(context, theme, plot, top, line, one.values[at].slice(-length)));
    if (one.pointer !== null) drawPointer(one, context, theme);
    tellNow(one);
  }

  function drawAxes(context, theme, plot, top) {
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const part of [0, 0.5, 1]) {
      const y = Math.round(plot.top + plot.height * (1 - part)) + 0.5;
      context.fillStyle = theme.grid;
      context.fillRect(plot.left, y - 0.5, plot.width, 1);
      context.fillStyle = theme.quiet;
      if (part !== 0.5 || Number.isInteger(top / 2)) context.fillText(short(top * part), plot.left - 8, y);
    }
    const seconds = plot.length * plot.every;
    const step = [10, 15, 30, 60, 120, 300].find((one) => seconds / one <= Math.max(2, plot.width / 90)) ?? 600;
    context.textAlign = "center";
    for (let ago = 0; ago <= seconds; ago += step) {
      const x = plot.left + plot.width * (1 - ago / seconds);
      context.textAlign = ago === 0 ? "right" : x < plot.left + 20 ? "left" : "center";
      context.fillText(agoOf(ago, step), x, plot.top + plot.height + 13);
    }
  }

  function agoOf(seconds, step) {
    if (seconds === 0) return Store.connection() === "past" ? "end" : "now";
    return seconds < 120 && step < 60 ? `−${seconds} s` : `−${+(seconds / 60).toFixed(1)} min`;
  }

  const xOf = (plot, at) => plot.left + (plot.width * (at + 1)) / plot.length;

  function drawLine(context, theme, plot, top, line, values) {
    const shift = plot.length - values.length;
    const y = (value) => plot.top + plot.height * (1 - value / top);
    context.strokeStyle = context.fillStyle = theme[line.colour];
    context.lineWidth = 1.6;
    context.setLineDash(line.dashed ? [4, 3] : []);
    let begun = null; // a gap in what is known is a gap in the line
    const path = new Path2D();
    const area = new Path2D();
    values.forEach((value, at) => {
      if (value === null) {
        if (begun !== null) close(area, begun, xOf(plot, at - 1 + shift), plot);
        begun = null;
        return;
      }
      const x = xOf(plot, at + shift);
      if (begun === null) {
        begun = x;
        path.moveTo(x, y(value));
        area.moveTo(x, plot.top + plot.height);
      } else path.lineTo(x, y(value));
      area.lineTo(x, y(value));
    });
    if (begun !== null) close(area, begun, plot.left + plot.width, plot);
    if (line.filled) {
      context.globalAlpha = 0.16;
      context.fill(area);
      context.globalAlpha = 1;
    }
    context.stroke(path);
    context.setLineDash([]);
    context.lineWidth = 1;
  }

  function close(area, begun, x, plot) {
    area.lineTo(x, plot.top + plot.height);
    area.lineTo(begun, plot.top + plot.height);
    area.closePath();
  }

  function tellNow(one) {
    const told = one.chart.lines.map((line, at) => {
      const value = one.values[at].findLast(Words.isKnown);
      return `${one.chart.lines.length > 1 ? `${line.title} ` : ""}${one.chart.say(value)}`;
    });
    setText(one.now, told.join(" · "));
    Elements.setAttribute(one.canvas, "aria-label", `${one.chart.title}, now ${told.join(", ")}`);
  }

  // The value under the pointer ------------------------------------------------------------------------------

  function point(one, x, event) {
    one.pointer = x;
    if (x === null) Tip.hide();
    else one.client = [event.clientX, event.clientY];
    Frames.changed("charts");
  }

  function drawPointer(one, context, theme) {
    const { plot } = one;
    const at = Math.round(((one.pointer - plot.left) / plot.width) * plot.length) - 1;
    const ago = plot.length - 1 - at;
    if (at < 0 || ago < 0) return Tip.hide();
    context.fillStyle = theme.quiet;
    context.fillRect(Math.round(xOf(plot, at)), plot.top, 1, plot.height);
    const pairs = one.chart.lines.map((line, number) => [line.title, one.chart.say(one.values[number].at(-1 - ago))]);
    const told = Store.history().now_ns / 1e9 - ago * plot.every;
    Tip.show([["at", Words.clock(Store.toEpoch(told))], ...pairs], ...one.client);
  }

  function begin() {
    CHARTS.forEach(build);
    Frames.add("charts", draw);
    Feed.poll("charts", EVERY_MS, "api/history", Store.takeHistory);
  }

  return Object.freeze({ begin });
})();
