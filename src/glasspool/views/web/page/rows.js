// A long table that scrolls: only the rows in view are in the document, so that thousands cost as much as
// thirty. Rows are elements by key: a row that stays in view stays the same element, with its focus.
"use strict";
const Rows = (() => {
  const { make, setText, setAttribute } = Elements;
  const BEYOND = 6; // rows that are kept beyond each edge

  class Table {
    /**
     * `columns`: {name, title, hint, number, main, text(row), sort(row), style(row)}; `open(row)` is called for
     * a row that was chosen, `label(row)` says it to a screen reader.
     */
    constructor(into, { label, columns, open, empty }) {
      this.columns = columns;
      this.open = open;
      this.emptyText = empty;
      this.rows = [];
      this.byKey = new Map();
      this.sortBy = null;
      this.descending = false;
      this.selected = null;
      this.cells = columns.map((column) => this.heading(column));
      this.head = make("div", { class: "row row-head", role: "row", "aria-rowindex": 1 }, ...this.cells);
      this.body = make("div", { class: "rows-body", role: "rowgroup" });
      this.empty = make("p", { class: "empty", hidden: true });
      this.scroller = make("div", { class: "rows", role: "grid", "aria-label": label, "aria-colcount": columns.length },
        make("div", { role: "rowgroup", class: "rows-head" }, this.head), this.body);
      into.append(this.scroller, this.empty);
      this.scroller.addEventListener("scroll", () => this.ask(), { passive: true });
      this.scroller.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.ask()).observe(this.scroller);
    }

    heading(column) {
      const button = make("button", { type: "button", text: column.title, title: column.hint ?? null,
        on: { click: () => this.sort(column) } });
      return make("div", { class: this.kind(column), role: "columnheader", "aria-sort": "none" }, button);
    }

    kind(column) {
      return `cell cell-${column.name}${column.number ? " number" : ""}`;
    }

    /** Sort by a column; once more turns the order round, a third time gives the natural one back. */
    sort(column) {
      const downFirst = Boolean(column.number);
      if (this.sortBy !== column) [this.sortBy, this.descending] = [column, downFirst];
      else if (this.descending === downFirst) this.descending = !downFirst;
      else this.sortBy = null;
      this.columns.forEach((other, at) => setAttribute(this.cells[at], "aria-sort",
        other !== this.sortBy ? "none" : this.descending ? "descending" : "ascending"));
      this.show(this.given);
    }

    /** Show these rows ({key, ...}), in the chosen order. */
    show(rows) {
      this.given = rows;
      this.rows = this.sortBy ? this.sorted(rows) : rows;
      this.empty.hidden = rows.length > 0;
      this.scroller.hidden = rows.length === 0;
      setText(this.empty, this.emptyText());
      setAttribute(this.scroller, "aria-rowcount", rows.length + 1);
      this.layOut();
    }

    sorted(rows) {
      const value = this.sortBy.sort ?? this.sortBy.text;
      const sign = this.descending ? -1 : 1;
      const keyed = rows.map((row, at) => [value(row), at, row]);
      keyed.sort(([a, at], [b, other]) => {
        const known = Words.isKnown(a) && a !== "";
        if (known !== (Words.isKnown(b) && b !== "")) return known ? -1 : 1; // unknown ones last, either way
        if (!known) return at - other;
        const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        return order ? sign * order : at - other;
      });
      return keyed.map(([, , row]) => row);
    }

    ask() {
      if (this.asked) return;
      this.asked = true;
      requestAnimationFrame(() => {
        this.asked = false;
        if (this.given && !document.hidden) this.layOut();
      });
    }

    layOut() {
      const height = parseFloat(getComputedStyle(this.scroller).getPropertyValue("--row-height"));
      const all = Frames.isForPrint();
      const room = this.scroller.clientHeight;
      const first = all ? 0 : Math.max(0, Math.floor(this.scroller.scrollTop / height) - BEYOND);
      const end = all ? this.rows.length : Math.min(this.rows.length, Math.ceil((this.scroller.scrollTop + room) / height) + BEYOND);
      this.body.style.height = `${this.rows.length * height}px`;
      const kept = new Map();
      for (let at = first; at < end; at++) {
        const row = this.rows[at];
        const shown = this.byKey.get(row.key) ?? this.rowElement();
        this.fill(shown, row, at, height);
        kept.set(row.key, shown);
      }
      for (const [key, shown] of this.byKey) if (!kept.has(key)) shown.element.remove();
      this.byKey = kept;
    }

    rowElement() {
      const cells = this.columns.map((column) => make("div", { class: this.kind(column), role: "gridcell" }));
      const main = this.columns.findIndex((column) => column.main);
      const shown = { row: null, at: -1, cells, texts: [...cells] };
      const button = make("button", { type: "button", class: "row-open" });
      cells[main].append(button);
      shown.texts[main] = button;
      shown.element = make("div", { class: "row", role: "row", on: { click: () => this.open(shown.row, button) } }, ...cells);
      return shown;
    }

    fill(shown, row, at, height) {
      shown.row = row;
      if (shown.at !== at || shown.height !== height) {
        Object.assign(shown, { at, height }); // rows are higher on a narrow screen
        shown.element.style.transform = `translateY(${at * height}px)`;
        shown.element.setAttribute("aria-rowindex", at + 2);
        shown.element.dataset.odd = at % 2;
      }
      setAttribute(shown.element, "data-key", row.key);
      setAttribute(shown.element, "aria-selected", this.selected === row.key ? "true" : null);
      this.columns.forEach((column, place) => {
        const text = column.text(row);
        setText(shown.texts[place], text);
        setAttribute(shown.cells[place], "title", column.full ? column.full(row) : text || null);
        if (column.style) setAttribute(shown.cells[place], "data-style", column.style(row));
      });
      if (!shown.element.isConnected) this.body.append(shown.element);
    }

    select(key) {
      this.selected = key;
      for (const [other, shown] of this.byKey) setAttribute(shown.element, "aria-selected", other === key ? "true" : null);
    }

    /** Move by keys from row to row; rows out of view are scrolled to. */
    key(event) {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
      const from = event.target.closest?.(".row:not(.row-head)");
      if (step === undefined || !from) return;
      event.preventDefault();
      const now = this.rows.findIndex((row) => row.key === from.dataset.key);
      const at = Math.max(0, Math.min(this.rows.length - 1, now + step));
      const height = parseFloat(getComputedStyle(this.scroller).getPropertyValue("--row-height"));
      const headHeight = this.head.offsetHeight;
      const top = this.scroller.scrollTop;
      if (at * height < top) this.scroller.scrollTop = at * height;
      else if ((at + 1) * height + headHeight > top + this.scroller.clientHeight) {
        this.scroller.scrollTop = (at + 1) * height + headHeight - this.scroller.clientHeight;
      }
      this.layOut();
      this.byKey.get(this.rows[at].key)?.element.querySelector(".row-open").focus({ preventScroll: true });
    }
  }

  return Object.freeze({ Table });
})();
