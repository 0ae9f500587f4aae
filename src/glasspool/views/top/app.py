"""The application of ``glasspool top``.

*Owns* the session, and what the person before it has chosen (pool, table, order, filter, folds, pause).
Threads: Textual's, and one of asyncio's default executor, on which the watch looks: never on the event
loop, as a look takes from a millisecond to a second. Nothing of it runs in the programs that are watched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from glasspool.observe.watch import View
from glasspool.snapshot import ProcessInfo, ThreadInfo
from glasspool.views.table import harmless
from glasspool.views.top import details, headline, model
from glasspool.views.top.grid import Order, Table, arranged
from glasspool.views.top.headline import Words
from glasspool.views.top.listing import Listing
from glasspool.views.top.screens import Details, Help, Question, text_of
from glasspool.views.top.session import PoolKey, Session, Watched

LEAST_WIDTH, LEAST_HEIGHT = 60, 12
"""Below this nothing can be told; what is needed is said instead."""

REST_OTHERS, EACH_S = 4, 0.03
"""How long the watch rests after a look: for a pool of another library, which is read by processes of our
own, so many times as long as the look took. A pool of ours tells of itself, half a millisecond for
each worker: with so many seconds between two looks for each, that is less than 2 % of one processor.
"""

FOLD_FROM = 12
"""In a pool of so many processes, those of the workers begin folded."""

VIEWS = ("Workers", "Threads", "Tasks", "Deaths", "Log")
_WORKERS, _THREADS, _TASKS, _DEATHS, _LOG = range(5)

_THEMES = ("ansi-dark", "textual-ansi")


class Source(Protocol):
    """What feeds the application: a ``Watch``."""

    def look(self, *, stacks: bool = False) -> View:
        """Take a picture, and what ended since the last one."""


class TopApp(App[None]):
    """Shows what a watch sees, again and again.

    Args:
        source: Who looks.
        every_s: How many seconds lie between the beginnings of two looks, at least.
        control: Who does what is to be done to a pool by hand; None: nothing may be done.
        first: What was seen before, to begin with.
    """

    CSS: ClassVar[str] = """
    Screen { background: ansi_default; color: ansi_default; }
    #head { height: auto; }
    #title { text-style: bold reverse; }
    #views, #keys, #title { height: 1; }
    #search { display: none; border: none; height: 1; padding: 0 1; }
    #search.open { display: block; }
    #small { display: none; content-align: center middle; height: 1fr; }
    .small #small { display: block; }
    .small #all { display: none; }
    #scroll { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    Question { align: center middle; }
    #question { width: 90%; height: auto; max-height: 90%; border: round ansi_red; padding: 0 1;
                scrollbar-size-vertical: 1;
                background: ansi_default; }
    """
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
    TITLE: str | None = "glasspool top"

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n + 1), f"table({n})", show=False) for n in range(len(VIEWS))),
        Binding("tab", "pool(1)", show=False, priority=True),
        Binding("shift+tab", "pool(-1)", show=False, priority=True),
        Binding("space", "pause", show=False),
        Binding("slash,f3,f4", "search", show=False),
        Binding("escape", "clear", show=False),
        Binding("less_than_sign", "sort(-1)", show=False),
        Binding("greater_than_sign", "sort(1)", show=False),
        Binding("i", "invert", show=False),
        Binding("minus", "fold(True)", show=False),
        Binding("plus,equals_sign", "fold(False)", show=False),
        Binding("asterisk", "fold_all", show=False),
        Binding("question_mark,f1", "help", show=False),
        Binding("q,f10", "quit", show=False),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("c", "cancel_task", show=False),
        Binding("r", "restart_worker", show=False),
    ]

    def __init__(
        self,
        source: Source,
        *,
        every_s: float = 0.5,
        control: Any = None,
        first: Sequence[View] = (),
    ) -> None:
        # The terminal's own colours, so that light and dark ones are met, and none where NO_COLOR is set.
        super().__init__(ansi_color=True)
        self.theme = next((name for name in _THEMES if name in self.available_themes), self.theme)
        self.session: Session = Session()
        self.paused: bool = False
        self._source = source
        self._every_s = every_s
        self._control = control
        self._first = tuple(first)
        self._pool: PoolKey | None = None
        self._view = _WORKERS
        self._orders: dict[int, Order] = {}
        self._wanted = ""
        self._folded: dict[PoolKey, frozenset[int]] = {}
        self._said = ""
        self._wake: asyncio.Event = asyncio.Event()

    # Layout ---------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Lay out what there is on the screen."""
        with Vertical(id="all"):
            yield Static(id="head")
            yield Static(id="views")
            yield Listing(id="listing")
            yield Input(id="search", placeholder="rows that hold ...")
            yield Static(id="keys")
        yield Static(id="small")

    def on_mount(self) -> None:
        """Show what is known, and begin to look."""
        self.query_one(Listing).focus()
        for view in self._first:
            self.session.take(view)
        self._renew()
        self.run_worker(self._follow(), name="look", exit_on_error=True)

    def on_resize(self, event: events.Resize) -> None:
        """Say what is needed if there is no room; go on as soon as there is."""
        width, height = event.size
        is_small = width < LEAST_WIDTH or height < LEAST_HEIGHT
        base = self.screen_stack[0]
        base.set_class(is_small, "small")
        if is_small:
            words = (
                f"The terminal has {width} x {height}.\nglasspool top needs {LEAST_WIDTH} x "
                f"{LEAST_HEIGHT}:\nmake it larger, or q to leave."
            )
            base.query_one("#small", Static).update(Text(words))
        self._renew()

    # Looking --------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            if self.paused:
                await self._wake.wait()  # set by who ends the pause
                continue
            begun = time.monotonic()
            wants = any(getattr(screen, "wants_stacks", False) for screen in self.screen_stack)
            view = await asyncio.to_thread(self._source.look, stacks=wants)
            took = time.monotonic() - begun
            if not self.paused:
                self.take(view)
            # An observer that samples: it goes on with the time, or with who wants a look now.
            try:
                await asyncio.wait_for(self._wake.wait(), self.rest_s(took))
            except TimeoutError:
                continue

    def rest_s(self, took: float) -> float:
        """Return how long to rest after a look that took so many seconds."""
        living = [one.info for one in self.session.pools.values() if one.ended_at is None]
        ours = [len(pool.workers) for pool in living if pool.kind == "glasspool.Pool"]
        rest = EACH_S * sum(ours) if ours else REST_OTHERS * took
        return max(self._every_s, rest) - min(took, self._every_s)

    def look_now(self) -> None:
        """Look without waiting until it is time."""
        self._wake.set()

    def take(self, view: View) -> None:
        """Show a view (the event loop's thread)."""
        self.session.take(view)
        self._renew()

    # Showing --------------------------------------------------------------------------------------

    @property
    def watched(self) -> Watched | None:
        """The pool that is shown; None if there is none yet."""
        pools = self.session.pools
        if self._pool not in pools:
            living = (key for key, one in pools.items() if one.ended_at is None)
            self._pool = next(living, next(iter(pools), None))
        return None if self._pool is None else pools[self._pool]

    def table(self) -> Table:
        """Return the table that is shown, sorted and filtered."""
        one = self.watched
        if one is None:
            return Table((), empty="")
        if self._view == _THREADS:
            return model.threads(self.session, one, self._folds(one), self._wanted)
        makers = {
            _WORKERS: model.workers,
            _TASKS: model.tasks,
            _DEATHS: model.deaths,
            _LOG: model.log,
        }
        made = makers[self._view](self.session, one)
        return arranged(made, self._order, self._wanted)

    @property
    def _order(self) -> Order:
        return self._orders.get(self._view, Order())

    def _folds(self, one: Watched) -> frozenset[int]:
        key = (one.info.pid, one.info.name)
        if key not in self._folded:
            many = len(one.info.processes) >= FOLD_FROM
            workers = frozenset(process.pid for process in one.info.workers)
            self._folded[key] = workers if many else frozenset()
        return self._folded[key]

    def _renew(self) -> None:
        if not self.is_mounted_fully():
            return
        base = self.screen_stack[0]
        width = max(20, self.size.width)
        base.query_one("#head", Static).update(text_of(self._head(width)))
        base.query_one("#views", Static).update(self._tabs())
        base.query_one("#keys", Static).update(self._keys(width))
        base.query_one(Listing).show(self.table(), self._order)
        for screen in self.screen_stack[1:]:
            if isinstance(screen, Details | Question) and screen.is_mounted:
                screen.renew()

    def is_mounted_fully(self) -> bool:
        """Tell whether the widgets are there."""
        stack = self.screen_stack
        return bool(stack) and bool(stack[0].query("#head")) and bool(stack[0].query(Listing))

    def _head(self, width: int) -> list[headline.Line]:
        one = self.watched
        if one is None:
            view = self.session.view
            said = "looking ..." if view is None else view.text or "no pool is there"
            if view is None:
                return [(Words(said, "strong"),), (), ()]
            more = "It is shown here as soon as there is one."
            others = "Pools of other libraries: glasspool top PID ('glasspool ps' lists them)."
            return [(Words(said, "strong"),), (Words(more),), (Words(others, "faint"),)]
        keys = list(self.session.pools)
        place = (keys.index((one.info.pid, one.info.name)) + 1, len(keys))
        return headline.lines(self.session, one, place, width)

    def _tabs(self) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        one = self.watched
        deaths = 0 if one is None else len(one.info.deaths)
        for number, name in enumerate(VIEWS):
            count = f" {deaths}" if number == _DEATHS and deaths else ""
            style = "reverse" if number == self._view else "red" if count else ""
            text.append(f" {number + 1} {name}{count} ", style)
        if self.paused:
            text.append("  PAUSED ", "bold reverse")
        if self._wanted:
            text.append(f"  only rows with {self._wanted!r}", "bold")
        return text

    def _problem(self, view: View) -> str:
        return "" if view.past else harmless(" ".join(view.text.split()))

    def _keys(self, width: int) -> Text:
        view = self.session.view
        said = self._said or ("" if view is None or not self.session.pools else self._problem(view))
        if said:  # until the next key, or as long as it is so
            return Text(f" {said}", "yellow reverse", no_wrap=True, overflow="ellipsis")
        pairs = [("?", "Help"), ("q", "Quit"), ("Enter", "More"), ("/", "Filter")]
        pairs.append(("-+*", "Fold") if self._view == _THREADS else ("<>", "Sort"))
        pairs += [("Space", "Pause"), ("Tab", "Pool")]
        if self._control is not None:
            pairs += [("c", "Cancel"), ("r", "Restart")]
        text = Text(no_wrap=True, overflow="crop")
        for key, word in pairs:
            if text.cell_len + len(key) + len(word) + 2 > width:
                break
            text.append(key, "bold")
            text.append(word, "reverse")
            text.append(" ")
        return text

    def say(self, text: str) -> None:
        """Say something beside the tables until the next key."""
        self._said = harmless(" ".join(text.split()))
        self._renew()

    def on_key(self, event: events.Key) -> None:
        """Forget what was said."""
        self._said = ""

    # Choosing -------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let the keys of the tables work on the tables only."""
        ours = ("table", "pool", "pause", "search", "clear", "sort", "invert", "fold", "fold_all")
        if action in (*ours, "help", "cancel_task", "restart_worker"):
            return len(self.screen_stack) == 1
        return True

    def action_table(self, number: int) -> None:
        """Show another table."""
        if number != self._view:
            self._view = number
            self.query_one(Listing).begin_at_top()
        self._renew()

    def action_pool(self, by: int) -> None:
        """Show another pool."""
        keys = list(self.session.pools)
        if len(keys) > 1 and self._pool in keys:
            self._pool = keys[(keys.index(self._pool) + by) % len(keys)]
            self.query_one(Listing).begin_at_top()
            self._renew()

    def action_pause(self) -> None:
        """Look no more, or again."""
        self.paused = not self.paused
        self._wake.set()
        self._renew()

    def action_sort(self, by: int) -> None:
        """Sort by the next column; beyond the last one, not at all."""
        if not self.table().sortable:
            return
        keys = ["", *(column.key for column in self.table().columns)]
        at = keys.index(self._order.key) if self._order.key in keys else 0
        self._sort_by(keys[(at + by) % len(keys)])

    def _sort_by(self, key: str) -> None:
        # Of figures one wants to see the largest first, of names the first.
        descending = key in (
            "since",
            "cpu",
            "memory",
            "done",
            "restarts",
            "ran",
            "waited",
            "result",
        )
        self._orders[self._view] = Order(key, descending)
        self._renew()

    def action_invert(self) -> None:
        """Sort the other way round."""
        order = self._order
        self._orders[self._view] = Order(order.key, not order.descending)
        self._renew()

    def on_listing_heading_clicked(self, message: Listing.HeadingClicked) -> None:
        """Sort by a column, or turn its order round."""
        if not self.table().sortable:
            return
        if self._order.key == message.column:
            self.action_invert()
        else:
            self._sort_by(message.column)

    def action_fold(self, fold: bool) -> None:
        """Hide or show the threads of the process at the cursor."""
        one, row = self.watched, self.query_one(Listing).current
        if one is None or row is None or self._view != _THREADS:
            return
        subject = row.subject
        if isinstance(subject, ProcessInfo | ThreadInfo):
            key, pids = (one.info.pid, one.info.name), {subject.pid}
            folds = self._folds(one)
            self._folded[key] = folds | pids if fold else folds - pids
            self._renew()

    def action_fold_all(self) -> None:
        """Hide the threads of all processes; show all if they are hidden."""
        one = self.watched
        if one is not None:
            pids = frozenset(process.pid for process in one.info.processes)
            key = (one.info.pid, one.info.name)
            self._folded[key] = frozenset() if self._folds(one) >= pids else pids
            self._renew()

    # Filtering ------------------------------------------------------------------------------------

    def action_search(self) -> None:
        """Ask for the text that rows shall hold."""
        box = self.query_one("#search", Input)
        box.value = self._wanted
        box.add_class("open")
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._wanted = event.value
        self._renew()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter, and go back to the rows."""
        self._close_search()

    def _close_search(self) -> None:
        self.query_one("#search", Input).remove_class("open")
        self.query_one(Listing).focus()

    def action_clear(self) -> None:
        """Show all rows again."""
        self._wanted = ""
        self.query_one("#search", Input).value = ""
        self._close_search()
        self._renew()

    # More of a row --------------------------------------------------------------------------------

    def action_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(Help(self._control is not None))

    def on_listing_chosen(self, message: Listing.Chosen) -> None:
        """Tell more of a row."""
        one, subject = self.watched, message.row.subject
        if one is None:
            return
        self._show_details(subject, one)

    def _show_details(self, subject: Any, one: Watched) -> None:
        found, key = details.thread_of(subject, one), self._pool
        keys = " Esc back   arrows, PgUp, PgDn scroll"

        def lines(width: int) -> list[headline.Line]:
            now = self.session.pools.get(key, one) if key is not None else one
            if found is not None:
                return details.of_thread(now, *found, width)
            return details.of_subject(subject, now, width)

        self.push_screen(Details(details.title(subject), lines, keys, subject, found is not None))
        self.look_now()  # for the stack

    # By hand --------------------------------------------------------------------------------------

    def action_cancel_task(self) -> None:
        """Cancel the task of the row at the cursor."""
        self._by_hand("cancel")

    def action_restart_worker(self) -> None:
        """Ask whether the worker of the row at the cursor shall be restarted, and how."""
        self._by_hand("restart")

    def _by_hand(self, what: str) -> None:
        one, row = self.watched, self.query_one(Listing).current
        if self._control is None:
            self.say("to cancel and restart, start glasspool top with --control")
        elif one is None or row is None or one.ended_at is not None:
            self.say("there is nothing to do that to")
        elif one.info.kind != "glasspool.Pool":
            self.say(f"only pools of glasspool can be told what to do, this is a {one.info.kind}")
        else:
            from glasspool.views.top.byhand import begin

            begin(self, self._control, what, one, row.subject)

    def ask(
        self,
        lines: Callable[[int], list[headline.Line]],
        answers: str,
        then: Callable[[str | None], None],
    ) -> None:
        """Ask something, and go on with the answer."""
        self.push_screen(Question(lines, answers), then)
        self.look_now()  # for the stack

    def do(self, action: Callable[[], Any]) -> None:
        """Do something to a pool, off the event loop, and say what came of it."""

        async def act() -> None:
            outcome = await asyncio.to_thread(action)
            self.say(outcome.text)
            self.look_now()

        self.run_worker(act(), name="by hand")
