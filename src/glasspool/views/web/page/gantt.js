// Draws lanes of tasks on a canvas, and finds what is at a place of it. Knows nothing of pointers or of the
// document: `view` says what is in sight. Tasks below a pixel and a half are merged by pixel, so a frame costs
// no more than the canvas is wide and the tasks in sight are many.
"use strict";
const Gantt = (() => {
  const AXIS = 24;
  const NARROW = 1.5; // pixels below which tasks are merged
  const STEPS = [1, 2, 5];
  const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
  const MARK = 4; // height of the strip over what failed
  const inks = new Map();

  /** Black or white, whichever is read better on a colour given as #rrggbb. */
  function inkOn(colour) {
    let ink = inks.get(colour);
    if (!ink) {
      const [r, g, b] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
      ink = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2 ? "#111418" : "#ffffff";
      inks.set(colour, ink);
    }
    return ink;
  }

  const scaleOf = (view) => (view.width - view.gutter) / (view.t1 - view.t0);
  const xOf = (view, time) => view.gutter + (time - view.t0) * scaleOf(view);
  const timeAt = (view, x) => view.t0 + (x - view.gutter) / scaleOf(view);
  const laneAt = (view, y) => Math.floor((y - AXIS + view.top) / view.laneHeight);
  const yOf = (view, lane) => AXIS + lane * view.laneHeight - view.top;

  /** How wide the names of the lanes are. */
  function gutterOf(context, names, most) {
    context.font = FONT;
    const widths = names.map((name) => context.measureText(name).width);
    return Math.min(most, Math.ceil(Math.max(24, ...widths)) + 16);
  }

  function draw(context, view) {
    const theme = view.theme;
    context.clearRect(0, 0, view.width, view.height);
    context.font = FONT;
    context.textBaseline = "middle";
    const first = Math.max(0, laneAt(view, AXIS));
    const last = Math.min(view.lanes.length - 1, laneAt(view, view.height));
    drawGrid(context, view);
    context.save();
    context.beginPath();
    context.rect(view.gutter, AXIS, view.width - view.gutter, view.height - AXIS);
    context.clip();
    for (let at = first; at <= last; at++) drawLane(context, view, view.lanes[at], yOf(view, at));
    drawSelection(context, view);
    context.restore();
    drawNames(context, view, first, last);
    context.fillStyle = theme.line;
    context.fillRect(0, AXIS - 1, view.width, 1);
  }

  // The axis -------------------------------------------------------------------------------------------------

  /** The step of the axis, and how many figures of a second it needs. */
  function stepOf(view) {
    const least = ((view.t1 - view.t0) / Math.max(2, (view.width - view.gutter) / 110));
    if (least > 1) {
      const nice = [2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200].find((step) => step >= least);
      return [nice ?? Math.ceil(least / 3600) * 3600, 0];
    }
    const power = Math.floor(Math.log10(least));
    const step = STEPS.map((one) => one * 10 ** power).find((one) => one >= least) ?? 10 ** (power + 1);
    return [step, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
  }

  function drawGrid(context, view) {
    const [step, figures] = stepOf(view);
    const offset = view.toEpoch(0);
    // Ticks at round times of day; counted from the left edge, as fractions of large numbers are not exact.
    const begin = view.t0 + offset;
    const first = Math.ceil(begin / step) * step - begin;
    context.textAlign = "center";
    for (let at = first; at <= view.t1 - view.t0; at += step) {
      const x = Math.round(view.gutter + at * scaleOf(view)) + 0.5;
      context.fillStyle = view.theme.grid;
      context.fillRect(x - 0.5, AXIS, 1, view.height - AXIS);
      const text = Words.clock(begin + at, Math.min(6, figures));
      const half = context.measureText(text).width / 2;
      if (x + half > view.width || x - half < view.gutter - 20) continue;
      context.fillStyle = view.theme.quiet;
      context.fillText(text, x, AXIS / 2);
    }
  }

  function drawNames(context, view, first, last) {
    context.save();
    context.beginPath();
    context.rect(0, AXIS, view.gutter, view.height - AXIS);
    context.clip();
    context.textAlign = "right";
    for (let at = first; at <= last; at++) {
      const chosen = view.selected?.lane === at;
      context.fillStyle = chosen ? view.theme.accent : view.theme.quiet;
      context.fillText(view.lanes[at].name, view.gutter - 8, yOf(view, at) + view.laneHeight / 2, view.gutter - 12);
    }
    context.restore();
  }

  // The tasks ------------------------------------------------------------------------------------------------

  function drawLane(context, view, shown, y) {
    const gap = view.laneHeight > 10 ? 3 : 1;
    const top = y + Math.ceil(gap / 2);
    const height = view.laneHeight - gap;
    context.fillStyle = view.theme.idle;
    context.fillRect(view.gutter, top, view.width - view.gutter, height);
    for (const span of shown.initializers) drawInitializer(context, view, span, top, height);
    if (shown.lane) drawTasks(context, view, shown.lane, top, height);
    if (shown.running) drawRunning(context, view, shown.running, top, height);
    for (const death of shown.deaths) drawDeath(context, view, death, y);
  }

  function drawTasks(context, view, lane, top, height) {
    const { begun, ended, fn, status, size } = lane;
    const scale = scaleOf(view);
    const merged = { x: -1, filled: 0, bad: false, sums: view.sums, touched: [] };
    for (let at = lane.reaching(view.t0); at < size && begun[at] < view.t1; at++) {
      const x = view.gutter + (begun[at] - view.t0) * scale;
      const width = (ended[at] - begun[at]) * scale;
      if (width >= NARROW) {
        flush(context, view, merged, top, height);
        drawTask(context, view, lane, at, x, width, top, height);
        continue;
      }
      const pixel = Math.floor(x);
      if (pixel !== merged.x) flush(context, view, merged, top, height);
      merged.x = pixel;
      if (!merged.sums[fn[at]]) merged.touched.push(fn[at]);
      merged.sums[fn[at]] += width + 1e-9;
      merged.filled += width;
      merged.bad ||= status[at] > 0;
    }
    flush(context, view, merged, top, height);
  }

  /** Draw a pixel's worth of short tasks, in the colour of the function that took most of it. */
  function flush(context, view, merged, top, height) {
    if (!merged.touched.length) return;
    let most = merged.touched[0];
    for (const fn of merged.touched) if (merged.sums[fn] > merged.sums[most]) most = fn;
    for (const fn of merged.touched) merged.sums[fn] = 0;
    context.fillStyle = view.colours[most];
    context.globalAlpha = 0.4 + 0.6 * Math.min(1, merged.filled);
    context.fillRect(merged.x, top, 1, height);
    context.globalAlpha = 1;
    if (merged.bad) {
      context.fillStyle = view.theme.bad;
      context.fillRect(merged.x - 0.5, top, 2, MARK);
    }
    merged.touched.length = 0;
    merged.filled = 0;
    merged.bad = false;
  }

  function drawTask(context, view, lane, at, x, width, top, height) {
    const colour = view.colours[lane.fn[at]];
    const left = Math.max(view.gutter - 2, x);
    const wide = Math.min(view.width + 2, x + width) - left;
    const drawn = wide > 4 ? wide - 1 : wide;
    context.fillStyle = colour;
    context.fillRect(left, top, drawn, height);
    if (lane.status[at] > 0) drawFailure(context, view, left, drawn, top, height);
    else if (wide > 44 && height >= 13) drawText(context, Lanes.functions[lane.fn[at]], colour, left, wide, top, height);
  }

  /** Mark what failed by a strip and a cross: a colour alone is not seen by everybody. */
  function drawFailure(context, view, left, width, top, height) {
    context.fillStyle = view.theme.bad;
    context.fillRect(left, top, Math.max(2, width), MARK);
    if (width < 9 || height < 13) return;
    const middle = left + Math.min(width, view.width - left) / 2;
    context.fillRect(middle - 6, top, 12, height);
    context.fillStyle = view.theme.card;
    context.textAlign = "center";
    context.fillText("✕", middle, top + height / 2 + 0.5);
  }

  function drawText(context, text, colour, left, wide, top, height) {
    const room = Math.floor((wide - 8) / 6.2); // about the width of a letter
    context.fillStyle = inkOn(colour);
    context.textAlign = "left";
    context.fillText(Words.cut(text, Math.max(2, room)), left + 4, top + height / 2 + 0.5, wide - 6);
  }

  function drawRunning(context, view, running, top, height) {
    const x = Math.max(view.gutter - 2, xOf(view, running.begun));
    const end = Math.min(view.width, xOf(view, view.now));
    const colour = view.colourOf(running.function);
    if (end <= x) return;
    context.globalAlpha = 0.55;
    context.fillStyle = colour;
    context.fillRect(x, top, end - x, height);
    context.globalAlpha = 1;
    context.strokeStyle = colour;
    context.strokeRect(x + 0.5, top + 0.5, Math.max(0, end - x - 1), height - 1);
    if (end - x > 44 && height >= 13) {
      const far = running.task.progress ? Words.progress(...running.task.progress) : "…";
      drawText(context, `${running.function} ${far}`, view.isDark ? "#000000" : "#ffffff", x, end - x, top, height);
    }
  }

  function drawInitializer(context, view, span, top, height) {
    const x = xOf(view, span.begun);
    const width = (span.ended - span.begun) * scaleOf(view);
    if (width < 0.5) return;
    context.fillStyle = view.theme.quiet;
    context.globalAlpha = 0.45;
    context.fillRect(x, top + height / 4, width, height / 2);
    context.globalAlpha = 1;
  }

  function drawDeath(context, view, death, y) {
    const x = xOf(view, death.at);
    if (death.begun !== null) {
      const left = xOf(view, death.begun);
      context.globalAlpha = 0.3;
      context.fillStyle = view.theme.bad;
      context.fillRect(left, y + 2, x - left, view.laneHeight - 4);
      context.globalAlpha = 1;
    }
    context.fillStyle = view.theme.bad;
    context.fillRect(x - 1, y, 2, view.laneHeight);
    context.beginPath();
    context.moveTo(x - 5, y);
    context.lineTo(x + 5, y);
    context.lineTo(x, y + 7);
    context.fill();
  }

  function drawSelection(context, view) {
    const { selected, pointer } = view;
    if (pointer !== null && pointer > view.gutter) {
      context.fillStyle = view.theme.quiet;
      context.globalAlpha = 0.5;
      context.fillRect(Math.round(pointer), AXIS, 1, view.height - AXIS);
      context.globalAlpha = 1;
    }
    if (!selected || selected.begun === null) return;
    const x = xOf(view, selected.begun);
    const width = Math.max(3, (selected.ended - selected.begun) * scaleOf(view));
    context.strokeStyle = view.theme.text;
    context.lineWidth = 2;
    context.strokeRect(x - 1, yOf(view, selected.lane) + 1, width + 1, view.laneHeight - 2);
    context.lineWidth = 1;
  }

  // What is where --------------------------------------------------------------------------------------------

  /** The places of the tasks of a lane that touch a time, give or take some of it; at most `most`. */
  function touching(lane, time, slack, most = 5000) {
    const found = [];
    let misses = 0;
    for (let at = lane.from(time + slack) - 1; at >= 0 && misses < 4 && found.length < most; at--) {
      if (lane.ended[at] >= time - slack) found.push(at);
      else misses++;
    }
    return found;
  }

  return Object.freeze({ AXIS, draw, gutterOf, timeAt, laneAt, yOf, xOf, scaleOf, touching });
})();
