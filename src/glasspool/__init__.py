"""glasspool: a process pool that you can see into, a drop-in for ``multiprocessing.Pool``.

::

    from glasspool import Pool

    with Pool() as pool:
        print(pool.map(str.upper, ["a", "b"]))
        print(pool.inspect())  # every process and thread, its role, its state, its task
"""

from __future__ import annotations

from glasspool._version import __version__

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from glasspool.broken import (
        BrokenInitializer,
        BrokenPool,
        BrokenResult,
        BrokenWorker,
        UnpicklableResult,
    )
    from glasspool.engines.local.progress import report_progress
    from glasspool.engines.local.worker import WorkerInfo
    from glasspool.errors import (
        EngineCannot,
        EngineUnavailable,
        GlasspoolError,
        InitializerFailed,
        SerializationError,
        TaskCancelled,
        TaskExit,
        TaskTimeout,
        WorkerDied,
    )
    from glasspool.executor import Executor
    from glasspool.futures import Future
    from glasspool.joblib import register_joblib
    from glasspool.observe.entry import inspect, name_threads
    from glasspool.pool import Pool
    from glasspool.registry import ForkWarning, ProgressWarning, StallWarning
    from glasspool.replacement import install, uninstall
    from glasspool.results import AsyncResult, IMapIterator, MapResult
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
        WorkerTime,
    )
    from glasspool.threadpool import ThreadPool
    from glasspool.undone import Undone

__all__ = [
    "AsyncResult",
    "BrokenInitializer",
    "BrokenPool",
    "BrokenResult",
    "BrokenWorker",
    "DeathCertificate",
    "EngineCannot",
    "EngineUnavailable",
    "Evidence",
    "Executor",
    "ForkWarning",
    "Frame",
    "Future",
    "GlasspoolError",
    "IMapIterator",
    "InitializerFailed",
    "InitializerInfo",
    "MapResult",
    "Pool",
    "PoolInfo",
    "ProcessInfo",
    "ProgressWarning",
    "SerializationError",
    "Snapshot",
    "StallWarning",
    "TaskCancelled",
    "TaskExit",
    "TaskInfo",
    "TaskTimeout",
    "ThreadInfo",
    "ThreadPool",
    "ThreadRef",
    "Undone",
    "UnpicklableResult",
    "WorkerDied",
    "WorkerInfo",
    "WorkerTime",
    "__version__",
    "inspect",
    "install",
    "name_threads",
    "register_joblib",
    "report_progress",
    "uninstall",
    "worker",
]

_HOME = {
    "glasspool.broken": """BrokenInitializer BrokenPool BrokenResult BrokenWorker
        UnpicklableResult""",
    "glasspool.engines.local.progress": "report_progress",
    "glasspool.engines.local.worker": "WorkerInfo",
    "glasspool.errors": """EngineCannot EngineUnavailable GlasspoolError InitializerFailed SerializationError
        TaskCancelled TaskExit TaskTimeout WorkerDied""",
    "glasspool.executor": "Executor",
    "glasspool.futures": "Future",
    "glasspool.joblib": "register_joblib",
    "glasspool.observe.entry": "inspect name_threads",
    "glasspool.pool": "Pool",
    "glasspool.registry": "ForkWarning ProgressWarning StallWarning",
    "glasspool.replacement": "install uninstall",
    "glasspool.results": "AsyncResult IMapIterator MapResult",
    "glasspool.threadpool": "ThreadPool",
    "glasspool.undone": "Undone",
    "glasspool.snapshot": """DeathCertificate Evidence Frame InitializerInfo PoolInfo ProcessInfo
        Snapshot TaskInfo ThreadInfo ThreadRef WorkerTime""",
}
# Each public name is loaded when it is first asked for: a view does not need a pool, nor a pool views.
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}


def worker() -> WorkerInfo | None:
    """Return where the calling task runs: pool, slot, process, task. None outside a worker."""
    import sys

    from glasspool.engines.local.worker import current

    runners = sys.modules.get("glasspool.engines.threads.runner")
    runner = None if runners is None else runners.here()
    return current() if runner is None else runner.describe()


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(__import__(module, fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
