// The stack of one thread, fetched when it is asked for and, if wanted, each second after. Opened by a row of the
// threads; Escape closes it and gives the focus back.
"use strict";
const Inspector = (() => {
  const { byId, make, setText } = Elements;
  const EVERY_MS = 1000;
  const TIME_PARTS = [
    ["start_s", "start"], ["initializer_s", "initializer"], ["waiting_s", "waiting"], ["receiving_s", "receiving"],
    ["running_s", "running"], ["sending_s", "sending"], ["exit_s", "exit"],
  ];
  const listeners = [];
  let row = null;
  let from = null; // what had the focus
  let asking = false;
  let answer = null;
  let timer = null;
  let shows = "";

  function open(chosen, element) {
    if (!chosen.thread) return;
    row = chosen;
    from = element;
    answer = null;
    shows = "";
    byId("inspector").hidden = false;
    document.documentElement.classList.add("inspecting");
    setText(byId("inspector-title"), `${row.label} · ${row.name}`);
    byId("inspector-title").focus({ preventScroll: true });
    for (const listener of listeners) listener(row.key);
    draw();
    look();
    clearInterval(timer);
    timer = setInterval(() => {
      const live = Store.connection() === "live" && !document.hidden;
      if (live && byId("inspector-follow").checked) look();
    }, EVERY_MS);
  }

  function close() {
    if (!row) return;
    row = null;
    clearInterval(timer);
    byId("inspector").hidden = true;
    document.documentElement.classList.remove("inspecting");
    for (const listener of listeners) listener(null);
    if (from?.isConnected) from.focus({ preventScroll: true });
  }

  async function look() {
    if (asking) return;
    asking = true;
    const asked = row;
    try {
      const told = await Feed.ask(`api/stack?pid=${asked.pid}&tid=${asked.tid}${asked.process.node ? `&node=${encodeURIComponent(asked.process.node)}` : ""}`);
      if (row === asked) answer = { ...told, at: Date.now() / 1000 };
    } catch (error) {
      if (row === asked) answer = { stack: null, note: `It could not be asked for: ${error.message}` };
    } finally {
      asking = false;
    }
    if (row && row !== asked) look(); // another thread was chosen meanwhile
    else if (row) draw();
  }

  function draw() {
    const now = Threads.find(row.key) ?? row;
    const told = [
      ["Thread", `${now.name} (${now.tid})`],
      ["Process", `${now.process.name} (pid ${now.pid})${now.process.state ? `, ${now.process.state}` : ""}`],
      ["Node", now.process.node],
      ["Roles", now.roles],
      ["State", now.state],
      ["Task", now.task],
      ["Progress", progressOf(now.thread.task)],
      ["For", Words.duration(now.since)],
      ["Waits for", now.thread.kernel],
      ["Library", now.thread.library],
      ["Life so far", lifeOf(now.process.time)],
    ];
    // What is the same is left alone: somebody may be selecting it.
    const will = JSON.stringify([told, answer?.stack, answer?.note, answer === null]);
    if (will !== shows) byId("inspector-body").replaceChildren(Elements.facts(told), ...stackParts());
    else if (answer?.stack?.length) setText(byId("inspector-body").querySelector(".seen-at"), seenAt());
    shows = will;
  }

  function progressOf(task) {
    if (!task?.progress) return "";
    const [done, total] = task.progress;
    return total ? `${Words.count(done)} of ${Words.count(total)}` : Words.count(done);
  }

  /** Say how a worker spent its life: running 71 %, waiting 20 %. */
  function lifeOf(time) {
    if (!time) return "";
    const whole = TIME_PARTS.reduce((sum, [field]) => sum + time[field], 0);
    if (!whole) return "";
    return TIME_PARTS.map(([field, word]) => [time[field] / whole, word]).filter(([part]) => part >= 0.005)
      .sort(([a], [b]) => b - a).map(([part, word]) => `${word} ${Words.share(part)}`).join(", ");
  }

  const seenAt = () => `seen at ${Words.clock(answer.at, 1)}`;

  function stackParts() {
    if (!answer) return [make("p", { class: "empty", text: "Looking …" })];
    const parts = [];
    if (answer.stack?.length) {
      parts.push(make("h3", { text: "Stack, innermost call first" }), Elements.stack(answer.stack));
      parts.push(make("p", { class: "quiet seen-at", text: seenAt() }));
    } else {
      parts.push(make("p", { class: "empty", text: answer.note || "It has no Python stack." }));
      return parts;
    }
    if (answer.note) parts.push(make("p", { class: "quiet", text: answer.note }));
    return parts;
  }

  function begin() {
    byId("inspector-close").addEventListener("click", close);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && row) close();
    });
    Store.onChange(() => {
      if (row && Store.connection() !== "live") draw();
    });
  }

  return Object.freeze({ begin, open, close, onSelect: (listener) => listeners.push(listener) });
})();
