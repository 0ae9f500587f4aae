"""What hurts a pool: a thread that kills, stops, resizes, at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import glasspool


class Tormentor:
    """Hurts a pool until it is told to end.

    Thread: ``tormentor``, started by ``start`` and ended by ``end``, which wakes it.
    """

    def __init__(
        self, pool: glasspool.Pool, rng: random.Random, every_s: dict[str, float], most: int
    ) -> None:
        self._pool = pool
        self._rng = rng
        self._every_s = every_s
        self._most = most
        self._over = threading.Event()
        self._stopped: list[tuple[float, int]] = []
        self.counts: Counter[str] = Counter()
        self.victims: set[int] = set()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tormentor", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Stop hurting, and let everybody go on who was stopped."""
        self._over.set()
        self._thread.join()  # woken by the event
        self._let_go(float("inf"))

    def _run(self) -> None:
        acts: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "stop": self._stop,
            "resize": self._resize,
            "template": self._kill_template,
        }
        due = {name: self._next(name) for name in self._every_s}
        try:
            while due:
                name = min(due, key=lambda name: due[name])
                if self._over.wait(max(0.0, due[name] - time.monotonic())):
                    return
                acts[name]()
                due[name] = self._next(name)
                self._let_go(time.monotonic())
        except BaseException as error:  # told at the end
            self.error = error

    def _next(self, name: str) -> float:
        return time.monotonic() + self._every_s[name] * self._rng.uniform(0.2, 1.8)

    def _someone(self) -> int | None:
        pids = [process.pid for process in self._pool._pool if process.pid]
        return self._rng.choice(pids) if pids else None

    def _signal(self, pid: int | None, number: int) -> bool:
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def _kill(self) -> None:
        pid = self._someone()
        if pid is not None:
            self.victims.add(pid)  # first: its task may be told as lost before kill() returns
        self.counts["kill"] += self._signal(pid, signal.SIGKILL)

    def _stop(self) -> None:
        pid = self._someone()
        if pid is not None and self._signal(pid, signal.SIGSTOP):
            self.counts["stop"] += 1
            self._stopped.append((time.monotonic() + self._rng.uniform(0.0, 0.1), pid))

    def _let_go(self, until: float) -> None:
        for entry in self._stopped.copy():
            if entry[0] <= until:
                self._stopped.remove(entry)
                self._signal(entry[1], signal.SIGCONT)

    def _resize(self) -> None:
        self._pool.resize(self._rng.randint(1, self._most))
        self.counts["resize"] += 1

    def _kill_template(self) -> None:
        template = getattr(self._pool._engine.handler.starter, "template", None)
        if template is not None:
            self.counts["template"] += self._signal(template.pid, signal.SIGKILL)
