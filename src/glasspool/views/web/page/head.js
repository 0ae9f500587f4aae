// The head of the page: which program, whether what is seen is live, which pool, and the totals as tiles. Also
// the table of pools, and what is told in a banner: that the program ended, or that the server is gone.
"use strict";
const Head = (() => {
  const { byId, make, setText, setAttribute } = Elements;
  const CONNECTIONS = {
    connecting: "connecting", live: "live", paused: "paused", lost: "connection lost", past: "past",
  };
  const TILES = [
    ["done", "Done"], ["rate", "Rate"], ["waiting", "Waiting"], ["running", "Running"],
    ["failed", "Failed"], ["left", "Time to go"], ["busy", "Workers busy"], ["deaths", "Deaths"],
  ];
  const tiles = new Map();
  let pickerShows = "";

  function buildTiles() {
    for (const [name, title] of TILES) {
      const value = make("span", { class: "tile-value", text: Words.UNKNOWN });
      const more = make("span", { class: "tile-more quiet" });
      const bar = name === "busy" ? make("progress", { max: 1, value: 0, "aria-hidden": true }) : null;
      const tile = make("div", { class: "tile", id: `tile-${name}`, data: { tile: name } },
        make("span", { class: "tile-title quiet", text: title }), value, bar, more);
      tiles.set(name, { tile, value, more, bar });
      byId("tiles").append(tile);
    }
  }

  function setTile(name, text, more = "", mood = "") {
    const tile = tiles.get(name);
    setText(tile.value, text);
    setText(tile.more, more);
    setAttribute(tile.tile, "data-mood", mood || null);
  }

  /** Say the counters that are not zero: lost 1 · timeout 2. */
  function others(names) {
    return names.map((name) => [name, Store.sum(name)]).filter(([, number]) => number > 0)
      .map(([name, number]) => `${Words.count(number)} ${name}`).join(" · ");
  }

  function drawTiles() {
    drawHead();
    if (!Store.state()) return;
    const paces = Store.paces();
    const past = Store.connection() === "past";
    const known = (field) => paces.map((pace) => pace[field]).filter(Words.isKnown);
    const rates = known("done_per_s");
    const lefts = known("left_s");
    const failed = Store.sum("failed");
    const deaths = Store.sum("deaths");
    const ended = others(["lost", "timeout", "cancelled"]);
    if (Store.isForeign()) drawForeign();
    else setTile("done", Words.count(Store.sum("done")), totalOf());
    setTile("rate", past || !rates.length ? Words.UNKNOWN : Words.rate(rates.reduce((a, b) => a + b, 0)), past ? "ended" : rates.length ? "over the last seconds" : "");
    setTile("waiting", Words.count(Store.sum("waiting")), others(["sent"]));
    if (!Store.isForeign()) setTile("running", Words.count(Store.sum("running")));
    setTile("failed", Words.count(failed), ended, failed > 0 || ended ? "bad" : "");
    setTile("left", past || !lefts.length ? Words.UNKNOWN : Words.duration(Math.max(...lefts)) || "0 s", lefts.length ? "at this pace" : "");
    setTile("deaths", Words.count(deaths), deaths ? others(["replaced"]) : deaths === 0 ? "of workers" : "", deaths ? "bad" : "");
    drawBusy(known("busy_share"));
  }

  /** What can be seen of pools that have no counters: what their workers do, and say that they did. */
  function drawForeign() {
    const workers = workersShown();
    setTile("done", Words.count(workers.reduce((all, worker) => all + worker.tasks_done, 0)), "by these workers");
    setTile("running", Words.count(workers.filter((worker) => worker.state === "busy").length));
  }

  const workersShown = () => Store.pools().flatMap((pool) => pool.processes.filter((process) => process.role === "worker"));

  function totalOf() {
    const submitted = Store.sum("submitted");
    return submitted === null ? "" : `of ${Words.count(submitted)}`;
  }

  function drawBusy(shares) {
    const workers = workersShown();
    const busy = Store.sum("busy") ?? workers.filter((worker) => worker.state === "busy").length;
    const all = Store.sum("workers") ?? workers.length;
    setTile("busy", `${Words.count(busy)} of ${Words.count(all)}`,
      shares.length ? `${Words.share(shares.reduce((a, b) => a + b, 0) / shares.length)} of their time` : "");
    tiles.get("busy").bar.value = all ? busy / all : 0;
  }

  // The program and the connection ---------------------------------------------------------------------------

  function drawHead() {
    const connection = Store.connection();
    const state = Store.state();
    setText(byId("connection"), CONNECTIONS[connection]);
    setAttribute(byId("connection"), "data-is", connection);
    byId("pause").disabled = Store.isOver();
    setAttribute(document.documentElement, "data-connection", connection);
    document.documentElement.classList.toggle("foreign", Store.isForeign());
    drawBanner(connection, state);
    if (!state) return;
    setText(byId("program"), programName(state));
    setAttribute(byId("program"), "title", programName(state));
    setText(byId("program-facts"), programFacts(state));
    document.title = `${connection === "past" ? "ended: " : ""}${Words.cut(programName(state), 60)} · glasspool`;
    drawPicker(state);
  }

  function programName(state) {
    const parent = state.pools[0]?.processes.find((process) => process.pid === state.pools[0].pid);
    const pids = new Set(state.pools.map((pool) => pool.pid));
    if (pids.size > 1) return Words.many(pids.size, "program");
    const madeIn = state.pools.find((pool) => pool.made_at)?.made_at.replace(/:\d+$/, "").split("/").at(-1);
    return state.command || parent?.command || madeIn || parent?.name || "no pool";
  }

  function programFacts(state) {
    const pids = [...new Set(state.pools.map((pool) => pool.pid))];
    const parent = state.pools[0]?.processes.find((process) => process.pid === state.pools[0].pid);
    const facts = [];
    if (pids.length) facts.push(`pid ${Words.cut(pids.join(", "), 60)}`);
    if (parent?.python_version) facts.push(`Python ${parent.python_version}`);
    if (pids.length === 1 && parent?.started_at) facts.push(`up ${Words.duration(state.taken_at - parent.started_at)}`);
    if (state.pools.length) facts.push(Words.many(state.pools.length, "pool"));
    return facts.join(" · ");
  }

  function drawBanner(connection, state) {
    const banner = byId("banner");
    const told = {
      past: pastOf(state),
      lost: `The connection to glasspool serve is lost${state ? `; this is the state of ${Words.clock(state.taken_at)}` : ""}. Trying again.`,
      paused: `Paused${state ? ` at ${Words.clock(state.taken_at)}` : ""}: the page stands still, the program does not.`,
    }[connection];
    banner.hidden = !told && !state?.problem;
    setText(banner, told ?? state?.text ?? "");
    setAttribute(banner, "data-is", told ? connection : "problem");
  }

  function pastOf(state) {
    const when = state ? `, at ${Words.clock(state.taken_at)}` : "";
    if (Store.isOver()) return `The program has ended${when}. This is its last state.`;
    return `Its pools have ended${when}: this is what was seen last. ${state?.text ?? ""}`;
  }

  function drawPicker(state) {
    const picker = byId("picker");
    const keys = state.pools.map(Store.poolKey);
    byId("picker-box").hidden = keys.length < 2;
    const shows = JSON.stringify([keys, Store.chosen()]);
    if (shows === pickerShows) return; // a list that is open must not be rebuilt
    pickerShows = shows;
    picker.replaceChildren(make("option", { value: "", text: `All ${keys.length} pools` }),
      ...keys.map((key, at) => make("option", { value: String(at), text: Words.cut(key, 40), title: key })));
    picker.value = Store.chosen() === null ? "" : String(keys.indexOf(Store.chosen()));
    picker.onchange = () => Store.choose(picker.value === "" ? null : keys[Number(picker.value)]);
  }

  // Pools ----------------------------------------------------------------------------------------------------

  function drawPools() {
    if (!Store.state()) return;
    const pools = Store.pools();
    const headings = ["Pool", "Kind", "State", "Workers", "Start", "Waiting", "Running", "Done", "Failed", "Deaths", "Made at"];
    const rows = pools.map((pool) => {
      const of = (name) => Words.count(pool.stats[name]);
      const workers = pool.processes.filter((process) => process.role === "worker").length;
      return [
        make("b", { text: Store.poolKey(pool) }), pool.kind, pool.state, String(workers), pool.start_method ?? Words.UNKNOWN,
        of("waiting"), of("running"), of("done"), of("failed"),
        of("deaths"), make("code", { text: pool.made_at ?? Words.UNKNOWN }),
      ];
    });
    byId("pools-table").replaceChildren(pools.length
      ? Elements.table("Pools", headings, rows, { numbers: [3, 5, 6, 7, 8, 9] })
      : make("p", { class: "empty", text: Store.state()?.text || "No pool is there to be seen." }));
    const notes = pools.flatMap((pool) => [
      ...pool.notes,
      ...(pool.initializer ? [`${Store.poolKey(pool)}: initializer ${pool.initializer}`] : []),
      ...(pool.forked_beside.length ? [`${Store.poolKey(pool)}: forked beside the threads ${pool.forked_beside.join(", ")}`] : []),
    ]);
    byId("pools-notes").replaceChildren(...notes.map((note) => make("li", { text: note })));
  }

  function begin() {
    buildTiles();
    byId("pause").addEventListener("click", () => {
      Feed.setPaused(!Feed.isPaused());
      byId("pause").setAttribute("aria-pressed", String(Feed.isPaused()));
      setText(byId("pause"), Feed.isPaused() ? "Go on" : "Pause");
    });
    Store.onChange(drawHead); // also while the tiles are out of view: the head always is in view
    Frames.add("tiles", drawTiles);
    Frames.add("pools", drawPools);
  }

  return Object.freeze({ begin });
})();
