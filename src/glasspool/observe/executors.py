"""What executors of ``concurrent.futures`` and of loky know of themselves.

loky also in the copy that joblib brings. No library is imported for it, and nothing in here keeps an
executor alive or takes one of its locks. An executor that the program shut down or dropped while tasks
ran is told by its manager thread, which keeps what the executor gives up.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from glasspool.engines.local import arguments
from glasspool.observe import inside, libraries, stock_states
from glasspool.observe.inside import Helper, Inside
from glasspool.snapshot import TaskInfo

KINDS = {
    ("concurrent.futures.process", "ProcessPoolExecutor"): libraries.EXECUTOR,
    ("concurrent.futures.thread", "ThreadPoolExecutor"): libraries.THREAD_EXECUTOR,
    ("loky.process_executor", "ProcessPoolExecutor"): libraries.LOKY,
    ("joblib.externals.loky.process_executor", "ProcessPoolExecutor"): libraries.LOKY,
}
"""The kind of executor by the module and the name of its class."""

OPEN_TASKS = 1000
"""A picture lists at most so many tasks that do not run; the counters count all."""

_MANAGER = "_ExecutorManagerThread"
_THREADS = "concurrent.futures.thread"
_BACKEND = "joblib._parallel_backends"


def home_of(kind: type) -> tuple[str, str] | None:
    """Return module and name of the executor that a class is or descends from, or None."""
    for base in kind.__mro__:
        if (base.__module__, base.__qualname__) in KINDS:
            return base.__module__, base.__qualname__
    return None


def pool_of_joblib(target: Any) -> tuple[bool, Any]:
    """Tell whether an object is a ``joblib.Parallel`` or a backend, and the pool that it runs on now."""
    names = {(base.__module__, base.__qualname__) for base in type(target).__mro__}
    if ("joblib.parallel", "Parallel") in names:
        return True, pool_of_joblib(getattr(target, "_backend", None))[1]
    if (_BACKEND, "ParallelBackendBase") not in names:
        return False, None
    pool = getattr(target, "_workers", None)
    return True, getattr(target, "_pool", None) if pool is None else pool


def found() -> list[Inside]:
    """Find the executors of this process that have a thread, and read them.

    An executor that has not been given a task has none yet.
    """
    told = []
    lanes: dict[int, list[threading.Thread]] = {}
    for thread in threading.enumerate():
        if _is_manager(thread):
            executor = getattr(thread, "executor_reference", _nothing)()
            told.append(_read_processes(executor, thread))
        elif _is_lane(thread):
            queue = _queue_of(thread)
            lanes.setdefault(id(thread if queue is None else queue), []).append(thread)
    told += [_read_threads(_executor_of(threads), threads) for threads in lanes.values()]
    return told


def read(executor: Any) -> Inside:
    """Read what an executor of this process, in any state, knows of itself."""
    home = home_of(type(executor))
    if home is not None and home[0] == _THREADS:
        return _read_threads(executor, list(getattr(executor, "_threads", ())))
    manager = getattr(executor, "_executor_manager_thread", None)
    if manager is None:
        # Shut down: the executor has given its parts up, its thread may still have them.
        manager = next((thread for thread in _managers() if _serves(thread, executor)), None)
    return _read_processes(executor, manager)


def _managers() -> Iterator[threading.Thread]:
    return (thread for thread in threading.enumerate() if _is_manager(thread))


def _is_manager(thread: threading.Thread) -> bool:
    return any(base.__qualname__ == _MANAGER for base in type(thread).__mro__)


def _serves(thread: threading.Thread, executor: Any) -> bool:
    return getattr(thread, "executor_reference", _nothing)() is executor


def _nothing() -> None:
    return None


# Executors with processes -----------------------------------------------------------------------------


def _read_processes(executor: Any, manager: threading.Thread | None) -> Inside:
    keys = [key for key in (executor, manager) if key is not None]
    name = inside.name_of("executor", *keys)
    home = _home_of_parts(executor, manager)
    # The executor gives its parts up as it is shut down, the thread keeps them.
    calls = _part(manager, "call_queue", executor, "_call_queue")
    results = _part(manager, "result_queue", executor, "_result_queue")
    processes = _part(manager, "processes", executor, "_processes") or {}
    items = dict(_part(manager, "pending_work_items", executor, "_pending_work_items") or {})
    ids = _part(manager, "work_ids_queue", executor, "_work_ids")
    method = _start_method(executor, calls)
    helpers = tuple(_helpers(name, executor, manager, calls))
    waiting = inside.length_of(ids)
    sent, kept = _tasks(items)
    broken = _broken(executor, manager)
    state = _state(executor, manager, broken)
    return Inside(
        name=name,
        kind=KINDS[home],
        state=state,
        start_method=method,
        size=getattr(executor, "_max_workers", 0) or len(processes),
        initializer=inside.function_name(getattr(executor, "_initializer", None)),
        helpers=helpers,
        workers=inside.processes_of(list(processes.values()), method),
        servers=_servers(method, home[0]),
        stats={"tasks": len(items), "sent": max(0, len(items) - waiting), "waiting": waiting},
        queue=stock_states.queue_of(calls, results) if method == "fork" else None,
        sent=sent,
        waiting=kept,
        notes=tuple(_notes(executor, manager, state, broken)),
    )


def _home_of_parts(executor: Any, manager: threading.Thread | None) -> tuple[str, str]:
    home = None if executor is None else home_of(type(executor))
    if home is not None:
        return home
    homes = (base.__module__ for base in type(manager).__mro__)
    return next(
        (
            (module, "ProcessPoolExecutor")
            for module in homes
            if (module, "ProcessPoolExecutor") in KINDS
        ),
        ("concurrent.futures.process", "ProcessPoolExecutor"),
    )


def _part(manager: Any, of_manager: str, executor: Any, of_executor: str) -> Any:
    part = getattr(manager, of_manager, None)
    return getattr(executor, of_executor, None) if part is None else part


def _helpers(name: str, executor: Any, manager: Any, calls: Any) -> Iterator[Helper]:
    number = name.rpartition("-")[2]
    kind = "ProcessPoolExecutor" if executor is None else type(executor).__qualname__
    if manager is not None and manager.is_alive():
        attribute = getattr(executor, "_executor_manager_thread", None) is manager
        proof = f"{kind}._executor_manager_thread" if attribute else f"{_MANAGER} of {kind}"
        roles = libraries.MANAGER_ROLES
        yield Helper(manager, roles, proof, f"{name} manager", f"e{number} manager")
    feeder = getattr(calls, "_thread", None)  # it starts with the first task that is put
    if isinstance(feeder, threading.Thread) and feeder.is_alive():
        proof = f"{kind}._call_queue._thread"
        yield Helper(feeder, ("task-handler",), proof, f"{name} queue-feeder", f"e{number} feeder")


def _start_method(executor: Any, calls: Any) -> str:
    for holder, attribute in ((executor, "_mp_context"), (executor, "_context"), (calls, "_ctx")):
        context: Any = getattr(holder, attribute, None)
        if hasattr(context, "get_start_method"):
            return str(context.get_start_method())
    return "unknown"


def _servers(method: str, module: str) -> tuple[tuple[str, int], ...]:
    if module == "concurrent.futures.process":
        return inside.servers(method)
    package = module.rpartition(".")[0]
    return inside.servers(method, f"{package}.backend")


def _broken(executor: Any, manager: Any) -> str | None:
    flags = getattr(executor, "_flags", None) or getattr(manager, "executor_flags", None)
    told = getattr(executor, "_broken", None) or getattr(flags, "broken", None)
    return str(told) if told else None


def _state(executor: Any, manager: Any, broken: str | None) -> str:
    if broken is not None:
        return "broken"
    flags = getattr(executor, "_flags", None) or getattr(manager, "executor_flags", None)
    down = getattr(executor, "_shutdown_thread", False) or getattr(flags, "shutdown", False)
    return "shut down" if down or executor is None else "running"


def _notes(executor: Any, manager: Any, state: str, broken: str | None) -> Iterator[str]:
    if broken is not None:
        yield f"It is broken, and takes no more tasks: {' '.join(broken.split())[:300]}"
    elif executor is None:
        yield "The program has dropped the executor: it ends when its tasks have ended."
    elif manager is None and state == "running":
        yield "It has no thread yet: the first task starts them."
    module = type(executor).__module__
    if module.startswith("joblib."):
        yield f"It is joblib's {type(executor).__qualname__}."


# Executors of threads ---------------------------------------------------------------------------------


def _is_lane(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    if getattr(target, "__module__", None) == _THREADS:
        return getattr(target, "__name__", None) == "_worker"
    return False


def _executor_of(lanes: Iterable[threading.Thread]) -> Any:
    # A thread that ends meanwhile has given up its arguments: another of the executor's has them.
    references = [args[0] for lane in lanes if (args := getattr(lane, "_args", ()))]
    found = (reference() for reference in references if callable(reference))
    return next((executor for executor in found if executor is not None), None)


def _queue_of(lane: threading.Thread) -> Any:
    queues = getattr(sys.modules.get(_THREADS), "_threads_queues", None)
    return None if queues is None else queues.get(lane)


def _read_threads(executor: Any, lanes: Sequence[threading.Thread]) -> Inside:
    living = sorted((lane for lane in lanes if lane.is_alive()), key=lambda lane: lane.ident or 0)
    queue = getattr(executor, "_work_queue", None)
    if queue is None and living:
        queue = _queue_of(living[0])
    # All of its threads, as each of them may end meanwhile.
    name = inside.name_of("executor", *(key for key in (executor, *lanes) if key is not None))
    kind = "ThreadPoolExecutor" if executor is None else type(executor).__qualname__
    helpers = tuple(
        Helper(lane, ("task",), f"in {kind}._threads", None, inside.fitted(lane.name))
        for lane in living
    )
    broken = getattr(executor, "_broken", None)
    down = executor is None or getattr(executor, "_shutdown", False)
    notes = []
    if broken:
        notes.append(f"It is broken, and takes no more tasks: {broken}")
    elif executor is None:
        notes.append("The program has dropped the executor: it ends when its tasks have ended.")
    return Inside(
        name=name,
        kind=libraries.THREAD_EXECUTOR,
        state="broken" if broken else "shut down" if down else "running",
        start_method=None,
        size=getattr(executor, "_max_workers", 0) or len(living),
        initializer=inside.function_name(getattr(executor, "_initializer", None)),
        helpers=helpers,
        stats={"waiting": inside.length_of(queue), "threads": len(living)},
        notes=tuple(notes),
    )


# Tasks ------------------------------------------------------------------------------------------------


def _tasks(items: Mapping[int, Any]) -> tuple[tuple[TaskInfo, ...], tuple[TaskInfo, ...]]:
    """Tell of the open tasks: those handed out, which may run, and those that wait."""
    sent: list[TaskInfo] = []
    waiting: list[TaskInfo] = []
    for number, item in sorted(items.items())[:OPEN_TASKS]:
        # Handed out is what can no longer be cancelled. Read without the future's lock.
        state = getattr(getattr(item, "future", None), "_state", "")
        told = sent if state == "RUNNING" else waiting
        told.append(_task(number, item, "sent" if state == "RUNNING" else "waiting"))
    return tuple(sent), tuple(waiting)


def _task(number: int, item: Any, state: str) -> TaskInfo:
    function, args = getattr(item, "fn", None), getattr(item, "args", ())
    kwds, items = getattr(item, "kwargs", {}), 1
    chunk = getattr(function, "args", ())
    batch = getattr(function, "items", None)
    if getattr(getattr(function, "func", None), "__name__", "") == "_process_chunk" and chunk:
        # A chunk of the executor's map.
        function, items = chunk[0], len(args[0]) if args else 1
        args = ()
    elif type(function).__module__ == "joblib.parallel" and isinstance(batch, list) and batch:
        function, items = batch[0][0], len(batch)
    return TaskInfo(
        id=number,
        job=None,
        function=inside.function_name(function) or "?",
        state=state,
        items=items,
        arguments=None if items > 1 or not (args or kwds) else _arguments(args, kwds),
    )


def _arguments(args: Any, kwds: Any) -> str | None:
    try:
        text = arguments.show(tuple(args))
        return text if not kwds else f"{text}, {arguments.show(dict(kwds))}"
    except Exception:  # a text is not worth more: the program may be changing them
        return None
