"""Gates: what tasks wait for, and how a test knows that they do.

Importable by name in a spawned worker, so that its initializer can keep what the parent shares.
"""

from __future__ import annotations

from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Semaphore
from typing import Any

LIMIT_S = 30.0

shared: dict[str, Any] = {}
"""What this process was given by ``keep``."""


def keep(names: tuple[str, ...], *values: Any) -> None:
    """Keep what the parent shares (an initializer)."""
    shared.update(zip(names, values, strict=True))


class Turnstile:
    """Closed until it is opened once, for everybody.

    Not an ``Event``: that hangs whoever opens it, if a process that waited for it was killed.
    """

    def __init__(self, ctx: BaseContext) -> None:
        self.semaphore: Semaphore = ctx.Semaphore(0)

    def set(self) -> None:
        """Open it."""
        self.semaphore.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open, at most ``timeout`` seconds; tell whether it is."""
        if not self.semaphore.acquire(timeout=timeout):
            return False
        self.semaphore.release()  # for the next one who waits
        return True


class Gate:
    """What tasks wait for (``event``), and what tells that they do (``started``).

    Attributes:
        names: How the workers' side calls the values, with which ``keep`` shares them.
        arguments: For a pool whose workers are to know the gate.
    """

    def __init__(self, ctx: BaseContext) -> None:
        self.event = Turnstile(ctx)
        self.started: Semaphore = ctx.Semaphore(0)
        self.token: Semaphore = ctx.Semaphore(1)
        self.names = ("gate", "started", "token")
        self.values = (self.event, self.started, self.token)
        self.arguments: dict[str, Any] = {
            "initializer": keep,
            "initargs": (self.names, *self.values),
        }

    @property
    def shared(self) -> tuple[Semaphore, Semaphore]:
        """What opens the gate, and what tells that a task is at it."""
        return self.event.semaphore, self.started

    def open(self) -> None:
        """Let all tasks go on."""
        self.event.set()

    def wait_for_tasks(self, count: int = 1) -> None:
        """Wait until so many more tasks are at the gate."""
        for _ in range(count):
            assert self.started.acquire(timeout=LIMIT_S), "the task did not begin"

    def drop(self) -> None:
        """Give the semaphores back: pytest itself keeps the gate for a while."""
        vars(self).clear()
