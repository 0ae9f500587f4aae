"""The rescue: a new template for a pool whose template has died (start method fork).

The kernel ends the workers with their template. A new one is a fork of the program, for which all threads
of ours have to stand aside, the worker-handler's too, which sees the death. So a thread of its own forks,
``NAME new template``, which nobody waits for; it ends with that. Why, and what a fork at such a moment may
inherit: ``docs/internals/fork.md``.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from glasspool.engines.local import events
from glasspool.engines.local.workers import new_thread
from glasspool.errors import GlasspoolError

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine

MOST_DEATHS = 3
"""So many deaths of templates within ``DEATHS_S`` are not by chance: the pool gives up."""

DEATHS_S = 60.0


class Rescue:
    """What sees to new templates. The worker-handler calls it, but for the fork itself.

    Attributes:
        forking: Makes our threads stand aside while the caller forks.
        bring_back: Has those come back that ``forking`` could not start again.
        thread: The one that forks at this moment, if any.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self.forking: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
        self.bring_back: Callable[[], None] = engine.resume
        self.thread: threading.Thread | None = None

    def template_died(self) -> bool:
        """See to a new template; the workers are gone with the old one. Returns whether there will be one."""
        engine = self._engine
        if not engine.goes_on:
            return False
        now = time.monotonic()
        self._deaths.append(now)
        recent = [when for when in self._deaths if now - when < DEATHS_S]
        if len(recent) >= MOST_DEATHS:
            error = GlasspoolError(
                f"the template process of {engine.name}, from which workers are forked, has died "
                f"{len(recent)} times within {DEATHS_S:.0f} s, and its workers with it. "
                "Look for what kills it (memory?), then make a new pool."
            )
            engine.collector.mailbox.put(lambda: engine.collector.fail(error))
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        if not self._engine.goes_on:
            return
        thread = new_thread(self._fork, f"{self._engine.name} new template")
        try:
            thread.start()
        except RuntimeError as error:
            self._failed(error)
        else:
            self.thread = thread

    def _fork(self) -> None:
        engine = self._engine
        try:
            with self.forking():
                if engine.is_at_work():
                    raise OSError(errno.EBUSY, "the pool's threads are busy")
                if engine.goes_on:
                    engine.handler.fork_template(engine.os_name_of_template)
        except OSError as error:
            failure = error
            engine.handler.drop_template()
            self.bring_back()
            engine.handler.mailbox.put(lambda: self._failed(failure))
        else:
            engine.handler.mailbox.put(self._succeeded)
        finally:
            self.thread = None

    def _succeeded(self) -> None:
        self._engine.shortage.over("template")
        events.template_replaced(self._engine)
        self._engine.handler.template_is_back()

    def _failed(self, error: Exception) -> None:
        pause_s = self._engine.shortage.failed("template", "a new template process", error)
        self._engine.handler.later(pause_s, self._begin)
