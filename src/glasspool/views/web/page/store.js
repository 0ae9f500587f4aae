// What the page knows: the last state of the pools, the connection, the chosen pool, the clock of the watched
// machine. The feed writes here; the parts of the page read, and are told by Frames when to.
"use strict";
const Store = (() => {
  const INGEST = 4000; // records that are taken in at once: a first load of 100,000 must not freeze the page
  let state = null; // as /api/snapshot tells it
  let history = null;
  let connection = "connecting"; // live, paused, lost, past
  let chosen = null; // key of a pool; null: all
  let lost = 0; // finished tasks that nobody could read in time
  let clock = { now: 0, at: 0 }; // seconds of the monotonic clock there, and performance.now() here
  let wall = null; // seconds since the epoch minus monotonic seconds
  let known = new Set(); // deaths that have been told
  const listeners = [];
  const shares = new Map(); // "pid:tid" -> [cpu_s, taken_at, part of a processor]

  const poolKey = (pool) => pool.key ?? pool.name;

  /** Set the clock; the time of day comes with states only. */
  function takeClock(nowNs, wallNs = null) {
    if (!Words.isKnown(nowNs)) return;
    clock = { now: nowNs / 1e9, at: performance.now() };
    if (Words.isKnown(wallNs)) wall = wallNs / 1e9;
  }

  /** The picture is a little older than the clock's word: of several guesses the largest is the best. */
  function guessedWall(told) {
    if (told.past || !Words.isKnown(told.now_ns)) return null;
    return Math.max(told.taken_at * 1e9 - told.now_ns, (wall ?? -Infinity) * 1e9);
  }

  function takeState(told) {
    const first = state === null;
    state = told;
    takeClock(told.now_ns, told.wall_ns ?? guessedWall(told));
    measureShares(told);
    if (chosen !== null && !told.pools.some((pool) => poolKey(pool) === chosen)) chosen = null;
    const fresh = newDeaths(told);
    if (told.past) setConnection("past");
    else if (connection !== "paused") setConnection("live");
    for (const listener of listeners) listener({ first, fresh });
    Frames.changed("tiles", "threads", "stream", "deaths", "pools");
  }

  function deathKey(death) {
    return `${death.pool}|${death.pid}|${death.died_at}`;
  }

  function newDeaths(told) {
    const fresh = [];
    for (const pool of told.pools) {
      for (const death of pool.deaths) {
        if (!known.has(deathKey(death))) fresh.push(death);
        known.add(deathKey(death));
      }
    }
    return fresh;
  }

  /** How much of a processor each thread used between two states: the pool itself only counts seconds. */
  function measureShares(told) {
    for (const pool of told.pools) {
      for (const process of pool.processes) {
        for (const thread of process.threads) measureShare(thread, told.taken_at);
      }
    }
  }

  /** Processes of two nodes may have the same number. */
  const keyOfThread = (thread) => `${thread.node ?? ""}:${thread.pid}:${thread.native_id}`;

  function measureShare(thread, takenAt) {
    if (!Words.isKnown(thread.cpu_s)) return;
    const key = keyOfThread(thread);
    const before = shares.get(key);
    if (before && takenAt - before[1] < 0.9) return; // too short for the kernel's clock ticks
    const part = before ? Math.max(0, (thread.cpu_s - before[0]) / (takenAt - before[1])) : null;
    shares.set(key, [thread.cpu_s, takenAt, part]);
  }

  /**
   * Take records in, a part at a time, so that the page stays alive meanwhile. `isWhole`: what is told as lost
   * is all that ever was, and not what has been since the last time.
   */
  async function takeRecords(told, { isWhole = false } = {}) {
    takeClock(told.now_ns);
    lost = told.lost + (isWhole ? 0 : lost);
    const records = told.records;
    for (let at = 0; at < records.length; at += INGEST) {
      if (at) await new Promise((resolve) => setTimeout(resolve, 0));
      const end = Math.min(records.length, at + INGEST);
      for (let one = at; one < end; one++) Lanes.take(records[one]);
    }
    if (records.length || connection === "live") Frames.changed("stream");
  }

  function takeHistory(told) {
    history = told;
    Frames.changed("charts");
  }

  function setConnection(is) {
    if (isOver() && is !== "past") return; // what has ended cannot be lost, or paused
    if (connection === is) return;
    connection = is;
    Frames.changed();
    for (const listener of listeners) listener({ connection: is, fresh: [] });
  }

  /** Whether the program has ended for good: a past without that is one of pools that have ended. */
  const isOver = () => connection === "past" && state?.problem === "gone";

  function choose(key) {
    chosen = key;
    Frames.changed();
  }

  /** Seconds of the monotonic clock there, now; it stands still when nothing is followed. */
  function now() {
    return clock.now + (connection === "live" ? (performance.now() - clock.at) / 1000 : 0);
  }

  const pools = () => (state ? state.pools.filter((pool) => chosen === null || poolKey(pool) === chosen) : []);

  /** Sum a counter over the chosen pools; null where no pool tells it. */
  function sum(counter) {
    let total = null;
    for (const pool of pools()) {
      const value = pool.stats[counter];
      if (Words.isKnown(value)) total = (total ?? 0) + value;
    }
    return total;
  }

  /** Whether nothing but pools of other libraries is shown: they do not tell of the tasks that they finished. */
  const isForeign = () => pools().length > 0 && pools().every((pool) => !pool.kind.startsWith("glasspool"));

  const paces = () => pools().map((pool) => state.paces?.[poolKey(pool)]).filter(Boolean);

  return Object.freeze({
    takeState, takeRecords, takeHistory, setConnection, choose, now, pools, sum, paces, isForeign, isOver, poolKey, deathKey,
    state: () => state,
    history: () => history,
    connection: () => connection,
    chosen: () => chosen,
    lost: () => lost,
    cpuShare: (thread) => thread.cpu_share ?? shares.get(keyOfThread(thread))?.[2] ?? null,
    toEpoch: (seconds) => seconds + (wall ?? 0),
    fromEpoch: (epoch) => epoch - (wall ?? 0),
    hasClock: () => wall !== null,
    onChange: (listener) => listeners.push(listener),
  });
})();
