// The lanes of the task stream and what the state of the pools tells of each beside its finished tasks: the one
// that runs, initializers, deaths. Pure: reads the store and changes nothing.
"use strict";
const Marks = (() => {
  /** What names a worker's lane in its pool: its slot, on a cluster with its node. */
  const laneOf = (one) => Lanes.placeOf(one.slot, one.node);
  const nodeFirst = (lane) => String(lane).split(" on ").reverse().join(" ");
  const byLane = (i, j) => (typeof i === "number" && typeof j === "number" ? i - j : nodeFirst(i).localeCompare(nodeFirst(j), undefined, { numeric: true }));

  /** The lanes of the chosen pools, in order: each with its finished tasks and what is marked in it. */
  function lanes(narrow) {
    const pools = Store.pools();
    const keys = new Map();
    for (const pool of pools) {
      const key = Store.poolKey(pool);
      for (const process of pool.processes) if (process.slot !== null) keys.set(Lanes.keyOf(key, laneOf(process)), [key, laneOf(process)]);
    }
    for (const lane of Lanes.all()) {
      if (pools.some((pool) => Store.poolKey(pool) === lane.pool)) keys.set(Lanes.keyOf(lane.pool, lane.slot), [lane.pool, lane.slot]);
    }
    const order = new Map(pools.map((pool, at) => [Store.poolKey(pool), at]));
    const sorted = [...keys.values()].sort(([a, i], [b, j]) => order.get(a) - order.get(b) || byLane(i, j));
    const marks = marksOf(pools);
    return sorted.map(([pool, slot]) => ({
      pool, slot, lane: Lanes.find(pool, slot) ?? null,
      name: pools.length > 1 ? `${Words.cut(pool, narrow ? 8 : 16)} ${slot}` : narrow ? String(slot) : `worker ${slot}`,
      ...(marks.get(Lanes.keyOf(pool, slot)) ?? { running: null, initializers: [], deaths: [] }),
    }));
  }

  /** What the state tells beside the finished tasks: running ones, initializers, deaths. */
  function marksOf(pools) {
    const marks = new Map();
    const of = (pool, slot) => {
      const key = Lanes.keyOf(Store.poolKey(pool), slot);
      if (!marks.has(key)) marks.set(key, { running: null, initializers: [], deaths: [] });
      return marks.get(key);
    };
    if (!Store.hasClock()) return marks;
    for (const pool of pools) {
      for (const process of [...pool.processes, ...pool.ended]) {
        if (process.slot === null) continue;
        const init = process.initializer;
        if (init?.begun_at && init.run_s) {
          const begun = Store.fromEpoch(init.begun_at);
          of(pool, laneOf(process)).initializers.push({ begun, ended: begun + init.run_s });
        }
      }
      for (const process of pool.processes) {
        const task = process.threads.find((thread) => thread.task?.begun_at)?.task;
        if (process.slot !== null && task && process.state !== "dead") of(pool, laneOf(process)).running = runningOf(pool, process, task);
      }
      for (const death of pool.deaths) {
        if (death.died_at === null) continue;
        of(pool, laneOf(death)).deaths.push({ at: Store.fromEpoch(death.died_at), begun: death.task?.begun_at ? Store.fromEpoch(death.task.begun_at) : null, death });
      }
    }
    return marks;
  }

  function runningOf(pool, process, task) {
    const begun = Store.fromEpoch(task.begun_at);
    const lane = Lanes.find(Store.poolKey(pool), laneOf(process));
    // The rings are read more often than the state is told: it may have ended meanwhile.
    if (lane?.hasLately(task.id)) return null;
    const after = lane?.size ? lane.ended[lane.size - 1] : -Infinity; // times of day are not that exact
    return { begun: Math.max(begun, after), function: task.function, task };
  }

  return Object.freeze({ lanes });
})();
