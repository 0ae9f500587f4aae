"""Pure: what the threads of a pool that is not ours are at, as their stacks tell.

One table says, for each library, which function of which file is whose loop; which line of the loop
takes which step is found in the library's source. For the standard library's ``Pool``, ``ThreadPool``,
``ProcessPoolExecutor`` and ``ThreadPoolExecutor``, for loky, multiprocess and billiard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from glasspool.observe import libraries
from glasspool.observe.libraries import last_part
from glasspool.snapshot import Frame

if TYPE_CHECKING:
    from glasspool.observe.threads import Stack

ARGUMENTS_CHARS = 80
"""How much of a task's arguments is told."""

_USERS_STEPS = frozenset({"initializer", "task", "iterable", "callback", "pickle", "rebuild"})
_PICKLE_STEPS = frozenset({"pickle", "rebuild"})

_WORKER_STATES = {
    "starting": "starting",
    "initializer": "initializing",
    "lock": "idle",
    "receive": "idle",
    "idle": "idle",
    "leaving": "leaving",
}
_SENDING = frozenset({"put", "send", "send-lock"})

_WORKER_WORDS = {
    "starting": "starting",
    "initializer": "running your initializer",
    "lock": "waiting for work",
    "receive": "waiting for work, holds the queue's lock",
    "idle": "waiting for work",
    "rebuild": "rebuilding a task",
    "pickle": "pickling its result",
    "send-lock": "sending its result, waits for the queue's lock",
    "send": "sending its result",
    "callback": "running your callback",
    "between": "between two tasks",
    "leaving": "leaving",
    "unknown": "unknown: its library's source cannot be read",
}
_HELPER_WORDS = {
    "worker-handler": {
        "wait": "watching workers",
        "reap": "looking for ended workers",
        "start": "starting a worker",
        "watch": "watching time limits",
    },
    "task-handler": {
        "wait": "waiting for work",
        "iterable": "running your iterable",
        "pickle": "pickling your arguments",
        "send": "sending a task",
        "send-lock": "sending a task, waits for the queue's lock",
        "callback": "running your error callback",
        "take": "reporting an error",
    },
    "result-handler": {
        "wait": "waiting for results",
        "take": "taking in a result",
        "receive": "receiving a result",
        "rebuild": "rebuilding a result",
        "callback": "running your callback",
        "iterable": "running your iterable",
        "send": "handing out tasks",
        "start": "starting a worker",
        "reap": "waiting for a worker to end",
        "break": "giving up: a worker died",
        "leaving": "ending the workers",
        "between": "between two results",
    },
}
_FEEDER = "the executor's queue feeder"
_MANAGER = "the executor's manager thread"

# Calls of a pool in which a user's thread waits: of which file, and whether with what class before it.
_CALLS = {
    "multiprocessing/pool.py": re.compile(r"(Pool|\w*Result|IMap\w*Iterator)\.[a-z]\w*|.*__next__"),
    "multiprocess/pool.py": re.compile(r"(Pool|\w*Result|IMap\w*Iterator)\.[a-z]\w*|.*__next__"),
    "billiard/pool.py": re.compile(r"(Pool|\w*Result|IMap\w*Iterator)\.[a-z]\w*|.*__next__"),
    "concurrent/futures/_base.py": re.compile(
        r"Future\.(result|exception)|wait|as_completed|Executor\.(map|shutdown).*|.*result_iterator"
    ),
    "concurrent/futures/process.py": re.compile(
        r"ProcessPoolExecutor\.(map|shutdown)|_chain_from_iterable_of_lists|_python_exit"
    ),
    "concurrent/futures/thread.py": re.compile(r"ThreadPoolExecutor\.shutdown|_python_exit"),
    "loky/process_executor.py": re.compile(
        r"ProcessPoolExecutor\.(map|shutdown)|_chain_from_iterable_of_lists|_python_exit"
    ),
    "joblib/parallel.py": re.compile(r"Parallel\.(__call__|_get_sequential_output|_get_outputs)"),
}
# What the user called where the frame is one of the library's own.
_CALLED = {
    "_chain_from_iterable_of_lists": "Executor.map",
    "Executor.map.<locals>.result_iterator": "Executor.map",
    "Parallel._get_sequential_output": "Parallel",
    "Parallel._get_outputs": "Parallel",
    "Parallel.__call__": "Parallel",
    "_python_exit": "the end of the program, for its executors",
}
_SERVERS = (
    ("/resource_tracker.py", "main", "resource-tracker"),
    ("/semaphore_tracker.py", "main", "resource-tracker"),
    ("/forkserver.py", "main", "fork-server"),
    ("/managers.py", "_run_server", "manager"),
)
_BOOTSTRAPS = tuple(
    f"{copy}/process.py" for copy in ("multiprocessing", "multiprocess", "billiard")
)

_REPORTS = ("/glasspool/pytest.py", "/glasspool/watchdog.py")


@dataclass(frozen=True, slots=True)
class Place:
    """What a thread of a pool is at.

    ``kind`` is the pool's, as in ``PoolInfo``: ``multiprocessing.Pool``,
    ``multiprocessing.pool.ThreadPool``, ``concurrent.futures.ProcessPoolExecutor``,
    ``concurrent.futures.ThreadPoolExecutor``, ``loky``, ``multiprocess.Pool`` or ``billiard.Pool``; empty
    where the stack does not tell which: of a caller in a call that several libraries share, and of a
    process that multiprocessing starts or ends. ``roles`` are those of ``ThreadInfo``.

    ``step`` is one word. Of a worker (role ``task``): ``starting``, ``initializer``, ``lock`` (idle, waits
    for the lock of the queue of tasks), ``receive`` (idle, holds that lock and waits for the pipe), ``idle``
    (idle, no more is known), ``rebuild`` (unpickles a task), ``task``, ``pickle`` (pickles its result),
    ``send-lock`` (waits for the lock of the queue of results), ``send`` (holds that lock and writes into the
    pipe), ``callback`` (of a future, in a pool of threads), ``between``, ``leaving``, ``unknown`` (its
    library's source cannot be read, and nothing else tells). Of helper threads: ``wait`` (nothing to do),
    ``start`` (starts a worker), ``reap`` (looks for ended workers), ``watch`` (billiard's time limits),
    ``iterable``, ``pickle``, ``send-lock``, ``send``, ``callback``, ``receive``, ``rebuild``, ``take``,
    ``between``, ``break`` (ends a broken executor), ``leaving``, ``unknown``. Of a caller: ``wait``.
    ``words`` says the same for people.

    ``stack`` is without what a fork inherited. ``users`` are the frames above the pool's own, outermost
    first: the task's, the iterable's or the callback's. ``job``, ``index``, ``completed`` (tasks ended by
    this worker so far) and ``arguments`` are known where local variables could be read. ``variables`` are
    those of the loop's frame. ``call`` is the pool's call in which the thread waits, such as ``Pool.map``:
    a caller's, and that of a task which waits for a pool itself.
    """

    kind: str
    roles: tuple[str, ...]
    step: str
    words: str
    stack: Stack
    users: Stack = ()
    function: str | None = None
    job: int | None = None
    index: int | None = None
    chunk: bool = False
    arguments: str | None = None
    completed: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    call: str | None = None


def place(stack: Stack, variables: Sequence[Mapping[str, str]] = ()) -> Place | None:
    """Say what a thread is at, from its stack, outermost frame first; None if it serves no pool.

    Args:
        stack: The whole stack; what a fork inherited below the worker's loop is cut off.
        variables: Texts of local variables as py-spy writes them, one mapping for each frame.
    """
    begin = _beginning(stack)
    stack, variables = _before_report(stack[begin:]), variables[begin:]
    at = _innermost_loop(stack)
    if at is not None:
        return _in_loop(stack, variables, at)
    return _calling(stack) or _starting_or_leaving(stack)


def worker_state(step: str) -> str:
    """Return the state of a worker, as in ``ProcessInfo``, whose main thread is at a step."""
    return _WORKER_STATES.get(step, "busy")


def own_part(stack: Stack) -> Stack:
    """Leave out what a process that multiprocessing forked inherited: its parent's frames."""
    return stack[_beginning(stack) :]


def server(stack: Stack) -> str | None:
    """Tell the role of a process that only serves others, from its main thread's stack."""
    for frame in reversed(own_part(stack)):
        if last_part(frame.function) == "_serve_one":
            return None  # a fork server's child, not the server
        for file, function, role in _SERVERS:
            if frame.file.endswith(file) and last_part(frame.function) == function:
                return role
    return None


def call_of(stack: Stack) -> tuple[str, str] | None:
    """Name the pool's call in which a stack waits and the kind of that pool, or None.

    Only a stack whose innermost frames all belong to the pool or to what it waits with counts: a
    callback that a pool runs is the user's code again.
    """
    found = None
    for frame in reversed(stack):
        key = libraries.library(frame.file)
        pattern = None if key is None else _CALLS.get(key)
        if pattern is not None and pattern.fullmatch(frame.function):
            found = libraries.kind_of(frame), _CALLED.get(frame.function, frame.function)
        elif _is_loop(frame) or not (key or libraries.passes(frame.file)):
            break
    return found


def _beginning(stack: Stack) -> int:
    """Find where a process's own life begins in its stack: 0 if it was not forked."""
    for at in range(len(stack) - 1, -1, -1):
        frame = stack[at]
        if last_part(frame.function) == "_bootstrap" and frame.file.endswith(_BOOTSTRAPS):
            return at
    return 0


def _before_report(stack: Stack) -> Stack:
    """Leave out a report of ours on the program, which runs in the thread that it interrupted."""
    for at, frame in enumerate(stack):
        if frame.file.endswith(_REPORTS) and last_part(frame.function) in ("tell", "_tell"):
            while at and stack[at - 1].file.endswith("/pytest_timeout.py"):
                at -= 1
            return stack[:at]
    return stack


def _innermost_loop(stack: Stack) -> int | None:
    return next((at for at in range(len(stack) - 1, -1, -1) if _is_loop(stack[at])), None)


def _is_loop(frame: Frame) -> bool:
    known = libraries.known(frame)
    return known is not None and bool(known.roles)


def _in_loop(stack: Stack, variables: Sequence[Mapping[str, str]], at: int) -> Place | None:
    known = libraries.known(stack[at])
    if known is None:
        return None
    step, users_at, chunk_at = _climb(stack, at)
    own = variables[at] if at < len(variables) else {}
    kind = _kind(stack, at, own)
    if kind is None:
        return None
    seen = _Seen(stack, at, step or "", stack[users_at:], chunk_at, own, kind)
    if known.roles == ("task",):
        return _worker(seen, variables)
    return _helper(seen, known.roles)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A thread's loop at ``stack[at]``, the step it is at, and the frames of the user above."""

    stack: Stack
    at: int
    step: str
    users: Stack
    chunk_at: int | None
    own: Mapping[str, str]
    kind: str


def _climb(stack: Stack, at: int) -> tuple[str | None, int, int | None]:
    """Go from the loop inwards to the user's code: the last step, where that begins, the chunk's frame."""
    step, chunk_at = None, None
    for position in range(at, len(stack)):
        frame = stack[position]
        known = libraries.known(frame)
        if step == "task" and position == at + 1 and libraries.is_queue(frame):
            # Its loop moved on while the stack was read: a task is no queue's function.
            step = libraries.BY_NAME.get(last_part(frame.function), step)
        if step in _USERS_STEPS and not (known is not None and known.adapter):
            if step not in _PICKLE_STEPS or not libraries.passes(frame.file):
                return step, position, chunk_at
            continue
        if known is not None:
            step = known.step(frame) or step
            chunk_at = position if known.chunk else chunk_at
        elif libraries.is_lock(frame):
            step = "send-lock" if step in _SENDING else "lock"
        elif libraries.is_pipe(frame):
            step = "send" if step in _SENDING else "receive" if step in ("get", "lock") else step
        elif not libraries.passes(frame.file):
            return step, position, chunk_at
    return step, len(stack), chunk_at


def _kind(stack: Stack, at: int, own: Mapping[str, str]) -> str | None:
    kind = libraries.kind_of(stack[at])
    if last_part(stack[at].function) == "_feed":
        if own.get("ignore_epipe") == "False":
            return (
                None  # the feeder of a queue of the program's own: executors ignore a closed pipe
            )
        return libraries.EXECUTOR if kind == libraries.EXECUTOR else libraries.LOKY
    if kind in (libraries.STOCK, libraries.MULTIPROCESS) and _is_of_threads(stack, at, own):
        return kind.replace(".Pool", ".pool.ThreadPool")
    return kind


def _is_of_threads(stack: Stack, at: int, own: Mapping[str, str]) -> bool:
    """Tell whether a stock pool's loop is that of a pool of threads."""
    queue = own.get("outqueue")
    if queue is not None:
        return queue.startswith("<_queue.")
    if last_part(stack[at].function) == "worker":
        return at > 0 and stack[at - 1].file.endswith("/threading.py")
    return False


def _worker(seen: _Seen, variables: Sequence[Mapping[str, str]]) -> Place:
    step = {"get": "idle", "put": "send", "": "unknown"}.get(seen.step, seen.step)
    if step == "unknown" and seen.users and seen.own.keys() & {"job", "call_item", "work_item"}:
        step = "task"  # its variables are there from the first task on
    if step == "between" and _has_not_begun(seen):
        step = "starting"
    stack = seen.stack[seen.at :]
    if step != "task":
        return Place(
            kind=seen.kind,
            roles=("task",),
            step=step,
            words=_WORKER_WORDS.get(step, step),
            stack=stack,
            users=seen.users,
            completed=_number(seen.own.get("completed")),
            variables=seen.own,
        )
    function = seen.users[0].function if seen.users else None
    call = call_of(seen.users)
    words = f"running {function or 'a function in C'}"
    return Place(
        kind=seen.kind,
        roles=("task",) if call is None else ("task", "caller"),
        step=step,
        words=words if call is None else f"{words}, waiting in {call[1]}()",
        stack=stack,
        users=seen.users,
        function=function,
        job=_number(seen.own.get("job")),
        index=_number(seen.own.get("i")),
        chunk=seen.chunk_at is not None,
        arguments=_arguments(seen, variables),
        completed=_number(seen.own.get("completed")),
        variables=seen.own,
        call=None if call is None else call[1],
    )


def _has_not_begun(seen: _Seen) -> bool:
    # The stock worker counts its tasks from the moment when its initializer has ended.
    counts = seen.kind in (libraries.STOCK, libraries.MULTIPROCESS)
    return counts and bool(seen.own) and "completed" not in seen.own


def _arguments(seen: _Seen, variables: Sequence[Mapping[str, str]]) -> str | None:
    """Tell the arguments of a task, or of the chunk of items that it is."""
    if seen.chunk_at is not None:
        known = variables[seen.chunk_at] if seen.chunk_at < len(variables) else {}
        text = known.get("chunk") or known.get("args")
        # Of a map the chunk is (function, items): only the items are told.
        return None if text is None else _cut(re.sub(r"^\(<[^>]*>, (.*)\)$", r"\1", text))
    args, keywords = seen.own.get("args"), seen.own.get("kwds") or seen.own.get("kwargs")
    if args is None:
        return None
    return _cut(args if keywords in (None, "{}") else f"{args} {keywords}")


def _cut(text: str) -> str:
    return text if len(text) <= ARGUMENTS_CHARS else text[: ARGUMENTS_CHARS - 3] + "..."


def _helper(seen: _Seen, roles: tuple[str, ...]) -> Place:
    step = seen.step or ("unknown" if seen.users else "wait")
    is_manager = roles == libraries.MANAGER_ROLES
    if step in ("receive", "lock") and not is_manager:
        step = "wait"  # all that it does with the pipe is to wait for it
    job = _number(seen.own.get("job"))
    words = _helper_words(seen, step, "result-handler" if is_manager else roles[0])
    if is_manager:
        words = f"{_MANAGER}, {words}"
    elif last_part(seen.stack[seen.at].function) == "_feed":
        words = f"{_FEEDER}, {words}"
    return Place(
        kind=seen.kind,
        roles=roles,
        step=step,
        words=words,
        stack=seen.stack,
        users=seen.users,
        function=seen.users[0].function if seen.users and step in _USERS_STEPS else None,
        job=job,
        index=None if job is None else _number(seen.own.get("i")),
        variables=seen.own,
    )


def _helper_words(seen: _Seen, step: str, role: str) -> str:
    if step == "pickle" and not seen.users:
        return "pickling a task"
    if step == "callback" and not seen.users:
        return "taking in a result"
    return _HELPER_WORDS[role].get(step) or _WORKER_WORDS.get(step, step)


def _calling(stack: Stack) -> Place | None:
    call = call_of(stack)
    if call is None:
        return None
    kind, name = call
    return Place(kind, ("caller",), "wait", f"waiting in {name}()", stack, call=name)


def _starting_or_leaving(stack: Stack) -> Place | None:
    """Tell of the main thread of a process before its target runs, or after that."""
    starts = any(_is_start(frame) for frame in stack)
    if not starts:
        return None
    for frame in stack:
        if last_part(frame.function) == "_exit_function":
            return Place("", ("task",), "leaving", _WORKER_WORDS["leaving"], stack)
        if last_part(frame.function) == "run" and frame.file.endswith(_BOOTSTRAPS):
            return None  # a process of the user's, with a target of its own
    return Place("", ("task",), "starting", _WORKER_WORDS["starting"], stack)


def _is_start(frame: Frame) -> bool:
    name = last_part(frame.function)
    if name == "_bootstrap":
        return frame.file.endswith(_BOOTSTRAPS)
    if name in ("_serve_one", "spawn_main"):
        return frame.file.endswith(("/forkserver.py", "/spawn.py"))
    return frame.file.endswith("/popen_loky_posix.py")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
