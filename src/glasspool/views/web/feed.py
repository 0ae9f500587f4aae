"""What all pages are fed from: one watch, looked at by one thread, for as long as somebody has a page open.

*Owns* the watch, the history, and who is being fed. *Threads*: ``glasspool feed`` (this, started by
``start``, ended by ``stop``) looks and drains; it sleeps while there is no page, and is woken by the next
one. Threads that answer a request may look too, under the same lock; what is younger than a moment serves
everybody, so many readers cost the program no more than one. *Invariants*: the watch is used under
``_watching`` only; a page's queue belongs to its event loop, and what does not fit is dropped there (states)
or counted as lost (records), so a slow page holds nobody up. *Shutdown order*: the pages are told, the
thread ends, the watch is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from glasspool.observe import running
from glasspool.observe.history import Flame, History
from glasspool.observe.records import TaskRecord
from glasspool.observe.watch import View, Watch
from glasspool.views.web import answers

EVERY_S = 0.5
DRAIN_S = 0.25
MOST_RECORDS = 500
"""So many records are read at one time; a page could not show more, and reading them takes time."""

MOST_PAGES = 64
SAMPLING_ENDS_S = 10.0
"""Sampling goes on for so long after the last page is gone."""

_FRESH_S = 0.2
"""A view that is younger serves whoever asks for the present."""

_RECENT_S = 1.0
"""The same for who asks for the last minutes; while there is a page, views are always younger."""
_LONGEST_S = 2.0
_BATCHES = 16
_STOP_S = 0.5
_LOG = logging.getLogger("glasspool.web")


class TooManyPages(Exception):
    """More pages want to be fed than there shall be."""


class Page:
    """What waits to be sent to one page. All of it is used by the event loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wake: asyncio.Event = asyncio.Event()
        self.is_over: bool = False
        self._state: str | None = None
        self._end: str | None = None
        self._batches: deque[tuple[str, int, int, int]] = deque()
        self._lost = 0
        self._number = 0

    def put_state(self, text: str) -> None:
        """Have a state sent; one that was not sent yet is out of date."""
        self._state = text
        self.wake.set()

    def put_records(self, rows: str, count: int, lost: int, now_ns: int) -> None:
        """Have records sent; the oldest ones that wait are dropped, and counted, if there are too many."""
        if len(self._batches) >= _BATCHES:
            _, dropped, missed, _ = self._batches.popleft()
            self._lost += dropped + missed
        self._batches.append((rows, count, lost, now_ns))
        self.wake.set()

    def put_end(self, text: str) -> None:
        """Tell that the program has ended."""
        self._end = text
        self.wake.set()

    def put_over(self) -> None:
        """Tell that the server ends."""
        self.is_over = True
        self.wake.set()

    def take(self) -> Iterator[str]:
        """Take what waits, as events."""
        self.wake.clear()
        while self._batches:
            rows, _, lost, now_ns = self._batches.popleft()
            lost, self._lost = lost + self._lost, 0
            yield self._event("records", f'{{"records":{rows},"lost":{lost},"now_ns":{now_ns}}}')
        if self._state is not None:
            text, self._state = self._state, None
            yield self._event("state", text)
        if self._end is not None:
            text, self._end = self._end, None
            yield self._event("end", text)

    def _event(self, kind: str, text: str) -> str:
        self._number += 1
        return f"id: {self._number}\nevent: {kind}\ndata: {text}\n\n"


class Feed:
    """Looks at the pools, remembers, and feeds pages.

    Args:
        watch: What is looked at; closed with this.
        every_s: How often.
    """

    def __init__(self, watch: Watch, *, every_s: float = EVERY_S) -> None:
        self.history: History = History()
        self._watch = watch
        self._every_s = every_s
        self._watching = threading.Lock()
        self._view: View | None = None
        self._looked_at = -1e9
        self._next_at = -1e9
        self._flame = Flame()
        # Under _changed: who is fed, and what the thread has to know.
        self._changed = threading.Condition()
        self._pages: tuple[Page, ...] = ()  # replaced, never changed
        self._is_stopping = False
        self._is_over = False
        self._is_sampling = False
        self._left_at = 0.0
        self._thread = threading.Thread(target=self._run, name="glasspool feed", daemon=True)

    # Life -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell_end(self) -> None:
        """Tell all pages that the server ends. Any thread, and a signal handler, may call it."""
        self._is_over = True  # first, then the pages: one that comes meanwhile sees either
        for page in self._pages:
            _post(page, page.put_over)

    def stop(self) -> None:
        """End the thread and close the watch."""
        self.tell_end()
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(
            _STOP_S
        )  # woken just now; it may be in a look at a program that is silent
        if self._watching.acquire(timeout=_STOP_S):
            self._watch.close()
            self._watching.release()

    # Pages ----------------------------------------------------------------------------------------

    def subscribe(self, page: Page) -> None:
        """Feed a page from now on; it gets the last state at once.

        Raises:
            TooManyPages: There are enough.
        """
        with self._changed:
            if len(self._pages) >= MOST_PAGES:
                raise TooManyPages
            self._pages = (*self._pages, page)
            self._changed.notify_all()
        if self._is_over:
            page.put_over()
        view = self._view
        if view is not None and (view.past or time.monotonic() - self._looked_at < _RECENT_S):
            page.put_state(self._state_text(view))
            if view.past and view.problem == "gone":
                page.put_end(_end_text(view))

    def unsubscribe(self, page: Page) -> None:
        """Feed a page no more. Safe to call twice."""
        with self._changed:
            self._pages = tuple(one for one in self._pages if one is not page)
            self._left_at = time.monotonic()

    @property
    def pages(self) -> int:
        """How many pages are fed."""
        return len(self._pages)

    # Answers --------------------------------------------------------------------------------------

    def view(self, *, stacks: bool = False, age_s: float = _FRESH_S) -> View:
        """Return a view of now, or one that is not older than ``age_s``.

        With stacks it is always taken now. Blocks as ``Watch.look`` does, and for who looks already.
        """
        with self._watching:
            view = self._view
            if view is None or stacks or time.monotonic() - self._looked_at > age_s:
                view = self._look(stacks)
            return view

    def sample(self, wanted: bool) -> None:
        """Begin to sample the stacks of all threads with each look, or end that."""
        if wanted and not self._is_sampling:
            with self._watching:
                self._flame = Flame()
        with self._changed:
            self._is_sampling = wanted
            self._left_at = time.monotonic()
            self._changed.notify_all()

    @property
    def is_sampling(self) -> bool:
        """Whether stacks are being sampled."""
        return self._is_sampling

    def series(self) -> dict[str, Any]:
        """Return the counters of the last minutes, by second."""
        view = self.view(age_s=_RECENT_S)
        with self._watching:
            return {
                "now_ns": view.now_ns,
                "every_s": 1,
                "pools": self.history.series(view.now_ns),
            }

    def records(self, limit: int, since_ns: int | None) -> tuple[list[TaskRecord], int]:
        """Return the newest records, and of how many tasks there is none."""
        self.view(age_s=_RECENT_S)
        with self._watching:
            return self.history.records(limit=limit, since_ns=since_ns), self.history.lost

    def slowest(self) -> list[TaskRecord]:
        """Return the slowest tasks of all that were seen, the slowest first."""
        self.view(age_s=_RECENT_S)
        with self._watching:
            return self.history.slowest()

    def flame(self) -> dict[str, Any]:
        """Return what was sampled, folded."""
        with self._watching:
            return {"samples": self._flame.samples, "root": self._flame.tree()}

    # The thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._is_stopping or self._is_wanted()):
                    self._changed.wait()  # woken by a new page, a wish to sample, or the end
                if self._is_stopping:
                    return
            begun = time.monotonic()
            try:
                with self._watching:
                    self._look_or_drain(begun)
            except (
                Exception
            ):  # a file of a stranger's may be damaged in any way; others want to be fed
                _LOG.exception("a look at the pools failed")
            with self._changed:
                # An observer that samples: the time wakes it, or the end. A new page waits for so long.
                left_s = begun + DRAIN_S - time.monotonic()
                if left_s > 0 and not self._is_stopping:
                    self._changed.wait(left_s)

    def _is_wanted(self) -> bool:
        """Tell whether anybody would notice a look (under ``_changed``)."""
        view = self._view
        if view is not None and view.problem == "gone" and view.past:
            return False
        if self._pages:
            return True
        if self._is_sampling and time.monotonic() - self._left_at > SAMPLING_ENDS_S:
            self._is_sampling = False
        return self._is_sampling

    def _look_or_drain(self, now: float) -> None:
        # Half a tick early, lest a look that comes a little too soon is put off by a whole one.
        soon = now + DRAIN_S / 2
        if soon < self._next_at:
            self._tell_records(*self._watch.drain())
            if not (self._watch.has_news and soon >= self._looked_at + self._every_s):
                return
        self._look(self._is_sampling)

    def _look(self, stacks: bool) -> View:
        """Look, remember it and tell it (under ``_watching``)."""
        begun = time.monotonic()
        view = self._watch.look(stacks=stacks)
        picture, stripped = view.snapshot, view
        if stacks and picture is not None and not view.past and self._is_sampling:
            self._flame.add(picture)
        if picture is not None:
            stripped = replace(view, snapshot=running.without_stacks(picture))
        now = time.monotonic()
        # What takes long to look at, such as a program that is silent, is looked at less often.
        self._looked_at, self._next_at = (
            now,
            max(begun + self._every_s, now + min(_LONGEST_S, 8 * (now - begun))),
        )
        if picture is not None and not view.past:
            self.history.note(picture, view.paces, view.now_ns)
        # The records have gone into the history; they are not to be kept twice.
        before, self._view = self._view, replace(stripped, records=(), lost=0)
        self._tell_records(view.records, view.lost)
        self._tell_state(self._view, before)
        return view  # with its stacks

    def _tell_records(self, records: tuple[TaskRecord, ...], lost: int) -> None:
        self.history.add(records, lost)
        pages = self._pages
        if not pages or not (records or lost):
            return
        rows, now_ns = answers.rows(records), time.monotonic_ns()
        for page in pages:
            _post(page, page.put_records, rows, len(records), lost, now_ns)

    def _tell_state(self, view: View, before: View | None) -> None:
        pages = self._pages
        if not pages:
            return
        text = self._state_text(view)
        for page in pages:
            _post(page, page.put_state, text)
        if view.problem == "gone" and view.past and (before is None or before.problem != "gone"):
            for page in pages:
                _post(page, page.put_end, _end_text(view))

    def _state_text(self, view: View) -> str:
        return answers.text(answers.state(view, sampling=self._is_sampling, brief=True))


def _end_text(view: View) -> str:
    return answers.text({"text": view.text, "taken_at": view.taken_at})


def _post(page: Page, put: Any, *values: Any) -> None:
    with contextlib.suppress(RuntimeError):  # its event loop has ended meanwhile
        page.loop.call_soon_threadsafe(put, *values)
