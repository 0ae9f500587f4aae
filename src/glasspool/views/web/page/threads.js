// Workers and threads: a row per thread of the chosen pools, which can be filtered and sorted; a click shows its
// stack.
"use strict";
const Threads = (() => {
  const { byId, setText } = Elements;
  const LIVELY = /^(in |running|taking|calling)/;
  let table = null;
  let shown = [];

  const COLUMNS = [
    { name: "process", title: "Process", text: (row) => row.label, full: (row) => row.about, sort: (row) => row.order, style: (row) => row.mood },
    { name: "pid", title: "PID", number: true, text: (row) => String(row.pid), sort: (row) => row.pid },
    { name: "thread", title: "Thread", main: true, text: (row) => row.name, full: (row) => `${row.name} (thread ${row.tid})` },
    { name: "tid", title: "TID", number: true, text: (row) => String(row.tid), sort: (row) => row.tid },
    { name: "roles", title: "Roles", text: (row) => row.roles },
    { name: "state", title: "State", text: (row) => row.state },
    { name: "task", title: "Task", text: (row) => row.task },
    { name: "since", title: "Since", hint: "How long the task or the state has lasted", number: true, text: (row) => Words.duration(row.since), sort: (row) => row.since },
    { name: "now", title: "CPU", hint: "Part of one processor that it uses", number: true, text: (row) => (row.now === null ? "" : Words.share(row.now)), sort: (row) => row.now },
    { name: "cpu", title: "CPU time", number: true, text: (row) => Words.duration(row.cpu), sort: (row) => row.cpu },
    { name: "memory", title: "Memory", hint: "Of the whole process", number: true, text: (row) => Words.size(row.memory), sort: (row) => row.memory },
    { name: "done", title: "Done", hint: "Tasks that this process has finished", number: true, text: (row) => (row.done === null ? "" : Words.count(row.done)), sort: (row) => row.done },
  ];

  /** All threads of the chosen pools, each once: a process may serve several pools. */
  function rowsOf(pools) {
    const rows = [];
    const seen = new Set();
    const names = new Set(pools.map((pool) => pool.name));
    for (const pool of pools) {
      for (const process of pool.processes) {
        const label = labelOf(process, pools.length > 1 ? pool : null);
        const place = `${process.node ?? ""}:${process.pid}`;
        let first = !seen.has(place);
        if (!process.threads.length && first) rows.push(bareRow(pool, label, process, rows.length));
        seen.add(place);
        for (const thread of process.threads) {
          const key = `${place}:${thread.native_id}`;
          // Each pool tells of its own threads best; to the others they are somebody else's.
          const isElsewhere = thread.pool !== null && thread.pool !== pool.name && names.has(thread.pool);
          if (seen.has(key) || isElsewhere) continue;
          seen.add(key);
          rows.push(rowOf(key, pool, label, process, thread, first, rows.length));
          first = false;
        }
      }
    }
    return rows;
  }

  function labelOf(process, pool) {
    let label = process.slot !== null ? `worker ${process.slot}` : process.role === "worker" ? process.name : process.role;
    if (process.generation) label += ` (no. ${process.generation + 1})`;
    if (process.node) label += ` on ${process.node}`;
    return pool && process.role !== "parent" ? `${label} · ${Store.poolKey(pool)}` : label;
  }

  function moodOf(process) {
    if (process.state === "busy") return "busy";
    if (["starting", "initializing", "leaving"].includes(process.state)) return "moving";
    if (process.state === "dead") return "dead";
    return process.role === "worker" ? "idle" : "none";
  }

  function aboutOf(process) {
    const words = [process.name, `pid ${process.pid}`, process.state, process.command, process.reason];
    if (process.role === "worker") words.push(`${process.tasks_done} tasks done in ${Words.duration(process.busy_s)}`);
    return words.filter(Boolean).join(" · ");
  }

  function rowOf(key, pool, label, process, thread, first, order) {
    const ofTask = thread.task ? Words.task(thread.task) : "";
    return {
      key, pool, process, thread, order, first,
      label,
      about: aboutOf(process),
      mood: moodOf(process),
      pid: process.pid,
      tid: thread.native_id,
      name: thread.name,
      roles: thread.roles.join(", "),
      state: thread.state || (thread.is_main ? process.state : "") || thread.kernel || "",
      task: ofTask,
      since: thread.since_s,
      now: Store.cpuShare(thread),
      cpu: thread.cpu_s,
      memory: first ? process.rss_bytes : null,
      done: first && process.role === "worker" ? process.tasks_done : null,
      lively: LIVELY.test(thread.state),
    };
  }

  /** A process of which no thread is known yet: it is starting, or may not be read. */
  function bareRow(pool, label, process, order) {
    return {
      key: `${process.node ?? ""}:${process.pid}:`, pool, process, thread: null, order, first: true, label,
      about: aboutOf(process), mood: moodOf(process), pid: process.pid, tid: "", name: Words.UNKNOWN, roles: "",
      state: process.state, task: "", since: null, now: null, cpu: process.cpu_s, memory: process.rss_bytes,
      done: process.tasks_done, lively: false,
    };
  }

  function matches(row, words) {
    const text = `${row.label} ${row.about} ${row.pid} ${row.name} ${row.tid} ${row.roles} ${row.state} ${row.task}`.toLowerCase();
    return words.every((word) => text.includes(word));
  }

  function draw() {
    const all = rowsOf(Store.pools());
    const words = byId("threads-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = words.length ? all.filter((row) => matches(row, words)) : all;
    const processes = new Set(all.map((row) => `${row.process.node ?? ""}:${row.pid}`)).size;
    setText(byId("threads-told"), words.length
      ? `${Words.count(shown.length)} of ${Words.many(all.length, "thread")}`
      : `${Words.many(all.length, "thread")} of ${Words.many(processes, "process", "processes")}`);
    table.show(shown);
  }

  function emptyText() {
    if (!Store.state()) return "Waiting for the first picture …";
    return byId("threads-filter").value ? "No thread matches the filter." : "No threads are known.";
  }

  function begin() {
    table = new Rows.Table(byId("threads-table"), {
      label: "Workers and threads",
      columns: COLUMNS,
      open: (row, from) => Inspector.open(row, from),
      empty: emptyText,
    });
    byId("threads-filter").addEventListener("input", () => Frames.changed("threads"));
    Inspector.onSelect((key) => table.select(key));
    Frames.add("threads", draw);
  }

  /** The row of a thread as it is now, None when it is gone. */
  const find = (key) => rowsOf(Store.pools()).find((row) => row.key === key) ?? null;

  return Object.freeze({ begin, find });
})();
