"""How many threads BLAS and OpenMP may use in a worker of ours: what ``ProcessInfo.native_threads`` tells.

Put together from the worker's own word on what was loaded before it began (it limited that itself), from
the environment that it was given (which what it loaded later has read), and from the operating system:
which libraries are mapped, and how many of their threads have computed. So a task that lifts the limit is
seen, too. Costs some ten microseconds for a worker in which nothing was loaded since the last look.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from glasspool.engines.local import native_limits
from glasspool.engines.local.native_limits import Loaded
from glasspool.observe import native, procfs, thread_starts
from glasspool.observe.native import Library
from glasspool.processors import allowed_processors
from glasspool.snapshot import ThreadInfo

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker

COMPUTED_S = 0.02
"""A thread that has used less processor time than this has done nothing but start."""

_NAMES = {
    "OpenBLAS": "openblas",
    "MKL": "mkl",
    "BLIS": "blis",
    "libgomp (OpenMP)": "openmp",
    "libiomp5 (OpenMP)": "openmp",
    "libomp (OpenMP)": "openmp",
}


def of_worker(worker: Worker, threads: Iterable[ThreadInfo]) -> dict[str, int] | None:
    """Return for each library how many threads it may use in a worker; None if that cannot be known."""
    loaded = _loaded(worker)
    if loaded is None:
        return None
    told = worker.native_threads or {}
    if native_limits.NOT_LIMITED in told:
        return None
    found: dict[str, int] = {}
    used = _used(worker.pid, threads, loaded.files) if loaded.files else Counter()
    for file, name in loaded.files.items():
        may = told.get(name) or _said(name, dict(worker.variables)) or allowed_processors()
        found[name] = max(may, 1 + used[file], found.get(name, 0))
    return found


def notes(engine: LocalEngine) -> tuple[str, ...]:
    """Say what the limits of libraries which were loaded already are not, and why, where that is so."""
    workers = engine.handler.workers.copy().values()
    found = []
    if any(native_limits.NOT_LIMITED in (worker.native_threads or ()) for worker in workers):
        found.append(
            "BLAS and OpenMP were loaded before the workers were forked, and are not limited there "
            f"(native_threads): that needs threadpoolctl, {native.INSTALL}"
        )
    if engine.environment.is_alone:
        found.append(
            "OpenMP (libgomp) had threads when the workers were forked, and would hang in a fork if it "
            "used more than one: it has one thread in each worker; with "
            "context=multiprocessing.get_context('forkserver') it may have more"
        )
    return tuple(found)


def _loaded(worker: Worker) -> Loaded | None:
    """Look for libraries, but not twice while the worker has the same memory mapped."""
    try:
        with open(f"/proc/{worker.pid}/statm") as file:
            pages = int(file.read().partition(" ")[0])
    except (OSError, ValueError):
        return None
    known = worker.loaded
    if known is None or known.pages != pages:
        files = {
            library.file: _NAMES[library.name]
            for library in _libraries(worker.pid)
            if library.name in _NAMES
        }
        known = worker.loaded = Loaded(pages, files)
    return known


def _libraries(pid: int) -> tuple[Library, ...]:
    return native.libraries(pid)


def _said(name: str, variables: Mapping[str, str]) -> int | None:
    """Return what the environment of the worker says to a library that it loads."""
    return native_limits.wanted(name, os.environ | variables)


def _used(pid: int, threads: Iterable[ThreadInfo], files: Mapping[str, str]) -> Counter[str]:
    """Count by file the threads of libraries that have computed."""
    tids = [one.native_id for one in threads if not one.python and (one.cpu_s or 0) > COMPUTED_S]
    if not tids:
        return Counter()
    origins = native.origins(pid, tids)
    return Counter(one.file for one in origins.values() if one.file in files)


def begun_in() -> set[str]:
    """Return the files in which threads of this process began that Python did not start."""
    python = {thread.native_id for thread in threading.enumerate()}
    tids = set(procfs.thread_ids(os.getpid())) - python
    return set(thread_starts.start_files(os.getpid(), tids).values())
