"""The functions of the pool libraries that threads are found in, and what each of their calls means.

One table for all libraries: file, function, and for the names that it calls the step that the thread
takes then. The entry ``""`` is the step of any other line. Functions that are not in it are the user's, but
for the folders of ``passes``, through which every library waits, sends and starts.

Source: the libraries' code: Python 3.11 to 3.13, loky 3.5, multiprocess 0.70, billiard 4.2, joblib 1.4.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from glasspool.observe import sources
from glasspool.snapshot import Frame

STOCK = "multiprocessing.Pool"
THREADS = "multiprocessing.pool.ThreadPool"
EXECUTOR = "concurrent.futures.ProcessPoolExecutor"
THREAD_EXECUTOR = "concurrent.futures.ThreadPoolExecutor"
LOKY = "loky"
MULTIPROCESS = "multiprocess.Pool"
BILLIARD = "billiard.Pool"

HANDLERS = (("worker-handler",), ("task-handler",), ("result-handler",))
"""The roles of a stock pool's three threads, in the order in which they begin."""

MANAGER_ROLES = ("worker-handler", "result-handler", "task-handler")
"""An executor has one thread for all of its duties, and a second that only pickles and sends."""


BY_NAME = {
    "get": "get",
    "get_payload": "get",
    "put": "put",
    "send_payload": "put",
    "_sendback_result": "put",
}
"""What the name of a library's function tells, where its source cannot be read."""


@dataclass(frozen=True, slots=True)
class Known:
    """One function of a library.

    ``steps`` are by the name of what is called. ``roles`` are those of a thread whose loop it is. An
    ``adapter`` stands between the loop and the user's function; ``chunk`` says that it runs several items.
    """

    steps: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    adapter: bool = False
    chunk: bool = False

    def step(self, frame: Frame) -> str | None:
        """Tell the step that a frame of this function is at."""
        name = last_part(frame.function)
        names = sources.names_at(frame.file, name, frame.line)
        if not names and not sources.is_readable(frame.file):
            return BY_NAME.get(name) or (self.steps.get("") if len(self.steps) == 1 else None)
        # The innermost call of the line is the one that runs.
        found = next((self.steps[name] for name in reversed(names) if name in self.steps), None)
        return found or self.steps.get("")


def _worker(**steps: str) -> Known:
    return Known({"initializer": "initializer", **steps, "": "between"}, ("task",))


def _handler(role: str, **steps: str) -> Known:
    return Known(steps, (role,))


_ADAPTER = Known(adapter=True)
_CHUNK = Known(adapter=True, chunk=True)

# Shared by the standard library's pool and its copies.
_ENDS = {"_set": Known({"_callback": "callback", "_error_callback": "callback"}, adapter=True)}
_ITERATING = {
    "_guarded_task_generation": Known({"": "iterable"}, adapter=True),
    "_get_tasks": Known({"": "iterable"}, adapter=True),
}
_CHUNKS = {"mapstar": _CHUNK, "starmapstar": _CHUNK}

_STOCK_POOL = {
    "worker": _worker(get="get", put="put", func="task"),
    "_handle_workers": _handler(
        "worker-handler", _maintain_pool="reap", _wait_for_updates="wait", put="wait"
    ),
    "_maintain_pool": Known({"_join_exited_workers": "reap", "_repopulate_pool_static": "start"}),
    "_join_exited_workers": Known({"": "reap"}),
    "_repopulate_pool": Known({"": "start"}),
    "_repopulate_pool_static": Known({"": "start"}),
    "_wait_for_updates": Known({"": "wait"}),
    "_handle_tasks": _handler(
        "task-handler", iter="wait", taskseq="iterable", put="send", _set="callback"
    ),
    "_handle_results": _handler("result-handler", get="wait", poll="wait", _set="take"),
    "_set_length": Known({"": "send"}),
    **_ENDS,
    **_ITERATING,
    **_CHUNKS,
}

_MANAGER_STEPS = {
    "add_call_item_to_queue": "send",
    "wait_result_broken_or_wakeup": "wait",
    "process_result_item": "take",
    "_adjust_process_count": "start",
    "terminate_broken": "break",
    "flag_executor_shutting_down": "leaving",
    "join_executor_internals": "leaving",
    "join": "reap",
    "": "between",
}
_MANAGER = {
    "run": Known({**_MANAGER_STEPS, "_run_loop": "between"}, MANAGER_ROLES),
    "_run_loop": Known(_MANAGER_STEPS),
    "add_call_item_to_queue": Known({"": "send"}),
    "wait_result_broken_or_wakeup": Known({"wait": "wait", "recv": "receive", "clear": "wait"}),
    "process_result_item": Known({"_adjust_process_count": "start", "join": "reap", "": "take"}),
    "_adjust_process_count": Known({"": "start"}),
    "_spawn_process": Known({"": "start"}),
    "_launch_processes": Known({"": "start"}),
    "terminate_broken": Known({"": "break"}),
    "_terminate_broken": Known({"": "break"}),
    "join_executor_internals": Known({"": "leaving"}),
    "_join_executor_internals": Known({"": "leaving"}),
    "shutdown_workers": Known({"": "leaving"}),
    "kill_workers": Known({"": "break"}),
}
_SENDING_BACK = {"_sendback_result": Known({"put": "put", "": "put"}), "_process_chunk": _CHUNK}

_PROCESS_EXECUTOR = {
    "_process_worker": _worker(get="get", fn="task", put="put", _sendback_result="put"),
    "_on_queue_feeder_error": Known({"": "take"}),
    **_MANAGER,
    **_SENDING_BACK,
}
_LOKY_EXECUTOR = {
    "_process_worker": _worker(
        get="get", call_item="task", put="put", _sendback_result="put",
        worker_exit_lock="leaving", acquire="leaving", _python_exit="leaving",
    ),
    "_CallItem.__call__": Known({"": "task"}, adapter=True),
    "_on_queue_feeder_error": Known({"": "take"}),
    **_MANAGER,
    **_SENDING_BACK,
}  # fmt: skip
_THREAD_EXECUTOR = {
    "_worker": _worker(initialize="initializer", get="get", get_nowait="get", run="task"),
    "_WorkItem.run": Known(
        {"fn": "task", "run": "task", "set_result": "between", "set_exception": "between"},
        adapter=True,
    ),
    "WorkerContext.run": _ADAPTER,
    "WorkerContext.initialize": Known({"": "initializer"}, adapter=True),
}
_FUTURES = {"_invoke_callbacks": Known({"callback": "callback"})}
_BILLIARD_POOL = {
    "Worker.__call__": Known({"_do_exit": "leaving", "": "starting"}, ("task",)),
    "Worker.after_fork": Known({"initializer": "initializer", "": "starting"}, ("task",)),
    "Worker.workloop": _worker(
        wait_for_job="get", put="put", fun="task", _ensure_messages_consumed="leaving"
    ),
    "Worker._do_exit": Known({"": "leaving"}),
    "Worker._ensure_messages_consumed": Known({"": "leaving"}),
    "receive": Known({"_receive": "get"}),
    "_recv": Known({"_poll": "receive", "get_payload": "get", "get": "get", "loads": "rebuild"}),
    "Supervisor.body": _handler("worker-handler", sleep="wait", _maintain_pool="reap"),
    "_maintain_pool": Known({"_join_exited_workers": "reap", "_repopulate_pool": "start"}),
    "_join_exited_workers": Known({"": "reap"}),
    "_repopulate_pool": Known({"": "start"}),
    "_create_worker_process": Known({"": "start"}),
    "TaskHandler.body": _handler(
        "task-handler", iter="wait", taskseq="iterable", enumerate="iterable", put="send",
        _set="callback", set_length="send", tell_others="send",
    ),
    "TaskHandler.tell_others": Known({"": "send"}),
    "ResultHandler.body": _handler("result-handler", _process_result="wait"),
    "ResultHandler._process_result": Known({"poll": "wait", "on_state_change": "take"}),
    "ResultHandler.finish_at_shutdown": Known({"poll": "wait", "on_state_change": "take"}),
    "_poll_result": Known({"poll": "wait", "_quick_get": "wait"}),
    "on_state_change": Known({"": "take"}),
    "on_ack": Known({"": "take"}),
    "on_ready": Known({"on_job_ready": "callback", "": "take"}),
    "on_death": Known({"": "take"}),
    "_ack": Known({"_accept_callback": "callback", "": "take"}),
    "_set_length": Known({"": "send"}),
    "TimeoutHandler.body": _handler("worker-handler", sleep="watch", handle_timeouts="watch"),
    "TimeoutHandler.handle_timeouts": Known({"": "watch"}),
    "safe_apply_callback": Known({"": "callback"}, adapter=True),
    **_ENDS,
    **_ITERATING,
    **_CHUNKS,
}  # fmt: skip

_GET = {"_rlock": "lock", "acquire": "lock", "loads": "rebuild"}
_RECEIVE = {"recv_bytes": "receive", "_recv_bytes": "receive", "_poll": "receive"}
_PUT = {"_wlock": "send-lock", "send_bytes": "send", "_writer": "send", "dumps": "pickle"}
_FEED = Known(
    {
        "nacquire": "wait", "nwait": "wait", "nrelease": "wait", "bpopleft": "wait",
        "dumps": "pickle", "wacquire": "send-lock", "send_bytes": "send", "onerror": "take",
        "": "wait",
    },
    ("task-handler",),
)  # fmt: skip
_QUEUES = {
    "get": Known({**_GET, **_RECEIVE, "get_payload": "lock"}),
    "get_payload": Known({**_GET, **_RECEIVE}),
    "put": Known({**_PUT, "send_payload": "send"}),
    "send_payload": Known(_PUT),
    "_feed": _FEED,
}
_JOBLIB_QUEUE = {
    "get": Known({"racquire": "lock", "recv": "receive"}),
    "put": Known({"wlock_acquire": "send-lock", "send": "send"}),
    "send": Known({"dump": "pickle", "send_bytes": "send"}),
}
_CONNECTION = {
    "recv": Known({"_recv_bytes": "receive", "loads": "rebuild"}),
    "send": Known({"dumps": "pickle", "_send_bytes": "send"}),
    "_send_bytes": Known({"": "send"}, adapter=True),
    "wait": Known(),
}
_PICKLING = {"dumps": Known({"": "pickle"}, adapter=True), "dump": _ADAPTER}
_JOBLIB = {
    "BatchedCalls.__call__": _CHUNK,
    "_TracebackCapturingWrapper.__call__": _ADAPTER,
    "BatchCompletionCallBack.__call__": Known({"": "callback"}, adapter=True),
    "BatchCompletionCallBack._dispatch_new": Known({"": "callback"}, adapter=True),
    "Parallel.dispatch_next": Known({"": "callback"}, adapter=True),
    "Parallel.dispatch_one_batch": Known({"islice": "iterable", "list": "iterable"}, adapter=True),
    "<listcomp>": _ADAPTER,
}
_COMPREHENSION = {"<listcomp>": _ADAPTER}

_COPIES = ("multiprocessing", "multiprocess", "billiard")

_FILES: dict[str, tuple[str, Mapping[str, Known]]] = {
    "multiprocessing/pool.py": (STOCK, _STOCK_POOL),
    "multiprocess/pool.py": (MULTIPROCESS, _STOCK_POOL),
    "billiard/pool.py": (BILLIARD, _BILLIARD_POOL),
    "concurrent/futures/process.py": (EXECUTOR, {**_PROCESS_EXECUTOR, **_COMPREHENSION}),
    "concurrent/futures/thread.py": (THREAD_EXECUTOR, _THREAD_EXECUTOR),
    "concurrent/futures/_base.py": ("", _FUTURES),
    "loky/process_executor.py": (LOKY, {**_LOKY_EXECUTOR, **_COMPREHENSION}),
    "loky/_base.py": (LOKY, _FUTURES),
    "loky/backend/queues.py": (LOKY, _QUEUES),
    "loky/backend/reduction.py": (LOKY, _PICKLING),
    "joblib/parallel.py": ("", _JOBLIB),
    "joblib/_utils.py": ("", _JOBLIB),
    "joblib/pool.py": ("", _JOBLIB_QUEUE),
    "multiprocessing/queues.py": (EXECUTOR, _QUEUES),
    **{f"{copy}/queues.py": (copy, _QUEUES) for copy in _COPIES[1:]},
    **{f"{copy}/connection.py": (copy, _CONNECTION) for copy in _COPIES},
    **{f"{copy}/reduction.py": (copy, _PICKLING) for copy in _COPIES},
}

# Files whose functions never are the user's, where the thread is not in the user's code already.
_PASSES = (
    *(f"{copy}/{file}.py" for copy in (*_COPIES, "loky/backend") for file in (
        "connection", "synchronize", "process", "context", "popen_fork", "popen_spawn_posix",
        "popen_forkserver", "popen_loky_posix", "forkserver", "spawn", "util", "resource_tracker",
        "semaphore_tracker", "reduction", "queues", "fork_exec", "pool", "process_executor",
    )),
    "multiprocessing/dummy/__init__.py",
    "loky/process_executor.py",
    "concurrent/futures/process.py",
    "concurrent/futures/thread.py",
    "concurrent/futures/_base.py",
    "/selectors.py",
    "/threading.py",
    "/queue.py",
    "/subprocess.py",
    "/weakref.py",
)  # fmt: skip

_QUEUE_FILES = tuple(f"{copy}/queues.py" for copy in (*_COPIES, "loky/backend"))
_PIPES = tuple(f"{copy}/connection.py" for copy in _COPIES)
_LOCKS = tuple(f"{copy}/synchronize.py" for copy in (*_COPIES, "loky/backend"))


def last_part(function: str) -> str:
    """Return a function's own name: ``get`` of ``SimpleQueue.get``."""
    return function.rpartition(".")[2]


@functools.lru_cache(maxsize=1024)
def library(file: str) -> str | None:
    """Return the key of the table that a file has, None if it is not in it."""
    path = file.replace("\\", "/")
    return next((key for key in _FILES if path.endswith("/" + key)), None)


def kind_of(frame: Frame) -> str:
    """Return the kind of pool that a frame's file belongs to, empty if it serves several."""
    key = library(frame.file)
    return "" if key is None else _FILES[key][0]


def known(frame: Frame) -> Known | None:
    """Return what is known of a frame's function, by its full name, else by its last part."""
    key = library(frame.file)
    if key is None:
        return None
    functions = _FILES[key][1]
    return functions.get(frame.function) or functions.get(last_part(frame.function))


@functools.lru_cache(maxsize=1024)
def passes(file: str) -> bool:
    """Tell whether a file holds nothing that could be the user's."""
    path = file.replace("\\", "/")
    return path.startswith("<frozen") or path.endswith(_PASSES)


def is_queue(frame: Frame) -> bool:
    """Tell whether a frame is in a queue that processes share."""
    return frame.file.replace("\\", "/").endswith(_QUEUE_FILES)


def is_pipe(frame: Frame) -> bool:
    """Tell whether a frame reads from or writes into a pipe."""
    return frame.file.replace("\\", "/").endswith(_PIPES)


def is_lock(frame: Frame) -> bool:
    """Tell whether a frame waits for a lock that processes share."""
    path = frame.file.replace("\\", "/")
    return path.endswith(_LOCKS) and last_part(frame.function) == "__enter__"
