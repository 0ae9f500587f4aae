// Finished tasks, kept by worker slot in order of their begin: what the task stream draws and asks. Holds the
// newest MOST of them in flat arrays, so that 100,000 cost a few megabytes and a look at all of them a few
// milliseconds. Times are seconds of the monotonic clock.
"use strict";
const Lanes = (() => {
  const MOST = 120000;
  const STATUS = ["done", "failed", "lost", "cancelled", "timeout"];
  const lanes = new Map();
  const functions = []; // names by number
  const numbers = new Map();
  const counts = []; // finished tasks by number of their function
  let total = 0;
  let newest = 0; // the latest end
  let oldest = Infinity;

  function numberOf(name) {
    let number = numbers.get(name);
    if (number === undefined) {
      number = functions.push(name) - 1;
      numbers.set(name, number);
      counts.push(0);
    }
    return number;
  }

  class Lane {
    constructor(pool, slot) {
      this.pool = pool;
      this.slot = slot;
      this.size = 0;
      this.reserve(64);
    }

    reserve(room) {
      const grown = (kind, old) => {
        const made = new kind(room);
        if (old) made.set(old.subarray(0, this.size));
        return made;
      };
      this.begun = grown(Float64Array, this.begun);
      this.ended = grown(Float64Array, this.ended);
      this.task = grown(Float64Array, this.task);
      this.pid = grown(Float64Array, this.pid);
      this.bytes = grown(Float64Array, this.bytes);
      this.fn = grown(Uint32Array, this.fn);
      this.status = grown(Uint8Array, this.status);
    }

    columns() {
      return [this.begun, this.ended, this.task, this.pid, this.bytes, this.fn, this.status];
    }

    /** The first place whose begin is not before a time. */
    from(time) {
      let low = 0;
      let high = this.size;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.begun[middle] < time) low = middle + 1;
        else high = middle;
      }
      return low;
    }

    /** The first place that may reach into what comes after a time: tasks of one worker hardly overlap. */
    reaching(time) {
      let at = this.from(time);
      for (let back = 0; back < 4 && at > 0; back++) at--;
      while (at < this.size && this.ended[at] < time && this.begun[at] < time) at++;
      return at;
    }

    has(begun, task) {
      for (let at = this.from(begun); at < this.size && this.begun[at] === begun; at++) {
        if (this.task[at] === task) return true;
      }
      return false;
    }

    /** Whether a task is among the last few that ended. */
    hasLately(task) {
      return this.task.subarray(Math.max(0, this.size - 64), this.size).includes(task);
    }

    insert(begun, ended, task, pid, bytes, fn, status) {
      if (this.size === this.begun.length) this.reserve(this.size * 2);
      // Ends come in order, begins almost: where a worker was replaced its successor overlaps it.
      let at = this.size;
      if (at && this.begun[at - 1] > begun) {
        at = this.from(begun);
        for (const column of this.columns()) column.copyWithin(at + 1, at, this.size);
      }
      this.begun[at] = begun;
      this.ended[at] = ended;
      this.task[at] = task;
      this.pid[at] = pid;
      this.bytes[at] = bytes;
      this.fn[at] = fn;
      this.status[at] = status;
      this.size++;
    }

    dropBefore(time) {
      const first = this.from(time);
      for (let at = 0; at < first; at++) counts[this.fn[at]]--;
      for (const column of this.columns()) column.copyWithin(0, first, this.size);
      this.size -= first;
      return first;
    }
  }

  /** What names a worker's lane in its pool: its slot, on a cluster with its node, as slots count on each. */
  const placeOf = (slot, node) => (slot === null ? null : node ? `${slot} on ${node}` : slot);
  const keyOf = (pool, slot) => `${slot}|${pool}`;

  function lane(pool, slot) {
    const key = keyOf(pool, slot);
    let found = lanes.get(key);
    if (!found) lanes.set(key, (found = new Lane(pool, slot)));
    return found;
  }

  /** Keep one record as the server tells it; one that is known already is left out. */
  function take(record) {
    const [pool, slot, pid, task, name, status, begunNs, endedNs, bytes, node] = record;
    if (slot === null || begunNs === null || endedNs === null) return;
    const into = lane(pool, placeOf(slot, node));
    const begun = begunNs / 1e9;
    const ended = endedNs / 1e9;
    if (into.size && begun <= into.begun[into.size - 1] && into.has(begun, task)) return;
    const fn = numberOf(name);
    into.insert(begun, ended, task, pid ?? NaN, bytes ?? NaN, fn, Math.max(0, STATUS.indexOf(status)));
    counts[fn]++;
    total++;
    if (ended > newest) newest = ended;
    if (begun < oldest) oldest = begun;
    if (total > MOST) trim();
  }

  /** Drop the oldest fifth, whichever lanes hold it. */
  function trim() {
    const sample = [];
    for (const one of lanes.values()) for (let at = 0; at < one.size; at += 64) sample.push(one.begun[at]);
    sample.sort((a, b) => a - b);
    const cut = sample[Math.floor(sample.length / 5)];
    for (const one of lanes.values()) total -= one.dropBefore(cut);
    oldest = cut;
  }

  return Object.freeze({
    STATUS, MOST, take, lane, keyOf, functions, counts,
    all: () => lanes.values(),
    placeOf,
    find: (pool, slot) => lanes.get(keyOf(pool, slot)),
    total: () => total,
    newest: () => newest,
    oldest: () => oldest,
  });
})();
