"""The style sheet and the script of the report: both stand in the file, and neither asks for anything.

Without the script the page lacks the sorting of tables and the quick titles of tasks; the browser's own
titles are there all the same.
"""

SHEET = """
:root { --bg: #fbfbfa; --card: #fff; --ink: #1c2024; --soft: #5b6570; --line: #d9dde1; --hover: #f1f4f6;
  --link: #1f5fa8; --bad: #b3261e; --good: #1b6e3c; --warn-bg: #fff5dc; --warn: #6b4e00;
  --f0: #4477aa; --f1: #ee6677; --f2: #228833; --f3: #ccbb44; --f4: #66ccee; --f5: #aa3377; --f6: #ee8833;
  --f7: #8d949b; --life: #e9ecef; --rest: #d4d9de; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --card: #1c2024; --ink: #e6e9ec; --soft: #9aa5b0;
  --line: #333a41; --hover: #262b31; --link: #7fb4ee; --bad: #ff8a80; --good: #7bd39b; --warn-bg: #33290e;
  --warn: #f0d58a; --f0: #6b9fd4; --f2: #4fb862; --f5: #d069a6; --f7: #88919a; --life: #2a3036;
  --rest: #3b424a; } }
@media print { :root { --bg: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --link: #000;
  --bad: #b3261e; --good: #1b6e3c; --warn-bg: #fff5dc; --warn: #6b4e00; --f0: #4477aa; --f2: #228833;
  --f5: #aa3377; --f7: #8d949b; --life: #e9ecef; --rest: #d4d9de; } }
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1180px; padding: 1.5rem 1rem 3rem; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font: 600 1.35rem/1.35 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0 0 .25rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }
h3 { font-size: 1.02rem; margin: 1.7rem 0 .35rem; }
h4 { margin: .8rem 0 .2rem; overflow-wrap: anywhere; }
p { margin: .35rem 0; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ul, main ul { padding-left: 1.2rem; }
li { overflow-wrap: anywhere; }
.lead { font-size: 1.05rem; color: var(--soft); }
.hint, footer { color: var(--soft); font-size: .86rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; }
.bad { color: var(--bad); } .good { color: var(--good); }
.warn { background: var(--warn-bg); color: var(--warn); padding: .5rem .8rem; border-radius: 6px; }
.pool { border-top: 2px solid var(--line); margin-top: 2.2rem; } .pool > h2 { margin-top: 1rem; }
dl.facts { display: flex; flex-wrap: wrap; gap: .35rem 1.6rem; margin: .6rem 0; }
dl.facts div { max-width: 100%; } dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.counters { display: flex; flex-wrap: wrap; gap: .6rem; margin: .8rem 0; }
.counters div { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .4rem .9rem; min-width: 5.2rem; }
.counters b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.counters span { color: var(--soft); font-size: .82rem; } .counters .bad b { color: var(--bad); }
.advice { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem;
  margin: 0; min-width: 0; }
.advice .card { border-left: 4px solid var(--f6); } .card h3 { margin: 0 0 .3rem; }
.figure { font-size: .95rem; color: var(--soft); } .where { color: var(--soft); font-weight: 400; }
figcaption span, .curve p span { color: var(--soft); font-size: .84rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0 !important;
  margin: .4rem 0; font-size: .86rem; }
.legend i, td i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em;
  vertical-align: -.05em; }
i { background: var(--c); } rect, path { fill: var(--c); }
.f0 { --c: var(--f0); } .f1 { --c: var(--f1); } .f2 { --c: var(--f2); } .f3 { --c: var(--f3); }
.f4 { --c: var(--f4); } .f5 { --c: var(--f5); } .f6 { --c: var(--f6); } .f7 { --c: var(--f7); }
.t-start { --c: var(--f3); } .t-initializer { --c: var(--f5); } .t-waiting { --c: var(--rest); }
.t-receiving { --c: var(--f4); } .t-running { --c: var(--f0); } .t-sending { --c: var(--f6); }
.t-exit { --c: var(--f2); }
.t-rest { background: repeating-linear-gradient(45deg, var(--bad) 0 2px, transparent 2px 5px); }
.g-life { --c: var(--life); } .g-bad { --c: var(--bad); }
path.g-dead { fill: none; stroke: var(--bad); stroke-width: 3; vector-effect: non-scaling-stroke; }
li i.g-dead { background: var(--bad); width: 3px; height: 1em; }
rect.open { opacity: .45; } .g-open { --c: var(--f0); opacity: .45; }
rect.bad { stroke: var(--bad); stroke-width: 2; vector-effect: non-scaling-stroke; }
.c-done { --c: var(--f2); } .c-busy { --c: var(--f0); } .c-wait { --c: var(--f3); }
.c-call { --c: var(--f5); } .c-iter { --c: var(--f4); }
.grid { fill: none; stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.bars div { display: flex; align-items: center; gap: .6rem; margin: 2px 0; }
.bars b { flex: 0 0 2.6rem; text-align: right; font-weight: 400; font-size: .8rem; color: var(--soft); }
.bar { flex: 1; display: flex; height: 16px; background: var(--hover); border-radius: 2px; overflow: hidden; }
.bar i { height: 100%; min-width: 1px; } .bars.all .bar { height: 26px; }
.bars.many div { margin: 1px 0; } .bars.many .bar { height: 8px; } .bars.many b { font-size: .55rem;
  line-height: 8px; }
.chart { display: flex; gap: .5rem; } .labels { flex: 0 0 2.6rem; text-align: right; }
.labels span { display: flex; align-items: center; justify-content: flex-end; font-size: .7rem;
  color: var(--soft); white-space: nowrap; overflow: visible; }
.plot { flex: 1; min-width: 0; } svg { display: block; width: 100%; overflow: hidden; }
.plot svg { background: var(--card); border-left: 1px solid var(--line); }
.axis { position: relative; height: 1.5rem; font-size: .74rem; color: var(--soft); overflow: hidden;
  border-top: 1px solid var(--line); }
.axis span { position: absolute; top: .1rem; padding-left: 3px; white-space: nowrap; }
.axis b { font-weight: 400; } .axis .left b { position: absolute; right: 5px; }
.axis span::before { content: ""; position: absolute; left: 0; top: -.1rem; height: .4rem;
  border-left: 1px solid var(--soft); }
.curve { margin: .5rem 0 0; } .curve p { margin: 0 0 .1rem 3.1rem; } .curve .plot { margin-left: 3.1rem; }
.curve svg { height: 56px; }
.histogram { height: 96px; margin-top: .5rem; --c: var(--f0); }
.wide { overflow-x: auto; margin: .3rem 0; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { white-space: nowrap; color: var(--soft); font-weight: 600; } tbody tr:last-child td { border-bottom: 0; }
tfoot td { border-top: 2px solid var(--line); border-bottom: 0; font-weight: 600; }
.n { text-align: right; white-space: nowrap; } tbody tr:hover { background: var(--hover); }
table.sort th { cursor: pointer; } th[aria-sort=ascending]::after { content: " ↑"; }
th[aria-sort=descending]::after { content: " ↓"; }
td.call { min-width: 15rem; overflow-wrap: anywhere; } code, pre { font: .92em/1.45 ui-monospace,
  SFMono-Regular, Menlo, Consolas, monospace; } .args { color: var(--soft); }
td.thread { padding-left: 1.6rem; } .role { border: 1px solid var(--line); border-radius: 9px;
  padding: 0 .5em; white-space: nowrap; display: inline-block; margin: 1px 0; }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--link); overflow-wrap: anywhere; }
.death { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--bad);
  border-radius: 8px; padding: .3rem .9rem; margin: .5rem 0; } .death summary { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; } pre.facts { color: var(--soft); }
#tip { position: fixed; max-width: min(30rem, 92vw); padding: .35rem .6rem; background: var(--ink);
  color: var(--bg); border-radius: 6px; font-size: .82rem; pointer-events: none; overflow-wrap: anywhere;
  z-index: 9; }
@media (max-width: 600px) { body { padding: 1rem .7rem 2rem; font-size: 14px; }
  .bars b, .labels { flex-basis: 1.7rem; } .curve p, .curve .plot { margin-left: 2.2rem; }
  h1 { font-size: 1.1rem; } .counters div { padding: .3rem .6rem; min-width: 4.4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .wide { overflow: visible; border: 0; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .3rem; } td.call { min-width: 0; }
  .n, th { white-space: normal; } .card, tr, .curve, .death, figure, .chart { break-inside: avoid; }
  h2, h3 { break-after: avoid; } #tip { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
(function () {
  "use strict";
  var tip = document.createElement("div");
  tip.id = "tip"; tip.hidden = true; document.body.appendChild(tip);
  function words(target) {
    if (target.told === undefined) {
      var title = target.querySelector && target.querySelector("title");
      target.told = title ? title.textContent : "";
      if (title) { title.remove(); target.setAttribute("aria-label", target.told); }
    }
    return target.told;
  }
  function show(event) {
    var target = event.target;
    var told = target instanceof SVGRectElement ? words(target) : "";
    tip.hidden = !told;
    if (!told) { return; }
    tip.textContent = told;
    var x = Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 6);
    var y = event.clientY + 16;
    if (y + tip.offsetHeight > window.innerHeight) { y = event.clientY - tip.offsetHeight - 10; }
    tip.style.left = Math.max(4, x) + "px"; tip.style.top = Math.max(4, y) + "px";
  }
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", function () { tip.hidden = true; }, true);
  function value(row, at) {
    var cell = row.cells[at];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  }
  function sort(heading) {
    var row = heading.parentNode, table = row.parentNode.parentNode, at = heading.cellIndex;
    var up = heading.getAttribute("aria-sort") === "descending";
    Array.from(row.cells).forEach(function (one) { one.removeAttribute("aria-sort"); });
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    var rows = Array.from(table.tBodies[0].rows);
    rows.sort(function (a, b) {
      var x = value(a, at), y = value(b, at);
      var order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    });
    rows.forEach(function (one) { table.tBodies[0].appendChild(one); });
  }
  document.querySelectorAll("table.sort th").forEach(function (heading) {
    heading.tabIndex = 0;
    heading.addEventListener("click", function () { sort(heading); });
    heading.addEventListener("keydown", function (event) {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(heading); }
    });
  });
  var closed = [];
  window.addEventListener("beforeprint", function () {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach(function (one) { one.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (one) { one.open = false; });
  });
})();
"""
