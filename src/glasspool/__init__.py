"""glasspool: a process pool that you can see into, a drop-in for ``multiprocessing.Pool``.

::

    from glasspool import Pool

    with Pool() as pool:
        print(pool.map(str.upper, ["a", "b"]))
        print(pool.inspect())  # every process and thread, its role, its state, its task
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasspool._version import __version__
from glasspool.errors import (
    EngineUnavailable,
    GlasspoolError,
    InitializerFailed,
    SerializationError,
    TaskCancelled,
    TaskExit,
    TaskTimeout,
    WorkerDied,
)
from glasspool.pool import Pool
from glasspool.registry import ForkWarning
from glasspool.results import AsyncResult, IMapIterator, MapResult

if TYPE_CHECKING:
    from glasspool.engines.local.worker import WorkerInfo
    from glasspool.observe.entry import inspect, name_threads
    from glasspool.replacement import install, uninstall
    from glasspool.snapshot import (
        DeathCertificate,
        Evidence,
        Frame,
        InitializerInfo,
        PoolInfo,
        ProcessInfo,
        Snapshot,
        TaskInfo,
        ThreadInfo,
        ThreadRef,
    )

__all__ = [
    "AsyncResult",
    "DeathCertificate",
    "EngineUnavailable",
    "Evidence",
    "ForkWarning",
    "Frame",
    "GlasspoolError",
    "IMapIterator",
    "InitializerFailed",
    "InitializerInfo",
    "MapResult",
    "Pool",
    "PoolInfo",
    "ProcessInfo",
    "SerializationError",
    "Snapshot",
    "TaskCancelled",
    "TaskExit",
    "TaskInfo",
    "TaskTimeout",
    "ThreadInfo",
    "ThreadRef",
    "WorkerDied",
    "WorkerInfo",
    "__version__",
    "inspect",
    "install",
    "name_threads",
    "uninstall",
    "worker",
]

# What is not needed to run a pool is loaded when it is first asked for.
_LAZY = {
    "inspect": "glasspool.observe.entry",
    "name_threads": "glasspool.observe.entry",
    "install": "glasspool.replacement",
    "uninstall": "glasspool.replacement",
    "WorkerInfo": "glasspool.engines.local.worker",
    **dict.fromkeys(
        (
            "DeathCertificate",
            "Evidence",
            "Frame",
            "InitializerInfo",
            "PoolInfo",
            "ProcessInfo",
            "Snapshot",
            "TaskInfo",
            "ThreadInfo",
            "ThreadRef",
        ),
        "glasspool.snapshot",
    ),
}


def worker() -> WorkerInfo | None:
    """Return where the calling task runs: pool, slot, process, task. None outside a worker."""
    from glasspool.engines.local.worker import current

    return current()


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
