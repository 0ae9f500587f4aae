"""The caller's books: which submissions are open, how each has ended, and what should not have been.

Owns the marks of the tokens. One lock guards all of it, as callers and the callback thread write here.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence

from bench.torture.load import MARKS, open_marks


class Books:
    """What the callers know of their tasks."""

    def __init__(self, retries: int) -> None:
        fd, self.path = tempfile.mkstemp(prefix="glasspool-torture-")
        os.ftruncate(fd, MARKS)
        os.close(fd)
        self._marks = open_marks(self.path)
        self._retries = retries
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._open: set[int] = set()
        self.submitted = 0
        self.ends: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.delivered = 0
        self.callbacks_due = 0
        self.callbacks = 0
        self.never_ran = 0
        self.losses: Counter[int] = Counter()
        self.violations: Counter[str] = Counter()
        self.stories: dict[str, str] = {}

    def open(self, kind: str, tokens: int, tasks: int) -> list[int]:
        """Open a submission: so many tokens, in so many tasks."""
        with self._lock:
            made = list(itertools.islice(self._tokens, tokens))
            for token in made:
                self._marks[token % MARKS] = 0
            self._open.update(made)
            self.submitted += tasks
            self.kinds[kind] += tasks
        return made

    def close(self, tokens: Sequence[int], how: str, tasks: int = 1) -> None:
        """Note how tasks ended, whose tokens are these."""
        with self._lock:
            self.ends[how] += tasks
            # Its worker may die between the note of the begin and the function.
            self.never_ran += how == "lost" and not any(self._marks[t % MARKS] for t in tokens)
            for token in tokens:
                if token not in self._open:
                    self._complain("a task ended twice", f"token {token} ({how})")
                    continue
                self._open.discard(token)
                self._check_runs(token, how)

    def _check_runs(self, token: int, how: str) -> None:
        runs = self._marks[token % MARKS]
        least = 1 if how in ("done", "failed", "timeout") else 0
        most = 1 + self._retries
        if runs > most:
            self._complain("a task ran too often", f"token {token} ({how}) began {runs} times")
        elif runs < least:
            self._complain("a task ended and never ran", f"token {token} ({how})")

    def deliver(self, expected: Sequence[int], got: Sequence[int]) -> None:
        """Note the tokens that came back, which must be the expected ones."""
        with self._lock:
            self.delivered += len(got)
            if list(expected) != list(got):
                what = f"{list(got)[:5]} in the place of {list(expected)[:5]}"
                self._complain("a wrong result was delivered", what)

    def lose(self, pid: int) -> None:
        """Note that a task was lost with a worker."""
        with self._lock:
            self.losses[pid] += 1

    def owe_callback(self) -> None:
        """Note that one callback is due."""
        with self._lock:
            self.callbacks_due += 1

    def call_back(self, _: object) -> None:
        """Note that a callback came."""
        with self._lock:
            self.callbacks += 1

    def complain(self, what: str, story: str) -> None:
        """Note what should not have been."""
        with self._lock:
            self._complain(what, story)

    def _complain(self, what: str, story: str) -> None:
        self.violations[what] += 1
        self.stories.setdefault(what, story)

    @property
    def left_open(self) -> int:
        """How many tokens have not ended."""
        return len(self._open)

    def dispose(self) -> None:
        """Remove the file of marks."""
        self._marks.close()
        os.unlink(self.path)
