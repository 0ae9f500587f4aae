"""What a report tells of: recordings, the program that made them, and the machine that it ran on."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from glasspool.observe.records import Recording


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a program ran. ``processors`` and ``memory_bytes`` are what it may use, by its limits."""

    host: str
    system: str
    processors: int
    memory_bytes: int | None
    python: str
    executable: str
    glasspool: str


@dataclass(frozen=True, slots=True)
class Story:
    """What happened in the pools of one program.

    ``ended`` says in words how the program ended; an empty text if it has not. ``reason`` is why it was ended
    by us, if it was. ``notes`` are sentences on what the report does not cover.
    """

    recordings: tuple[Recording, ...]
    machine: Machine
    told_at: float
    command: tuple[str, ...] = ()
    ended: str = ""
    begun_at: float | None = None
    run_s: float | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()


def this_machine() -> Machine:
    """Tell of the machine and the interpreter of this process."""
    import psutil

    from glasspool._version import __version__
    from glasspool.observe.machine.container import memory_bound
    from glasspool.processors import usable_processors

    memory = int(psutil.virtual_memory().total)
    bound = memory_bound()
    if bound is not None:
        memory = min(memory, int(bound.limit))
    return Machine(
        host=platform.node(),
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        processors=usable_processors(),
        memory_bytes=memory,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        executable=sys.executable or "",
        glasspool=__version__,
    )
