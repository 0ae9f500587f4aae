// Words for people: durations, sizes, numbers and times of day, as the command's tables say them.
// Pure: nothing in here touches the document.
"use strict";
const Words = (() => {
  const UNKNOWN = "–";
  const NUMBER = new Intl.NumberFormat("en-US");

  const isKnown = (value) => value !== null && value !== undefined && !Number.isNaN(value);

  /** Say a duration: 350 ms, 12.3 s, 4 min, 2.5 h. */
  function duration(seconds) {
    if (!isKnown(seconds)) return "";
    if (seconds < 0.001) return seconds > 0 ? `${Math.round(seconds * 1e6)} µs` : "0 s";
    if (seconds < 0.9995) return `${Math.round(seconds * 1e3)} ms`;
    if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
    if (seconds < 5970) return `${Math.round(seconds / 60)} min`;
    return `${(seconds / 3600).toFixed(1)} h`;
  }

  /** Say a number of bytes: 12 MB. */
  function size(bytes) {
    if (!isKnown(bytes)) return "";
    let amount = bytes;
    for (const unit of ["B", "kB", "MB"]) {
      if (amount < 999.5) return `${Math.round(amount)} ${unit}`;
      amount /= 1000;
    }
    return `${amount.toFixed(1)} GB`;
  }

  /** Say a whole number in groups of three, and an unknown one as a dash. */
  const count = (number) => (isKnown(number) ? NUMBER.format(number) : UNKNOWN);

  /** Say how many of something there are: 1 worker, 3 workers. */
  const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

  /** Say a rate per second without more figures than it has. */
  function rate(perSecond) {
    if (!isKnown(perSecond)) return UNKNOWN;
    if (perSecond === 0) return "0/s";
    if (perSecond < 0.0995) return `${(perSecond * 60).toPrecision(2)}/min`;
    return perSecond < 99.5 ? `${perSecond.toFixed(1)}/s` : `${count(Math.round(perSecond))}/s`;
  }

  const share = (part) => (isKnown(part) ? `${Math.round(part * 100)} %` : "");

  /** Say the local time of day of seconds since the epoch, with so many figures of its seconds. */
  function clock(epochSeconds, figures = 0) {
    const scale = 10 ** figures;
    // Numbers that large are not exact: a round time must not fall into the second before it.
    const rounded = figures ? Math.round(epochSeconds * scale) / scale : Math.floor(epochSeconds + 0.001);
    const day = new Date(Math.floor(rounded) * 1000);
    const two = (number) => String(number).padStart(2, "0");
    const text = `${two(day.getHours())}:${two(day.getMinutes())}:${two(day.getSeconds())}`;
    if (!figures) return text;
    return text + (rounded % 1).toFixed(figures).slice(1);
  }

  const cut = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

  /** Shorten a source path: installed packages and the standard library by their own names. */
  function path(file) {
    const inside = file.lastIndexOf("/site-packages/");
    if (inside >= 0) return file.slice(inside + "/site-packages/".length);
    return file.replace(/^.*\/lib(?:64)?\/python3\.\d+t?\//, "");
  }

  /** Say how far something is: 46 %, or 417 done where nobody said of how much. */
  const progress = (done, total) => (total > 0 ? share(done / total) : `${count(done)} done`);

  /** Say a task: its number, function, arguments and, of a chunk, its items. */
  function task(told, { number = true } = {}) {
    if (!told) return "";
    const words = told.progress ? [`${progress(...told.progress)} ·`] : []; // first, for the end may be cut off
    if (number && isKnown(told.id)) words.push(`task ${told.id}`);
    words.push(told.function + (told.arguments ?? ""));
    if (told.items > 1 && isKnown(told.item)) words.push(`item ${told.item + 1} of ${told.items}`);
    else if (told.items > 1) words.push(`(${told.items} items)`);
    if (told.attempts > 1) words.push(`(attempt ${told.attempts})`);
    return words.join(" ");
  }

  return Object.freeze({
    UNKNOWN, isKnown, duration, size, count, many, rate, share, clock, cut, path, progress, task,
  });
})();
