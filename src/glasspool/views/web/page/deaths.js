// Deaths, the newest first, each with all that its certificate tells. A new one is also said to screen readers.
"use strict";
const Deaths = (() => {
  const { byId, make, setText } = Elements;
  const MOST = 100;
  const OPEN = 3;
  const cards = new Map(); // by the death's key: what was opened stays open

  function draw() {
    if (!Store.state()) return;
    const deaths = Store.pools().flatMap((pool) => pool.deaths);
    deaths.sort((a, b) => (b.died_at ?? 0) - (a.died_at ?? 0));
    const shown = deaths.slice(0, MOST);
    const all = Store.sum("deaths") ?? deaths.length;
    setText(byId("deaths-told"), all ? `${Words.count(all)}${all > shown.length ? `, the last ${Words.count(shown.length)} are shown` : ""}` : "");
    byId("deaths").classList.toggle("has-deaths", all > 0);
    if (!shown.length) {
      byId("deaths-list").replaceChildren(make("p", { class: "empty", text: Store.isForeign() ? "Which workers of this library died is not known." : "No worker has died." }));
      return;
    }
    const elements = shown.map((death, at) => cardOf(death, at < OPEN));
    const list = byId("deaths-list");
    const same = list.children.length === elements.length && elements.every((element, at) => list.children[at] === element);
    if (!same) list.replaceChildren(...elements);
  }

  function cardOf(death, open) {
    const key = Store.deathKey(death);
    let card = cards.get(key);
    if (!card) cards.set(key, (card = build(death, open)));
    return card;
  }

  /** Who died, of what: a worker, or on a cluster a whole node. */
  function nameOf(death) {
    const on = death.node ? ` on ${death.node}` : "";
    return `${death.whole_node ? `the node ${death.node}` : `worker ${death.slot}${on} (pid ${death.pid})`} ${death.cause}`;
  }

  function build(death, open) {
    return make("details", { class: "death", open },
      make("summary", {},
        make("strong", { text: nameOf(death) }),
        make("span", { class: "quiet", text: ` ${whenOf(death)}` })),
      Elements.facts([
        ["Pool", death.pool],
        ["Task", death.task ? Words.task(death.task) : "it had none"],
        ["Ran for", Words.duration(death.task?.run_s)],
        ["Attempt", `${death.attempts} of ${Math.max(death.attempts, death.attempts_allowed)}`],
        ["Ended", endedOf(death)],
        ["Peak memory", Words.size(death.peak_memory_bytes)],
        ["OOM killer", oomOf(death)],
        ["Advice", death.advice],
      ]),
      ...lines("Last log lines", death.last_log.slice(-20)),
      ...lines("Last output", death.last_output),
      ...stackOf(death));
  }

  function whenOf(death) {
    const at = death.died_at ? `at ${Words.clock(death.died_at)}` : "";
    return death.task ? `${at}, in ${Words.cut(death.task.function, 60)}` : at;
  }

  function endedOf(death) {
    if (death.signal !== null) return `by signal ${death.signal}`;
    return death.exitcode === null ? "nobody could learn how" : `exit code ${death.exitcode}`;
  }

  function oomOf(death) {
    if (!death.oom_evidence) return "";
    const likely = death.oom_likely === null ? "not known" : death.oom_likely ? "likely" : "no";
    return `${likely}: ${death.oom_evidence}`;
  }

  const lines = (title, told) => (told.length ? [make("h3", { text: title }), make("pre", { tabindex: "0", text: told.join("\n") })] : []);

  function stackOf(death) {
    if (!death.stack?.length) return [];
    const age = death.stack_age_s ? `, ${Words.duration(death.stack_age_s)} before` : "";
    return [make("h3", { text: "Last stack, innermost call first" }), Elements.stack(death.stack),
      make("p", { class: "quiet", text: `from ${death.stack_source ?? "the worker"}${age}` })];
  }

  function begin() {
    Frames.add("deaths", draw);
    Store.onChange(({ first, fresh }) => {
      if (first || !fresh.length) return;
      setText(byId("news"), fresh.map((death) => nameOf(death)).join("; "));
    });
  }

  return Object.freeze({ begin });
})();
