// The task stream: which part of it is in view, how it is moved by pointer, wheel, touch, keys and buttons, and
// what is told of the task under the pointer. Follows the present until it is moved.
"use strict";
const Stream = (() => {
  const { byId, make, setText } = Elements;
  const SPAN = 30;
  const YOUNG_SPAN = 5;
  const LEAST_SPAN = 20e-6;
  const MOST_HEIGHT = 460;
  const IN_LEGEND = 12;
  let canvas, context, scroller;
  let view = null; // as it was drawn last
  let span = SPAN;
  let isChosen = false; // whether somebody chose the span, or it grows with the program
  let end = null; // seconds; null: follows the present
  let only = null; // a function that is shown alone
  let pointer = null;
  let selected = null; // {lane, at: place in the lane, begun, ended}
  const pointers = new Map(); // pressed pointers by id, for drag and pinch
  let moved = 0;
  let lastTap = 0;
  let legendShows = "";

  const present = () => (Store.connection() === "past" ? Math.max(Lanes.newest(), 0) || Store.now() : Store.now());
  const rightEdge = () => (end === null ? present() + span * 0.02 : end);

  // What is shown --------------------------------------------------------------------------------------------

  function draw() {
    if (!Store.state()) return tellEmpty("Waiting for the first picture …");
    const lanes = Marks.lanes(scroller.clientWidth < 600);
    const laneHeight = lanes.length <= 12 ? 26 : lanes.length <= 24 ? 20 : 14;
    const whole = Gantt.AXIS + lanes.length * laneHeight + 2;
    const height = Frames.isForPrint() ? Math.min(whole, 900) : Math.min(whole, MOST_HEIGHT);
    byId("stream-space").style.height = `${whole}px`;
    scroller.style.height = `${height}px`;
    const width = scroller.clientWidth;
    sizeCanvas(width, height);
    if (!isChosen) span = Math.min(SPAN, Math.max(YOUNG_SPAN, (present() - firstMoment(lanes)) * 1.05));
    const t1 = rightEdge();
    const gutter = Gantt.gutterOf(context, lanes.map((lane) => lane.name), Math.min(170, width / 3));
    view = {
      t0: t1 - span, t1, width, height, top: scroller.scrollTop, gutter, laneHeight, lanes, selected, pointer,
      now: present(), theme: Palette.themed(), toEpoch: Store.toEpoch, isDark: Palette.isDark(),
      sums: new Float64Array(Lanes.functions.length),
      colourOf: (name) => (only === null || only === name ? Palette.colour(name) : Palette.themed().line),
    };
    view.colours = Lanes.functions.map(view.colourOf);
    Gantt.draw(context, view);
    drawTold(lanes);
    drawLegend();
    if (pointer !== null && !pointers.size) showTip();
  }

  /** When the first of what is shown happened: a young program shall not hide in a corner. */
  function firstMoment(lanes) {
    const begins = lanes.flatMap((lane) => [...lane.initializers, ...(lane.running ? [lane.running] : [])].map((one) => one.begun));
    return Math.min(Lanes.oldest(), present(), ...begins);
  }

  function sizeCanvas(width, height) {
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  function drawTold(lanes) {
    const facts = [`${Words.duration(span)} in view`, `${Words.many(Lanes.total(), "finished task")} kept`];
    if (Store.lost()) facts.push(`${Words.count(Store.lost())} more ended unseen: too fast, or while nobody looked`);
    setText(byId("stream-told"), facts.join(" · "));
    byId("stream-told").classList.toggle("told-warn", Store.lost() > 0);
    byId("stream-follow").setAttribute("aria-pressed", String(end === null));
    Elements.setAttribute(canvas, "aria-label", `Task stream of ${Words.many(lanes.length, "worker")}, ${facts.join(", ")}`);
    const empty = !Lanes.total() && lanes.every((lane) => !lane.running && !lane.deaths.length);
    tellEmpty(empty ? "No task has finished yet." : "");
  }

  function tellEmpty(text) {
    byId("stream-empty").hidden = !text;
    setText(byId("stream-empty"), text);
  }

  function drawLegend() {
    const present = Lanes.functions.map((name, fn) => [name, Lanes.counts[fn]]).filter(([, count]) => count > 0);
    const most = [...present].sort((a, b) => b[1] - a[1]).slice(0, IN_LEGEND).map(([name]) => name);
    const names = present.map(([name]) => name).filter((name) => most.includes(name));
    const shows = JSON.stringify([names, only, Palette.isDark(), present.length]);
    if (shows === legendShows) return;
    legendShows = shows;
    const items = names.map((name) => {
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = Palette.colour(name);
      return make("button", { type: "button", class: "legend-item", title: name, "aria-pressed": String(only === name),
        on: { click: () => isolate(name) } }, swatch, Words.cut(name, 40));
    });
    const rest = present.length - names.length;
    if (rest > 0) items.push(make("span", { class: "quiet", text: `and ${Words.many(rest, "more function")}` }));
    if (names.length) items.push(make("span", { class: "legend-sign quiet" }, make("span", { class: "swatch swatch-bad", text: "✕" }), "failed or lost"));
    byId("stream-legend").replaceChildren(...items);
  }

  function isolate(name) {
    only = only === name ? null : name;
    Frames.changed("stream");
  }

  // Moving ---------------------------------------------------------------------------------------------------

  /** Look at a part; what is too short, or beyond what is kept, is not to be had. */
  function lookAt(begin, until) {
    isChosen = true;
    const newest = present();
    const kept = Math.max(SPAN, newest - Math.min(Lanes.oldest(), newest)) * 1.05;
    span = Math.min(kept, Math.max(LEAST_SPAN, until - begin));
    const middle = (begin + until) / 2;
    end = Math.min(Math.max(middle + span / 2, newest - kept + span), newest + span * 0.5);
    Frames.changed("stream");
  }

  function pan(seconds) {
    const right = rightEdge() + seconds;
    lookAt(right - span, right);
  }

  /** Zoom round a time that stays where it is; while the present is followed, that is the present. */
  function zoom(factor, anchor = null) {
    if (end === null && anchor === null) {
      isChosen = true;
      const kept = Math.max(SPAN, present() - Math.min(Lanes.oldest(), present())) * 1.05;
      span = Math.min(kept, Math.max(LEAST_SPAN, span * factor));
      Frames.changed("stream");
      return;
    }
    const right = rightEdge();
    const round = anchor ?? right - span / 2;
    lookAt(round - (round - (right - span)) * factor, round + (right - round) * factor);
  }

  function all() {
    const newest = present();
    const oldest = Math.min(Lanes.oldest(), newest - 1e-3);
    lookAt(oldest - (newest - oldest) * 0.01, newest + (newest - oldest) * 0.02);
  }

  function follow() {
    end = null;
    selected = null;
    isChosen = isChosen && span > 0.5;
    Frames.changed("stream");
  }

  /** Show one task, with some of what was before and after it. */
  function show(pool, slot, begun, ended) {
    const length = Math.max(ended - begun, 1e-4);
    lookAt(begun - length, ended + length);
    const lane = Marks.lanes(false).findIndex((one) => one.pool === pool && one.slot === slot);
    if (lane >= 0) {
      selected = { lane, at: -1, begun, ended };
      const height = view?.laneHeight ?? 20;
      scroller.scrollTop = Math.max(0, lane * height - scroller.clientHeight / 2);
    }
    byId("stream").scrollIntoView({ block: "start", behavior: "auto" });
    canvas.focus({ preventScroll: true });
  }

  // Pointer, wheel, touch ------------------------------------------------------------------------------------

  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  function press(event) {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, placeOf(event));
    moved = 0;
    try {
      canvas.setPointerCapture(event.pointerId);
    } catch {
      // The pointer is gone already, as that of a synthetic event.
    }
  }

  function move(event) {
    const place = placeOf(event);
    const before = pointers.get(event.pointerId);
    pointer = place[0];
    Stream.row = place[1];
    if (before && view) {
      const scale = Gantt.scaleOf(view);
      const others = [...pointers].filter(([id]) => id !== event.pointerId);
      if (others.length) pinch(before, place, others[0][1]);
      else if (moved + Math.abs(place[0] - before[0]) > 3) pan((before[0] - place[0]) / scale);
      moved += Math.abs(place[0] - before[0]);
      pointers.set(event.pointerId, place);
      hideTip();
    }
    Frames.changed("stream");
  }

  function pinch(before, now, other) {
    const old = Math.max(10, Math.abs(before[0] - other[0]));
    const apart = Math.max(10, Math.abs(now[0] - other[0]));
    zoom(old / apart, Gantt.timeAt(view, (now[0] + other[0]) / 2));
  }

  function release(event) {
    const pressed = pointers.delete(event.pointerId);
    if (!pressed || moved > 3 || !view) return;
    const [x, y] = placeOf(event);
    const now = performance.now();
    if (now - lastTap < 350) zoom(0.4, Gantt.timeAt(view, x));
    lastTap = now;
    select(x, y);
  }

  function leave() {
    pointer = null;
    hideTip();
    Frames.changed("stream");
  }

  function wheel(event) {
    if (!view) return;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.008), end === null ? null : Gantt.timeAt(view, placeOf(event)[0]));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan((event.deltaX || event.deltaY) / Gantt.scaleOf(view));
    }
  }

  // Keys -----------------------------------------------------------------------------------------------------

  const KEYS = {
    ArrowLeft: () => pan(-span / 8),
    ArrowRight: () => pan(span / 8),
    ArrowUp: () => chooseLane(-1),
    ArrowDown: () => chooseLane(1),
    "+": () => zoom(0.6),
    "=": () => zoom(0.6),
    "-": () => zoom(1 / 0.6),
    Home: all,
    End: follow,
    n: () => step(1),
    p: () => step(-1),
  };

  function press_key(event) {
    const action = KEYS[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }

  function chooseLane(by) {
    if (!view?.lanes.length) return;
    const lane = Math.max(0, Math.min(view.lanes.length - 1, (selected?.lane ?? (by > 0 ? -1 : view.lanes.length)) + by));
    selected = { lane, at: -1, begun: null, ended: null };
    const top = lane * view.laneHeight;
    if (top < scroller.scrollTop || top + view.laneHeight > scroller.scrollTop + scroller.clientHeight - Gantt.AXIS) {
      scroller.scrollTop = Math.max(0, top - scroller.clientHeight / 2);
    }
    say(`${view.lanes[lane].name}, ${Words.many(view.lanes[lane].lane?.size ?? 0, "task")}`);
    Frames.changed("stream");
  }

  /** Go to the next or previous task of the chosen worker, and say it. */
  function step(by) {
    if (!selected) chooseLane(1);
    const lane = view?.lanes[selected?.lane]?.lane;
    if (!lane?.size) return;
    let at;
    if (selected.begun === null) at = by > 0 ? lane.from(view.t0) : lane.from(view.t1) - 1;
    else at = lane.from(selected.begun) + by;
    at = Math.max(0, Math.min(lane.size - 1, at));
    selected = { lane: selected.lane, at, begun: lane.begun[at], ended: lane.ended[at] };
    if (selected.begun < view.t0 || selected.ended > view.t1 || end === null) {
      const middle = (selected.begun + selected.ended) / 2;
      lookAt(middle - span / 2, middle + span / 2);
    }
    say(tellTask(view.lanes[selected.lane], at).map((pair) => pair.join(" ")).join(", "));
    Frames.changed("stream");
  }

  const say = (text) => setText(byId("stream-said"), text);

  // What is told of a task -----------------------------------------------------------------------------------

  function tellTask(shown, at) {
    const { lane } = shown;
    return [
      ["function", Lanes.functions[lane.fn[at]]],
      ["task", String(lane.task[at])],
      ["status", Lanes.STATUS[lane.status[at]]],
      ["worker", `${shown.name}${Number.isNaN(lane.pid[at]) ? "" : ` (pid ${lane.pid[at]})`}`],
      ["began", Words.clock(Store.toEpoch(lane.begun[at]), 3)],
      ["took", Words.duration(lane.ended[at] - lane.begun[at])],
      ...(Number.isNaN(lane.bytes[at]) ? [] : [["result", Words.size(lane.bytes[at])]]),
    ];
  }

  function tellMany(shown, places) {
    const { lane } = shown;
    const byFunction = new Map();
    let took = 0;
    let failed = 0;
    for (const at of places) {
      byFunction.set(lane.fn[at], (byFunction.get(lane.fn[at]) ?? 0) + 1);
      took += lane.ended[at] - lane.begun[at];
      failed += lane.status[at] > 0 ? 1 : 0;
    }
    const functions = [...byFunction].sort((a, b) => b[1] - a[1]).slice(0, 5);
    return [
      ["tasks", `${Words.count(places.length)} here; zoom in to see each`],
      ...functions.map(([fn, count]) => ["", `${Words.count(count)} × ${Words.cut(Lanes.functions[fn], 60)}`]),
      ["took", Words.duration(took)],
      ...(failed ? [["failed", Words.count(failed)]] : []),
    ];
  }

  /** What is at a place of the canvas: [pairs to tell, what to select] or null. */
  function at(x, y) {
    if (!view || x < view.gutter || y < Gantt.AXIS) return null;
    const number = Gantt.laneAt(view, y);
    const shown = view.lanes[number];
    if (!shown) return null;
    const time = Gantt.timeAt(view, x);
    const slack = 1.5 / Gantt.scaleOf(view);
    const death = shown.deaths.find((one) => Math.abs(one.at - time) < 3 * slack || (one.begun !== null && time >= one.begun && time <= one.at));
    if (death) return [[["worker", `${death.death.slot} (pid ${death.death.pid})`], ["died", death.death.cause], ["at", Words.clock(death.death.died_at, 3)], ["task", Words.task(death.death.task)]], null];
    const places = shown.lane ? Gantt.touching(shown.lane, time, slack) : [];
    if (places.length === 1) {
      const only = places[0];
      return [tellTask(shown, only), { lane: number, at: only, begun: shown.lane.begun[only], ended: shown.lane.ended[only] }];
    }
    if (places.length) return [tellMany(shown, places), { lane: number, at: -1, begun: null, ended: null }];
    const { running } = shown;
    if (running && time >= running.begun - slack && time <= view.now + slack) {
      return [[["running", Words.task(running.task)], ["worker", shown.name], ["for", Words.duration(view.now - running.begun)]], null];
    }
    return null;
  }

  function select(x, y) {
    const found = at(x, y);
    selected = found?.[1] ?? null;
    say(found ? found[0].map((pair) => pair.join(" ")).join(", ") : "");
    pointer = x;
    Stream.row = y;
    Frames.changed("stream");
  }

  function showTip() {
    const found = at(pointer, Stream.row);
    if (!found) return hideTip();
    const box = canvas.getBoundingClientRect();
    Tip.show(found[0], box.left + pointer, box.top + Stream.row);
  }

  const hideTip = () => Tip.hide();

  function begin() {
    canvas = byId("stream-canvas");
    context = canvas.getContext("2d");
    scroller = byId("stream-scroll");
    for (const [kind, listener] of [["pointerdown", press], ["pointermove", move], ["pointerup", release], ["pointerleave", leave],
      ["pointercancel", (event) => pointers.delete(event.pointerId)], ["keydown", press_key]]) canvas.addEventListener(kind, listener);
    canvas.addEventListener("wheel", wheel, { passive: false });
    scroller.addEventListener("scroll", () => Frames.changed("stream"), { passive: true });
    new ResizeObserver(() => Frames.changed("stream")).observe(scroller);
    const press_button = (id, action) => byId(id).addEventListener("click", action);
    press_button("stream-earlier", () => pan(-span / 4));
    press_button("stream-later", () => pan(span / 4));
    press_button("stream-in", () => zoom(0.5));
    press_button("stream-out", () => zoom(2));
    press_button("stream-all", all);
    press_button("stream-follow", follow);
    Frames.add("stream", draw);
  }

  /** What is in view, in seconds of the monotonic clock there. */
  const inView = () => ({ begin: rightEdge() - span, end: rightEdge(), follows: end === null });

  return { begin, show, inView, row: 0 };
})();
