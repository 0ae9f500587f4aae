"""The main torture: callers with a mixed load, a tormentor, and an account of everything at the end."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import glasspool
from bench.torture import belongings
from bench.torture.books import Books
from bench.torture.calls import MIXED, SHORT, Call, Maker, Map, Single
from bench.torture.load import open_marks
from bench.torture.torments import Tormentor

WINDOW = 3000
"""So many tasks of one caller are open at the same time."""

LARGE_WINDOW = 60
"""So many calls of one caller are."""

MEMORY_MARGIN = 128 * 1024 * 1024
"""The driver's memory may grow by so many bytes after the first quarter."""

SIZE_LIMIT_S = 30.0

VIOLATIONS = 1000
"""After so many there is no use in going on."""

ENDS = ("done", "failed", "lost", "cancelled", "timeout")


@dataclass
class Plan:
    """What was asked for."""

    make: Callable[..., glasspool.Pool]
    processes: int
    seed: int
    tasks: int | None
    seconds: float | None
    callers: int
    retries: int
    every_s: dict[str, float]
    kinds: dict[str, tuple[int, Maker]]


@dataclass
class Row:
    """One line of the account; ``fine`` is None where there is nothing to judge."""

    what: str
    seen: str
    fine: bool | None = None


@dataclass
class Caller:
    """A thread that makes calls, and settles the oldest ones when enough are open."""

    pool: glasspool.Pool
    books: Books
    plan: Plan
    rng: random.Random
    share: int | None
    over: threading.Event
    window: deque[Call] = field(default_factory=deque)
    open_tasks: int = 0
    made: int = 0
    error: BaseException | None = None

    def run(self) -> None:
        """Make calls until it is over."""
        try:
            names = list(self.plan.kinds)
            weights = [self.plan.kinds[name][0] for name in names]
            while not self._is_over():
                name = self.rng.choices(names, weights)[0]
                self._take(self.plan.kinds[name][1](self.books, self.pool, self.rng))
            while self.window:
                self._settle_one()
        except BaseException as error:  # told at the end
            self.error = error

    def _is_over(self) -> bool:
        return self.over.is_set() or (self.share is not None and self.made >= self.share)

    def _take(self, call: Call) -> None:
        self.window.append(call)
        self.open_tasks += call.tasks
        self.made += call.tasks
        if "cancel" in self.plan.kinds and self.rng.random() < 0.02:
            victim = self.rng.choice(self.window)
            if isinstance(victim, Single | Map):
                victim.cancel()
        while self.open_tasks > WINDOW or (
            self.plan.kinds is not SHORT and len(self.window) > LARGE_WINDOW
        ):
            self._settle_one()

    def _settle_one(self) -> None:
        call = self.window.popleft()
        call.settle()
        self.open_tasks -= call.tasks


def run(plan: Plan) -> list[Row]:
    """Torture a pool; return the account."""
    before = belongings.take()
    books = Books(plan.retries)
    pool = plan.make(plan.processes, open_marks, (books.path,), retries=plan.retries)
    over = threading.Event()
    share = None if plan.tasks is None else -(-plan.tasks // plan.callers)
    callers = [
        Caller(pool, books, plan, random.Random(plan.seed + 1 + n), share, over)
        for n in range(plan.callers)
    ]
    most = 2 * plan.processes
    tormentor = Tormentor(pool, random.Random(plan.seed), plan.every_s, most)
    Map(books, pool, 10, 1).settle()  # a pool whose workers never get ready may give up
    begun = time.monotonic()
    tormentor.start()
    sizes = _drive(callers, plan, books, tormentor, over)
    tormentor.end()
    took = time.monotonic() - begun
    rows = [Row("time", f"{took:.1f} s, {books.submitted / took:,.0f} tasks/s")]
    rows += _goes_on(pool, books, plan)
    rows += _account(pool, books, tormentor, plan)
    for thread in (*callers, tormentor):
        if thread.error is not None:
            books.complain("a thread of the torture failed", repr(thread.error)[:500])
    rows.append(_end(pool, bool(books.violations)))
    del pool, callers, tormentor
    books.dispose()
    left = belongings.left_since(before)
    rows.append(Row("left behind", ", ".join(left) or "nothing", not left))
    rows.append(_memory_row(sizes))
    rows += [
        Row(what, f"{count:,} times; first: {books.stories[what]}", False)
        for what, count in books.violations.most_common()
    ]
    return rows


def _drive(
    callers: list[Caller],
    plan: Plan,
    books: Books,
    tormentor: Tormentor,
    over: threading.Event,
) -> list[int]:
    """Let the callers work, show how far they are, and note the memory of this process."""
    threads = [threading.Thread(target=c.run, name="torture caller") for c in callers]
    for thread in threads:
        thread.start()
    end = None if plan.seconds is None else time.monotonic() + plan.seconds
    sizes: list[int] = []
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.5 / len(threads))  # woken by its end; then we look and show again
        sizes.append(belongings.memory())
        too_bad = books.violations.total() > VIOLATIONS
        if too_bad or (end is not None and time.monotonic() > end):
            over.set()
        _show(plan, books, tormentor, end)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return sizes


def _show(plan: Plan, books: Books, tormentor: Tormentor, end: float | None) -> None:
    if not sys.stderr.isatty():
        return
    ends = sum(books.ends.values())
    aim = f" of {plan.tasks:,}" if plan.tasks else ""
    left = f", {max(0.0, end - time.monotonic()):.0f} s left" if end else ""
    hurt = ", ".join(f"{count} x {name}" for name, count in tormentor.counts.items())
    text = f"{ends:,}{aim} tasks ended{left}; {hurt}; {books.ends['lost']} lost"
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _goes_on(pool: glasspool.Pool, books: Books, plan: Plan) -> list[Row]:
    """Look whether the pool still works, with all its workers."""
    if "resize" in plan.every_s:
        try:
            pool.resize(plan.processes)
        except Exception as error:
            books.complain("the pool cannot be resized any more", repr(error)[:300])
    call = Map(books, pool, 200, 1)
    call.settle()
    deadline = time.monotonic() + SIZE_LIMIT_S
    while pool.stats()["idle"] != plan.processes and time.monotonic() < deadline:
        time.sleep(0.01)  # nobody tells when a worker is at rest
    return [_equal("workers: asked for, at rest", plan.processes, pool.stats()["idle"])]


def _end(pool: glasspool.Pool, hard: bool) -> Row:
    """End the pool, and look whether it does."""
    begun = time.monotonic()
    pool.terminate() if hard else pool.close()
    has_ended = pool._engine.done.wait(SIZE_LIMIT_S)
    if has_ended:
        pool.join()
    return Row("the pool's end", f"took {time.monotonic() - begun:.2f} s", has_ended)


def _account(pool: glasspool.Pool, books: Books, tormentor: Tormentor, plan: Plan) -> list[Row]:
    """Compare the callers' books with the pool's ledger."""
    stats = pool.stats()
    told = {how: stats[how] for how in ENDS}
    noted = {how: books.ends[how] for how in ENDS}
    kinds = ", ".join(f"{count:,} {name}" for name, count in sorted(books.kinds.items()))
    hurt = ", ".join(f"{count:,} {name}" for name, count in sorted(tormentor.counts.items()))
    return [
        Row("torments", hurt or "none"),
        Row("tasks by kind", kinds),
        _equal("submitted: callers, ledger", books.submitted, stats["submitted"]),
        *(_equal(f"{how}: callers, ledger", noted[how], told[how]) for how in ENDS),
        _equal("ended once: submitted, sum of ends", books.submitted, sum(noted.values())),
        _equal("open: callers, ledger", books.left_open, stats["waiting"] + stats["sent"], 0),
        _equal("callbacks: due, called", books.callbacks_due, books.callbacks),
        *_losses(books, tormentor, plan),
        _ledger_row(pool),
    ]


def _equal(what: str, first: int, second: int, must_be: int | None = None) -> Row:
    fine = first == second and must_be in (None, first)
    return Row(what, f"{first:,}, {second:,}", fine)


def _losses(books: Books, tormentor: Tormentor, plan: Plan) -> list[Row]:
    """Judge what was lost: at most one task with each worker that was killed."""
    strangers = set(books.losses) - tormentor.victims
    if tormentor.counts["template"]:
        strangers = set()  # its workers die with it, and we do not know all of them
    worst = max(books.losses.values(), default=0)
    lost = books.ends["lost"]
    return [
        Row("lost with workers that nobody killed", f"{len(strangers)}", not strangers),
        Row("most tasks lost with one worker", f"{worst}", worst <= 1),
        Row("lost before their function began", f"{books.never_ran}"),
        Row(
            f"lost with {plan.retries} retries",
            f"{lost}",
            not lost if plan.retries >= 3 else None,
        ),
    ]


def _ledger_row(pool: glasspool.Pool) -> Row:
    """Let the ledger check itself, on the thread that owns it."""
    said: list[str] = []
    checked = threading.Event()

    def check() -> None:
        try:
            pool._engine.collector.ledger.check()
        except AssertionError as error:
            said.append(str(error))
        checked.set()

    pool._engine.collector.mailbox.put(check)
    if not checked.wait(SIZE_LIMIT_S):
        said.append("its thread does not answer")
    return Row("the ledger's own check", ", ".join(said) or "passed", not said)


def _memory_row(sizes: list[int]) -> Row:
    early = max(sizes[: max(1, len(sizes) // 4)])
    late = max(sizes)
    text = f"{early >> 20} MB in the first quarter, {late >> 20} MB at most"
    return Row("memory of this process", text, late - early < MEMORY_MARGIN)


def kinds_of(name: str, without: list[str]) -> dict[str, tuple[int, Any]]:
    """Return the kinds of a load, but some."""
    if name == "short" and not without:
        return SHORT
    table = SHORT if name == "short" else MIXED
    return {kind: made for kind, made in table.items() if kind not in without}
