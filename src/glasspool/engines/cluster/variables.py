"""The variables of workers' environments on nodes: the user's, and what he has said of native threads.

The user's function of the slot is called in the program, on the thread that makes or resizes the pool, or on
the worker-handler for a node that joins later and has more slots than any other; nodes are sent what it
returned. Slots are counted on each node.

Ray and Dask set ``OMP_NUM_THREADS`` and the like where they run actors: that is nobody's word. What the
program's own environment says of native threads counts on nodes as it does on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import native_limits
from glasspool.engines.local.environment import checked_variables

if TYPE_CHECKING:
    from glasspool.options import PoolOptions

Told = dict[str, str] | list[dict[str, str]]
"""The variables of all workers, or those of each slot."""


class SlotVariables:
    """What workers on nodes find in their environment.

    Raises:
        Exception: What the user gave is no environment.
    """

    def __init__(self, options: PoolOptions) -> None:
        self._env = options.env
        is_number = isinstance(options.native_threads, int)
        self._said = {} if is_number else native_limits.variables_set(os.environ)
        self._by_slot: dict[int, dict[str, str]] = {}
        if not callable(options.env):
            self._said |= dict(checked_variables(options.env or {}, 0))

    @property
    def differ(self) -> bool:
        """Whether slots have variables of their own."""
        return callable(self._env)

    def prepare(self, slots: int) -> None:
        """Ask for the variables of each slot below ``slots``, once. Runs the user's function.

        Raises:
            Exception: It raised, or what it returned is no environment.
        """
        if not callable(self._env):
            return
        for slot in range(len(self._by_slot), slots):
            # The first answer counts, if two threads resize at a time.
            asked: Mapping[str, str] = dict(checked_variables(self._env(slot), slot))
            self._by_slot.setdefault(slot, self._said | dict(asked))

    def of_slots(self, slots: int) -> Told:
        """Return what a node with so many slots is told; ``prepare`` was called for them."""
        if not callable(self._env):
            return self._said
        return [self._by_slot[slot] for slot in range(slots)]


def unset(native_threads: Any, told: Told) -> tuple[str, ...]:
    """Return the variables that workers of this node are not to inherit, as nobody has said them."""
    if native_threads is not None:
        return ()  # they are set for each worker
    said = told if isinstance(told, list) else [told]
    names = (name for name in native_limits.VARIABLES if name in os.environ)
    return tuple(name for name in names if not any(name in one for one in said))
