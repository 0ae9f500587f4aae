"""Record every pool that a program makes, from its first task on: what ``run --trace`` is made of.

*Owns* the recorders. Threads: none; ``_note`` is called by whichever thread makes a pool.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from glasspool import registry

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.observe.recording import Recorder
    from glasspool.observe.records import Recording


class Recordings:
    """The recordings of all pools that are made from now on, in this process."""

    def __init__(self) -> None:
        from glasspool.observe import recording  # noqa: F401  # not while the first pool waits for it

        self._pid = os.getpid()
        self._recorders: list[Recorder] = []
        self._remove = registry.on_made(self._note)

    def _note(self, engine: LocalEngine) -> None:
        from glasspool.observe.recording import Recorder

        if os.getpid() == self._pid:  # pools of workers are not the program's
            self._recorders.append(Recorder(engine))

    def stop(self) -> tuple[Recording, ...]:
        """End all recordings and return them, in the order in which the pools were made."""
        self._remove()
        return tuple(recorder.stop() for recorder in self._recorders)
