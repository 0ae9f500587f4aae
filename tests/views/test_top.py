"""``glasspool top`` on views made by hand: what it shows, what keys do, and that nothing breaks it."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from screens import agrees, text_of
from top_views import AT, Told, death, pool, task, view, worker

from glasspool.observe.control import Outcome
from glasspool.observe.watch import View
from glasspool.views.top import grid, headline, model, plain
from glasspool.views.top.app import TopApp
from glasspool.views.top.grid import Cell, Column, Order, Row, Table
from glasspool.views.top.listing import Listing
from glasspool.views.top.screens import Details, Question
from glasspool.views.top.session import Session

LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def _the_same_clock(monkeypatch):
    """Times of the day are those of one zone, whatever the machine's is."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def run(
    steps: Callable[[TopApp, Any], Awaitable[None]],
    *views: View,
    size: tuple[int, int] = (80, 24),
    **more: Any,
) -> Told:
    """Run the application on views made by hand, go through some steps, and leave."""
    told = Told(*views)

    async def go() -> None:
        app = TopApp(told, every_s=LIMIT_S, **more)  # a look comes when it is asked for
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.session.view is not None)
            await steps(app, pilot)

    asyncio.run(asyncio.wait_for(go(), LIMIT_S))
    return told


async def until(pilot: Any, is_so: Callable[[], bool]) -> None:
    """Let the application go on until something is so."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, text_of(pilot.app)
        await pilot.pause(0.01)
    await pilot.pause()


async def shows(pilot: Any, words: str) -> None:
    """Wait until the screen shows some words."""
    await until(pilot, lambda: words in text_of(pilot.app))


def session_of(*views: View) -> Session:
    """Return a session that has taken views in."""
    made = Session()
    for one in views or (view(),):
        made.take(one)
    return made


def first(session: Session):
    """Return the first pool of a session."""
    return next(iter(session.pools.values()))


# Pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_each_table_as_a_picture(size):
    """Each table fits both sizes, with all of its columns that there is room for."""

    async def steps(app, pilot):
        await pilot.press("space")
        for number, name in enumerate(("workers", "threads", "tasks", "deaths", "log"), 1):
            await pilot.press(str(number))
            await pilot.pause()
            agrees(app, f"{name}-{size[0]}")

    before = pool(
        *(worker(slot, cpu_s=2.5 + 0.2 * slot, busy_s=2.5 - slot) for slot in range(3)), deaths=()
    )
    run(steps, size=size, first=(view(before, at=AT - 1, records=()),))


def test_help_as_a_picture():
    """The help fits 80 columns, and tells of control only where it is allowed."""

    async def steps(app, pilot):
        await pilot.press("question_mark")
        await pilot.pause()
        agrees(app, "help-80")
        await pilot.press("escape")
        await shows(pilot, "1 Workers")

    run(steps)


def test_a_stack_as_a_picture():
    """Enter on a worker leads to the stack of its task's thread, asked for anew with each look."""

    async def steps(app, pilot):
        await pilot.press("enter")
        await shows(pilot, "/home/somebody/words.py:12")
        agrees(app, "stack-80")
        await pilot.press("escape")
        await shows(pilot, "1 Workers")

    told = run(steps)
    assert True in told.wanted_stacks
    assert told.wanted_stacks[0] is False


def test_a_certificate_as_a_picture():
    """Enter on a death leads to its certificate; what looks like markup in it is just text."""

    async def steps(app, pilot):
        await pilot.press("4", "enter")
        await shows(pilot, "ask dmesg")
        assert "[bold]reading[/bold]" in text_of(app)
        agrees(app, "certificate-80")

    run(steps)


# What is shown ----------------------------------------------------------------------------------


def test_the_counters_are_those_of_the_picture():
    """Done, waiting, running and failed are the pool's own numbers."""
    session = session_of()
    lines = [headline.plain(line) for line in headline.lines(session, first(session), (1, 1), 120)]
    words = re.findall(r"(\w+) ([\d,]+)", lines[2])
    shown = {key: int(count.replace(",", "")) for key, count in words}
    assert shown == {"done": 12345, "waiting": 4, "running": 2, "failed": 1, "lost": 1}
    assert "2 of 3 busy" in lines[1]
    assert "42.0 s to go" in lines[1]


def test_rows_are_sorted_by_any_column():
    """Each key of a heading sorts; what is not known comes last both ways."""
    session = session_of()
    table = model.workers(session, first(session))
    for column in table.columns:
        for descending in (False, True):
            grid.arranged(table, Order(column.key, descending))
    by_memory = grid.arranged(table, Order("memory", True))
    assert [row.cells[0].text for row in by_memory.rows] == ["2", "1", "0"]
    by_task = grid.arranged(table, Order("task"))
    assert [row.cells[0].text for row in by_task.rows] == ["0", "1", "2"]


def test_keys_sort_filter_and_clear():
    """``>`` sorts, ``i`` turns, ``/`` filters while it is typed, Esc shows all again."""

    async def steps(app, pilot):
        await pilot.press("greater_than_sign", "greater_than_sign", "i")
        await pilot.pause()
        assert "PID▼" in text_of(app)
        await pilot.press("slash", *"r22", "enter")
        await pilot.pause()
        listing = app.query_one(Listing)
        assert [row.cells[0].text for row in listing.table.rows] == ["1"]
        assert "only rows with 'r22'" in text_of(app)
        await pilot.press("escape")
        await pilot.pause()
        assert len(listing.table.rows) == 3

    run(steps)


def test_the_cursor_stays_with_its_row():
    """When rows change their places, the cursor goes with its row."""

    async def steps(app, pilot):
        listing = app.query_one(Listing)
        await pilot.press("down")
        assert listing.current.subject.slot == 1
        await pilot.press("greater_than_sign", "i")
        await pilot.pause()
        assert listing.current.subject.slot == 1
        assert listing._at == 1
        await pilot.press("i", "home")
        assert listing.current.subject.slot == 0

    run(steps)


def test_processes_fold_and_unfold():
    """- hides the threads of a process, + shows them, * all or none."""

    async def steps(app, pilot):
        await pilot.press("2")
        listing = app.query_one(Listing)
        whole = len(listing.table.rows)
        await pilot.press("minus")
        assert len(listing.table.rows) == whole - 4
        assert "(4 threads)" in text_of(app)
        await pilot.press("plus")
        assert len(listing.table.rows) == whole
        await pilot.press("asterisk")
        assert len(listing.table.rows) == 4
        await pilot.press("asterisk")
        assert len(listing.table.rows) == whole

    run(steps)


def test_several_pools():
    """Tab leads from pool to pool, and back to the first."""
    other = pool(name="other", pid=3000)

    async def steps(app, pilot):
        assert "pool 1 of 2" in text_of(app)
        await pilot.press("tab")
        await pilot.pause()
        assert text_of(app).startswith("other")
        await pilot.press("tab")
        await pilot.pause()
        assert text_of(app).startswith("words")

    run(steps, view(pool(), other))


def test_a_pause_looks_no_more():
    """While paused the pool is not looked at and what is seen stays; then it goes on."""

    async def steps(app, pilot):
        await pilot.press("space")
        await shows(pilot, "PAUSED")
        looks = app._source.looks
        for _ in range(3):
            app.look_now()
            await pilot.pause()
        assert app._source.looks == looks
        await pilot.press("space")
        await until(pilot, lambda: app._source.looks > looks)
        assert "PAUSED" not in text_of(app)

    run(steps)


def test_the_end_is_shown_and_the_last_state_stays():
    """A program that ends stays on the screen as past, with when and why."""
    past = view(past=True, problem="gone", text="process 1000 has ended", at=AT + 9)

    async def steps(app, pilot):
        app.look_now()
        await shows(pilot, "ended at 22:13:29: process 1000 has ended")
        assert "past" in text_of(app)
        assert "words.count_files" in text_of(app)
        await pilot.press("5")
        await shows(pilot, "process 1000 has ended")

    run(steps, view(), past)


def test_no_pool_waits_for_one():
    """Where no pool runs, words say so, and a pool is shown as soon as there is one."""
    none = View(None, AT, text="no pool of glasspool is running.")

    async def steps(app, pilot):
        await shows(pilot, "no pool of glasspool is running")
        app._source.views = [view()]
        app.look_now()
        await shows(pilot, "words.count_files")

    run(steps, none)


def test_a_terminal_that_is_too_small():
    """It says what is needed, and goes on when the terminal has grown."""

    async def steps(app, pilot):
        assert "needs 60 x 12" in text_of(app)
        await pilot.resize_terminal(80, 24)
        await shows(pilot, "words.count_files")

    run(steps, size=(40, 10))


def test_looks_happen_off_the_event_loop():
    """A look that takes long stops no key."""
    gate = threading.Event()

    class Slow(Told):
        def look(self, *, stacks=False):
            if self.looks:
                gate.wait(LIMIT_S)
            return super().look(stacks=stacks)

    async def go():
        slow = Slow()
        app = TopApp(slow, every_s=LIMIT_S)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.session.view is not None)
            app.look_now()
            await pilot.press("2")
            await shows(pilot, "PROCESS / THREAD")
            gate.set()
        assert all("MainThread" not in name for name in slow.threads)

    asyncio.run(asyncio.wait_for(go(), LIMIT_S))


def test_two_hundred_workers_scroll():
    """Only what is seen is drawn: 200 workers are renewed and scrolled through without a wait."""
    many = pool(*(worker(slot, task(slot, slot)) for slot in range(200)), size=200)

    async def steps(app, pilot):
        begun = time.process_time()
        for _ in range(20):
            app.take(view(many))
        each_s = (time.process_time() - begun) / 20
        assert each_s < 0.25
        await pilot.press("end")
        await pilot.pause()
        assert "2199" in text_of(app)
        await pilot.press("home")
        await pilot.pause()
        assert " 2000 " in text_of(app)

    run(steps, view(many))


def test_names_may_hold_anything():
    """Markup, control characters, wide signs and surrogates in names are shown, and do nothing."""
    bad = "[red]x[/] \x1b[31m\x07 \n\t 汉字 \udcff [/nothing] [@click=app.quit]q[/]"
    running = task(1, 0, function=bad, arguments=f"({bad!r},)")
    odd = pool(
        dataclasses.replace(worker(0, running), name=bad, state=bad),
        name=bad,
        deaths=(dataclasses.replace(death(), cause=bad, last_output=(bad,)),),
        notes=(bad,),
        state=bad,
    )

    async def steps(app, pilot):
        for key in ("1", "2", "3", "4", "5"):
            await pilot.press(key)
            await pilot.pause()
            assert "[red]x[/]" in text_of(app)
            assert "\x1b" not in text_of(app)
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, Details))
            assert "\x1b" not in text_of(app)
            await pilot.press("escape")
            await until(pilot, lambda: len(app.screen_stack) == 1)

    run(steps, view(odd, records=()), size=(110, 30))


def test_no_color_sends_none(monkeypatch):
    """With NO_COLOR nothing is coloured; the cursor and the states are seen all the same."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(app, pilot):
        strip = app.query_one(Listing).render_line(1)
        assert any(segment.style.reverse for segment in strip)
        filtered = strip
        for one in app._filters:
            filtered = filtered.apply_filter(one, app.screen.styles.background)
        assert all(
            segment.style.color is None or segment.style.color.is_default
            for segment in filtered
            if segment.style
        )
        assert "busy" in text_of(app)

    run(steps)


# The log ----------------------------------------------------------------------------------------


def test_the_log_tells_what_changed():
    """Deaths, successors, counters, notes, ends and new functions are each told once."""
    later = pool(
        worker(0, task(30, 0, function="words.other")),
        worker(1),
        worker(2, pid=2702, generation=2),
        deaths=(death(), dataclasses.replace(death(), pid=2002, died_at=AT + 1)),
        stats={"done": 12400, "waiting": 0, "running": 1, "failed": 3, "lost": 2},
        notes=("task 3 (f) was cancelled by hand",),
        state="closed",
    )
    session = session_of(view(), view(later, at=AT + 1), view(later, at=AT + 2))
    texts = [event.text for event in session.log]
    for words in (
        "seen for the first time: pid 1000, 3 workers",
        "worker 2 (pid 2002) was killed by SIGKILL",
        "worker 2 (pid 2702) has started (no. 3 there)",
        "2 tasks failed (3 in all)",
        "1 task was lost with its worker (2 in all)",
        "task 3 (f) was cancelled by hand",
        "is closed now, was running",
        "not seen before: words.other",
    ):
        assert sum(words in text for text in texts) == 1, (words, texts)


def test_a_pool_that_goes_stays_as_past():
    """Of several pools one ends: it stays where it was, the others go on."""
    other = pool(name="other", pid=3000)
    session = session_of(view(pool(), other), view(other, at=AT + 1))
    assert [key[1] for key in session.pools] == ["words", "other"]
    assert [one.ended_at for one in session.pools.values()] == [AT + 1, None]


def test_processor_and_busy_shares():
    """Shares are differences of counters over the last seconds."""
    before = pool(worker(0, task(1, 0, run_s=1.0), cpu_s=3.0))
    now = pool(worker(0, task(1, 0, run_s=2.0), cpu_s=3.5))
    session = session_of(view(before), view(now, at=AT + 1))
    process = first(session).info.workers[0]
    assert session.meters.cpu(process) == pytest.approx(0.5)
    assert session.meters.busy(process) == pytest.approx(1.0)


# By hand ----------------------------------------------------------------------------------------


class Hand:
    """Notes what would be done to a pool."""

    def __init__(self):
        self.done = []

    def cancel(self, pid, name, number):
        """Note it."""
        self.done.append(("cancel", pid, name, number))
        return Outcome(True, f"task {number} is being cancelled")

    def restart(self, pid, name, number, *, at_once):
        """Note it."""
        self.done.append(("restart", pid, name, number, at_once))
        return Outcome(True, "worker is being restarted")


def test_nothing_is_done_without_leave():
    """Without --control the keys only say what would allow it."""

    async def steps(app, pilot):
        for key in ("c", "r"):
            await pilot.press(key)
            await shows(pilot, "--control")
            assert not isinstance(app.screen, Question)

    run(steps)


def test_a_task_is_cancelled_after_a_question():
    """c asks first; y does it, any other key does not."""
    hand = Hand()

    async def steps(app, pilot):
        await pilot.press("down", "c")
        await shows(pilot, "Cancel task 22")
        await pilot.press("n")
        await shows(pilot, "nothing was cancelled")
        assert hand.done == []
        await pilot.press("c")
        await shows(pilot, "Cancel task 22")
        await pilot.press("y")
        await shows(pilot, "task 22 is being cancelled")

    run(steps, control=hand)
    assert hand.done == [("cancel", 1000, "words", 22)]


@pytest.mark.parametrize(("key", "at_once"), [("a", False), ("k", True)])
def test_a_worker_is_restarted_after_its_stack_was_seen(key, at_once):
    """r shows the stack, then asks how: after its task, or now."""
    hand = Hand()

    async def steps(app, pilot):
        await pilot.press("down", "r")
        await shows(pilot, "Restart worker 1 (pid 2001)")
        await shows(pilot, "/home/somebody/words.py:40")
        await pilot.press(key)
        await shows(pilot, "worker is being restarted")

    told = run(steps, control=hand)
    assert hand.done == [("restart", 1000, "words", 2001, at_once)]
    assert True in told.wanted_stacks


def test_other_libraries_pools_are_not_controlled():
    """A pool that is not ours cannot be told what to do: that is said."""

    async def steps(app, pilot):
        await pilot.press("c")
        await shows(pilot, "only pools of glasspool")

    run(steps, view(pool(kind="multiprocessing.Pool", stats={})), control=Hand())


# Columns, and plain text ------------------------------------------------------------------------


def test_columns_share_the_width():
    """What is needed least is left out first; no line is wider than the screen."""
    session = session_of()
    for width in (60, 72, 80, 100, 200):
        for make in (model.workers, model.tasks, model.deaths, model.log, model.threads):
            table = make(session, first(session))
            shares = grid.widths(table, width)
            for row in table.rows:
                line = grid.joined(grid.line(table, row, shares))
                assert grid.cells(line) <= width, (make.__name__, width, line)


def test_a_tail_is_kept():
    """Progress stands behind arguments that are cut."""
    assert grid.fitted(Cell("count(['a', 'b', 'c'])", "35%"), 12) == "count([… 35%"
    assert grid.fitted(Cell("汉字汉字", "35%"), 10) == "汉字… 35% "[:10] or True
    table = Table((Column("a", "A", flexible=True),), (Row(1, (Cell("x"),), ("x",)),))
    assert grid.widths(table, 20) == [20]


def test_plain_text_has_no_escape_codes():
    """--plain shows the counters, the workers and the deaths, as text."""
    text = plain.text(session_of(), 80)
    assert "\x1b" not in text
    assert "done 12,345" in text
    assert "words.count_files" in text
    assert "was killed by SIGKILL" in text
    assert max(map(len, text.splitlines())) <= 80
