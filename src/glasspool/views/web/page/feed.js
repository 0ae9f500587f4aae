// The connection to the server: one stream of events, and requests for what is asked for now and then.
// Owns the EventSource. While the page is paused, or hidden for a minute, there is none, and the server need
// not look. A connection that breaks is tried again, for ever; what ended meanwhile is fetched then.
"use strict";
const Feed = (() => {
  const SILENT_MS = 10000; // states come twice a second; a program that hangs may take some seconds to be seen
  const HIDDEN_MS = 60000;
  const RETRY_MS = [500, 1000, 2000, 5000];
  const KEPT = 100000;
  const token = document.documentElement.dataset.token;
  const polls = [];
  let source = null;
  let heard = 0;
  let failures = 0;
  let retry = null;
  let hiding = null;
  let paused = false;

  /** Ask the server; returns the answer's JSON. Throws if it refuses or is gone. */
  async function ask(path, { post = null } = {}) {
    const headers = { Authorization: `Bearer ${token}` };
    if (post !== null) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, {
      method: post === null ? "GET" : "POST",
      headers,
      body: post === null ? null : JSON.stringify(post),
      cache: "no-store",
    });
    if (!answer.ok) throw new Error(`${path.split("?")[0]}: ${answer.status} ${answer.statusText}`);
    return answer.json();
  }

  function connect() {
    if (source || paused) return;
    clearTimeout(retry);
    heard = performance.now();
    source = new EventSource(`api/events?token=${encodeURIComponent(token)}`);
    source.addEventListener("open", () => {
      failures = 0;
      hear();
      fillGap();
    });
    source.addEventListener("state", (event) => {
      hear();
      Store.takeState(JSON.parse(event.data));
    });
    source.addEventListener("records", (event) => {
      hear();
      Store.takeRecords(JSON.parse(event.data));
    });
    source.addEventListener("end", () => {
      hear();
      Store.setConnection("past");
    });
    source.addEventListener("error", lose);
  }

  const hear = () => (heard = performance.now());

  function disconnect() {
    clearTimeout(retry);
    source?.close();
    source = null;
  }

  function lose() {
    disconnect();
    if (Store.isOver()) return; // the server has no more to tell of what has ended
    Store.setConnection("lost");
    retry = setTimeout(connect, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
  }

  /** Fetch the tasks that ended before the stream began, or while there was none. */
  async function fillGap() {
    const since = Math.floor(Lanes.newest() * 1e9);
    try {
      await Store.takeRecords(await ask(`api/records?limit=${KEPT}${since ? `&since_ns=${since}` : ""}`), { isWhole: true });
    } catch {
      // The stream tells of the same trouble, and tries again.
    }
  }

  /** Ask again and again for what a part shows, while it is in view; `take` gets each answer. */
  function poll(part, everyMs, path, take) {
    polls.push({ part, everyMs, path, take, due: 0, asking: false, answered: false });
  }

  function tick() {
    const now = performance.now();
    if (source && now - heard > SILENT_MS && Store.connection() === "live") lose();
    for (const one of polls) {
      if (one.due === Infinity && Store.connection() === "live") one.due = 0; // a new pool came
      const isWanted = Frames.isInView(one.part) || !one.answered; // once in any case: it takes its room on the page
      if (one.asking || now < one.due || !isWanted || document.hidden) continue;
      if (!["live", "past"].includes(Store.connection())) continue;
      runPoll(one);
    }
  }

  async function runPoll(one) {
    one.asking = true;
    // What has ended changes no more: the next answer is the last one.
    one.due = Store.connection() === "past" ? Infinity : performance.now() + one.everyMs;
    try {
      one.take(await ask(one.path));
      one.answered = true;
    } catch {
      if (one.due === Infinity) one.due = performance.now() + one.everyMs; // the stream tells what is wrong
    } finally {
      one.asking = false;
    }
  }

  function setPaused(is) {
    paused = is;
    if (paused) {
      disconnect();
      Store.setConnection("paused");
    } else {
      Store.setConnection("connecting");
      connect();
    }
  }

  function hide() {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(disconnect, HIDDEN_MS);
    else if (!Store.isOver()) connect();
  }

  function begin() {
    document.addEventListener("visibilitychange", hide);
    setInterval(tick, 250);
    connect();
  }

  return Object.freeze({ begin, ask, poll, setPaused, isPaused: () => paused });
})();
