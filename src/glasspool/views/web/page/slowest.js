// The slowest tasks of those that are known: a click shows one in the task stream.
"use strict";
const Slowest = (() => {
  const { byId, make, setText } = Elements;
  const EVERY_MS = 2000;
  const MOST = 50;
  let records = [];
  let shows = "";

  function take(told) {
    records = told.records ?? told.tasks ?? told;
    Frames.changed("slowest");
  }

  function draw() {
    if (!Store.state()) return;
    const chosen = Store.chosen();
    const shown = records.filter(([pool]) => chosen === null || pool === chosen).slice(0, MOST);
    const now = JSON.stringify([shown, chosen, Palette.isDark()]);
    if (now === shows) return; // a button with the focus shall stay
    shows = now;
    setText(byId("slowest-told"), shown.length ? `the slowest ${Words.count(shown.length)} of those that are known` : "");
    if (!shown.length) {
      byId("slowest-table").replaceChildren(make("p", { class: "empty", text: "No task has finished yet." }));
      return;
    }
    const longest = Math.max(...shown.map((record) => record[7] - record[6]));
    const several = new Set(shown.map(([pool]) => pool)).size > 1;
    const headings = ["Took", "", "Function", "Task", "Status", "Worker", "PID", "Ended", "Result"];
    byId("slowest-table").replaceChildren(Elements.table("Slowest tasks", headings,
      shown.map((record) => cells(record, longest, several)), { numbers: [0, 3, 6, 7, 8] }));
  }

  function cells([pool, number, pid, task, name, status, begun, ended, bytes, node], longest, several) {
    const slot = Lanes.placeOf(number, node);
    const bar = make("span", { class: "bar" });
    bar.style.width = `${Math.max(1, (100 * (ended - begun)) / longest)}%`;
    bar.style.background = Palette.colour(name);
    return [
      Words.duration((ended - begun) / 1e9),
      make("span", { class: "bar-box", "aria-hidden": "true" }, bar),
      make("button", { type: "button", class: "link", text: name, title: `${name}: show it in the task stream`,
        on: { click: () => Stream.show(pool, slot, begun / 1e9, ended / 1e9) } }),
      String(task),
      make("span", { class: "status", data: { status }, text: status }),
      slot === null ? Words.UNKNOWN : several ? `${pool} ${slot}` : String(slot),
      pid === null ? Words.UNKNOWN : String(pid),
      Words.clock(Store.toEpoch(ended / 1e9), 1),
      Words.size(bytes),
    ];
  }

  function begin() {
    Frames.add("slowest", draw);
    Feed.poll("slowest", EVERY_MS, "api/slowest", take);
  }

  return Object.freeze({ begin });
})();
