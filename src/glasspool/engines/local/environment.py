"""The environment of workers: the user's variables for each slot, and how many native threads to use.

Owned by the engine. A user's function of the slot is called by the threads that make or resize the pool;
the worker-handler reads what came of it. Nothing here changes the environment of this process.

Variables have to be there before anything is imported. A worker that is forked from the template sets
them first of all, from its ``Setup``. One that ``multiprocessing`` starts imports the main module before
it calls anything of ours; but before that it unpickles what it is to prepare, the name of its process
among it. So they travel as a part of the name (``Carrier``).
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import native_limits
from glasspool.options import checked_env
from glasspool.processors import allowed_processors, quota_of

if TYPE_CHECKING:
    from glasspool.options import Env, PoolOptions

MOST_BYTES = 100_000
"""The variables of a worker travel to the template in one message, which has room for twice as much."""

Variables = tuple[tuple[str, str], ...]


class Environment:
    """What the workers of a pool find in their environment besides what they inherit.

    Args:
        options: What the pool was told.
        size: How many workers it begins with.
        on_node: On a node of a cluster: how many processors it has for the pool. What this process finds in
            its environment was set there by the cluster's library then, and not by the user.

    Raises:
        Exception: The user's function raised, or what it returned is no environment.
    """

    def __init__(self, options: PoolOptions, size: int, on_node: int | None = None) -> None:
        self._env: Env = options.env
        self._native = options.native_threads
        self._lanes = options.threads
        # What the user has said himself, before the program began or in it, is said for the workers too.
        self._inherited: dict[str, str] = (
            native_limits.variables_set(os.environ) if on_node is None else {}
        )
        self._on_node = on_node
        self._by_slot: dict[int, Variables] = {}
        self.begun_in: Callable[[], Collection[str]] = tuple
        """Tells in which libraries the native threads of this process began. Costs some milliseconds."""
        # GNU's OpenMP may use one thread only in workers that are forked.
        self.is_alone: bool = False
        self.prepare(size)

    def prepare(self, size: int) -> None:
        """Ask for the variables of each slot below ``size``, once (the thread of who makes or resizes).

        Raises:
            Exception: The user's function raised, or what it returned is no environment.
        """
        if callable(self._env):
            for slot in range(len(self._by_slot), size):
                # The first answer counts, if two threads resize at a time.
                self._by_slot.setdefault(slot, checked_variables(self._env(slot), slot))
        elif self._env and not self._by_slot:
            self._by_slot[0] = checked_variables(self._env, 0)

    def of(self, slot: int, size: int) -> Variables:
        """Return the variables of a worker that starts now, in a pool of so many."""
        users = self._by_slot.get(slot if callable(self._env) else 0, ())
        if self._native is None:
            return users
        limits = dict.fromkeys(self._to_limit(), str(self._threads(size)))
        return tuple((limits | dict(users)).items())

    def for_template(self, size: int) -> Callable[[], None]:
        """Return what limits the libraries that are loaded, once for all workers that are forked."""
        variables = self.of(0, size)
        if self._native is not None:
            native_limits.look()
            files = native_limits.gnu_openmp()
            share = native_limits.wanted("openmp", os.environ | dict(variables))
            self.is_alone = (
                bool(files) and share != 1 and any(one in files for one in self.begun_in())
            )
        return functools.partial(native_limits.prepare, self.rule(0), variables, self.is_alone)

    def rule(self, slot: int) -> int:
        """Return how libraries that are loaded already are to be limited (``native_limits``)."""
        if self._native is None:
            return native_limits.LEAVE
        users = self._by_slot.get(slot if callable(self._env) else 0, ())
        said = any(name in native_limits.VARIABLES for name, _ in users)
        return native_limits.LOWER if self._native == "auto" and not said else native_limits.SET

    def _threads(self, size: int) -> int:
        if isinstance(self._native, int):
            return self._native
        return max(1, self._processors // (size * self._lanes))

    @functools.cached_property
    def _processors(self) -> int:
        """How many threads all workers together may have: in a worker of a pool, what this one may."""
        if native_limits.given:
            return native_limits.given
        quota = _quota()
        processors = allowed_processors()
        if self._on_node is not None:
            processors = min(processors, self._on_node)
        return processors if quota is None else min(processors, math.ceil(quota))

    def _to_limit(self) -> tuple[str, ...]:
        """Return the variables that say it, without those that the user has set, or that follow such."""
        names = native_limits.variables_here()
        if self._native != "auto":
            return names
        said = self._inherited
        return tuple(
            name
            for name in names
            if name not in said
            and not (native_limits.GENERAL in said and name in native_limits.FOLLOWERS)
        )


@functools.cache  # half a millisecond: as much as the rest of a pool's constructor before it forks
def _quota() -> float | None:
    return quota_of()


def checked_variables(env: Any, slot: int) -> Variables:
    """Return what the user gave for a slot.

    Raises:
        TypeError: It is no mapping of strings to strings.
        ValueError: No environment takes it, or it is too large.
    """
    try:
        variables: Mapping[str, str] = checked_env(env)
    except (TypeError, ValueError) as error:
        error.add_note(f"That is what env gave for slot {slot}.")
        raise
    texts = (text for both in variables.items() for text in both)
    if sum(len(text.encode(errors="surrogatepass")) for text in texts) > MOST_BYTES:
        raise ValueError(
            f"env is too large: more than {MOST_BYTES:,} bytes for a worker; put large values into "
            "a file, or hand them in as arguments of the initializer."
        )
    return tuple(variables.items())


class Carrier(str):
    """The name of a process, whose first pickle sets variables where it is unpickled, and is then a name.

    Only the first: it is the one that the worker unpickles before it imports anything. In a later one they
    would undo what the main module has set since. It refers to the standard library only, as the path on
    which our own modules are found is not known there yet.
    """

    __slots__ = ("_variables",)
    _variables: Variables

    def __new__(cls, name: str, variables: Variables) -> Carrier:
        """Make the name."""
        self = super().__new__(cls, name)
        self._variables = variables
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        variables, self._variables = self._variables, ()
        if not variables:
            return str, (str(self),)
        return operator.itemgetter(0), ((str(self), _Setting(variables)),)


class _Setting:
    """What is ``os.environ`` where it is unpickled, with some variables set."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables

    def __reduce__(self) -> tuple[Any, ...]:
        # Function, arguments, no state, no list items; and items that are set by os.environ[name] = value.
        return getattr, (_Module("os"), "environ"), None, None, iter(self._variables)


class _Module:
    """What is a module where it is unpickled."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return importlib.import_module, (self._name,)
