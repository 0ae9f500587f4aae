"""How each fault is caused, and what is looked at then. ``fault_cases`` has the table of them all.

A cause runs in a process of its own. It returns a phrase when all is well, and raises ``Failed`` or
``Hangs`` when it is not. What it cannot do to itself it asks of the process that watches it
(``Scene.ask``). Where the rule is about what is left when the program has ended, the watcher judges.
"""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench import fault_functions as tasks
from bench.fault_pools import Handle, NoSuchCall, Outcome
from bench.fault_scene import MEGABYTE, Failed, Hangs, Scene, brief, kill, name_of, shown, within

# Deaths -------------------------------------------------------------------------------------------


def killed_idle(scene: Scene) -> str:
    """Kill the only worker while it is idle."""
    handle = scene.make(workers=1)
    outcome = scene.end(handle, tasks.give_pid)
    kill(outcome.value)
    time.sleep(0.3)  # so that whoever watches over workers may have seen it
    scene.goes_on(handle)
    return "works on"


def killed_idle_of_two(scene: Scene) -> str:
    """Kill an idle one of two workers, again and again."""
    handle = scene.make(workers=2)
    for _ in range(4):
        outcome = scene.end(handle, tasks.give_pid)
        if outcome.kind == "error":
            raise Failed("pool dead", brief(outcome.error))
        kill(outcome.value)
        time.sleep(0.3)
    scene.goes_on(handle)
    return "works on"


def killed_busy(scene: Scene) -> str:
    """Kill a worker in a task."""
    handle = scene.make()
    job = handle.submit(tasks.nap, 60, scene.path("busy"))
    kill(scene.marked("busy"))
    outcome = scene.wait(handle, job)
    return name_of(outcome)


def killed_goes_on(scene: Scene) -> str:
    """Let a task kill its worker, and use the pool again."""
    handle = scene.make()
    scene.end(handle, tasks.kill_self)
    scene.goes_on(handle)
    return "works on"


def killed_innocents(scene: Scene) -> str:
    """Let one task of many kill its worker."""
    handle = scene.make()
    fatal = (7,)
    return _only(scene, handle, [(number, fatal) for number in range(40)], fatal)


def killed_ten(scene: Scene) -> str:
    """Let ten tasks of a hundred kill their workers."""
    handle = scene.make()
    fatal = tuple(range(5, 100, 10))
    return _only(scene, handle, [(number, fatal) for number in range(100)], fatal)


def _only(
    scene: Scene, handle: Handle, calls: Sequence[tuple[Any, ...]], fatal: Sequence[int]
) -> str:
    """Make sure that only the fatal calls fail."""
    jobs = [handle.submit(tasks.kill_if, *args) for args in calls]
    deadline = time.monotonic() + 2 * scene.wait_s
    ends = [handle.outcome(job, max(0.05, deadline - time.monotonic())) for job in jobs]
    waiting = sum(end.kind == "waiting" for end in ends)
    if waiting:
        raise Hangs(f"{waiting} of {len(ends)} calls do not end")
    lost = sum(end.kind == "error" for number, end in enumerate(ends) if number not in fatal)
    if lost:
        raise Failed(f"{lost} lost", f"{lost} healthy tasks of {len(ends) - len(fatal)} failed")
    return f"only {len(fatal)} of {len(ends)} lost"


def killed_in_map(scene: Scene) -> str:
    """Let one item of a map kill its worker."""
    handle = scene.make()
    seen: list[str] = []

    def run() -> None:
        try:
            handle.map(tasks.kill_at_7, range(20))
            seen.append("values")
        except Exception as error:
            seen.append(type(error).__name__)

    within(scene.wait_s, run, "map")
    return seen[0]


def killed_receiving(scene: Scene) -> str:
    """Kill a worker that has received a part of an argument."""
    handle = scene.make(workers=1)
    worker = scene.end(handle, tasks.give_pid).value
    os.kill(worker, signal.SIGSTOP)
    scene.ask("sleep", 0.8, "kill", worker, signal.SIGKILL)
    outcome = scene.end(handle, tasks.take, bytes(50 * MEGABYTE))
    scene.goes_on(handle)
    return name_of(outcome)


def killed_sending(scene: Scene) -> str:
    """Kill a worker that has sent a part of its result."""
    handle = scene.make(workers=1)
    job = handle.submit(tasks.give, 50 * MEGABYTE, 0.5, scene.path("sends"))
    worker = scene.marked("sends")
    me = os.getpid()
    scene.ask("kill", me, signal.SIGSTOP, "sleep", 1.2)
    scene.ask("kill", worker, signal.SIGKILL, "kill", me, signal.SIGCONT)
    outcome = scene.wait(handle, job)
    scene.goes_on(handle)
    return name_of(outcome)


def killed_replacement(scene: Scene) -> str:
    """Kill a worker, and the one that comes in its place."""
    handle = scene.make(workers=1)
    worker = scene.end(handle, tasks.give_pid).value
    scene.ask("kill-next")
    time.sleep(0.3)
    kill(worker)
    time.sleep(0.3)
    scene.goes_on(handle)
    return "works on"


def killed_all(scene: Scene) -> str:
    """Kill every process that the pool has."""
    handle = scene.make()
    job = handle.submit(tasks.nap, 60, scene.path("busy"))
    scene.marked("busy")
    scene.ask("kill-all")
    outcome = scene.wait(handle, job)
    scene.goes_on(handle)
    return name_of(outcome)


def killed_joining(scene: Scene) -> str:
    """Kill a busy worker of a pool that is closed, and join it."""
    handle = scene.make()
    job = handle.submit(tasks.nap, 60, scene.path("busy"))
    worker = scene.marked("busy")
    try:
        handle.close()
    except NoSuchCall:
        pass  # then it is told at once
    scene.ask("sleep", 0.5, "kill", worker, signal.SIGKILL)
    took = within(scene.wait_s, handle.join, "join()")
    outcome = scene.wait(handle, job)
    return f"{name_of(outcome)} after {took:.1f} s"


def asked_to_end(scene: Scene) -> str:
    """Send a worker the signal that asks a process to end."""
    handle = scene.make()
    job = handle.submit(tasks.nap, 60, scene.path("busy"))
    kill(scene.marked("busy"), signal.SIGTERM)
    outcome = scene.wait(handle, job)
    scene.goes_on(handle)
    return name_of(outcome)


def stopped_idle(scene: Scene) -> str:
    """Stop an idle one of two workers."""
    handle = scene.make()
    pids = [handle.submit(tasks.nap, 0.2) for _ in range(4)]
    workers = {scene.wait(handle, job).value for job in pids}
    os.kill(workers.pop(), signal.SIGSTOP)
    scene.goes_on(handle)
    return "works on"


def bad_end(scene: Scene, function: Callable[..., Any], *args: Any) -> str:
    """Make sure that a call ends, in whatever way, and the pool goes on."""
    handle = scene.make()
    outcome = scene.end(handle, function, *args)
    scene.goes_on(handle)
    return name_of(outcome)


def error(scene: Scene, function: Callable[..., Any], *args: Any) -> str:
    """Make sure that a call ends with an error, and the pool goes on."""
    handle = scene.make()
    name = scene.fails(handle, function, *args)
    scene.goes_on(handle)
    return name


def cause(scene: Scene) -> str:
    """Let a task crash, and read the error."""
    outcome = scene.end(scene.make(), tasks.segfault)
    text = f"{outcome.error} {outcome.error.__cause__ if outcome.error else ''}".lower()
    words = ("sigsegv", "segmentation", "signal 11", "-11", "exit code", "exitcode")
    found = [word for word in words if word in text]
    if not found and getattr(outcome.error, "exitcode", None) is None:
        raise Failed("not told", brief(outcome.error))
    return "told"


def memory(scene: Scene) -> str:
    """Let a task reach a memory limit."""
    name = error(scene, tasks.exhaust_memory)
    if name != "MemoryError":
        raise Failed("not told", f"the error is {name}")
    return name


def grandchild(scene: Scene) -> str:
    """Kill a worker whose children live on, with all its descriptors."""
    handle = scene.make(workers=1)
    job = handle.submit(tasks.leave_a_child, scene.path("busy"))
    kill(scene.marked("busy"))
    outcome = scene.wait(handle, job)
    scene.goes_on(handle)
    return name_of(outcome)


def sigchld_ignored(scene: Scene) -> str:
    """Let a worker die in a program that does not want to hear of its children."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    handle = scene.make()
    scene.goes_on(handle)
    return scene.fails(handle, tasks.kill_self)


def file_limit(scene: Scene) -> str:
    """Return more than the program may write to a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))
    handle = scene.make()
    outcome = scene.end(handle, tasks.give, 20 * MEGABYTE)
    scene.goes_on(handle)
    return name_of(outcome)


def rebuild_blocks(scene: Scene) -> str:
    """Return a value that takes very long to be rebuilt."""
    handle = scene.make()
    handle.submit(tasks.give_endless)
    time.sleep(0.3)
    scene.goes_on(handle)
    return "others go on"


def map_item(scene: Scene) -> str:
    """Map over items of which one cannot be pickled."""
    handle = scene.make()
    items = [1, 2, threading.Lock(), 4]
    seen: list[str] = []

    def run() -> None:
        try:
            handle.map(tasks.accept, items)
        except Exception as error:
            seen.append(type(error).__name__)

    within(scene.wait_s, run, "map")
    if not seen:
        raise Failed("no error", "map returned")
    scene.goes_on(handle)
    return seen[0]


# Callbacks and iterables --------------------------------------------------------------------------


def callback_raises(scene: Scene) -> str:
    """Raise in a callback."""
    handle = scene.make()

    def callback(_: object) -> NoReturn:
        raise RuntimeError("the callback fails")

    outcome = scene.end(handle, tasks.square, 3, callback=callback)
    scene.goes_on(handle)
    return name_of(outcome)


def callback_blocks(scene: Scene) -> str:
    """Wait in a callback, for ever."""
    handle = scene.make()
    begun = threading.Event()
    release = threading.Event()

    def callback(_: object) -> None:
        begun.set()
        release.wait(60)

    handle.submit(tasks.square, 3, callback=callback)
    if not begun.wait(scene.wait_s):
        raise Hangs("the callback is not called")
    scene.goes_on(handle)
    return "others go on"


def callback_own_result(scene: Scene) -> str:
    """Wait in a callback for the result that it is called for."""
    handle = scene.make()
    jobs: list[Any] = []
    made = threading.Event()
    seen: list[Outcome] = []

    def callback(_: object) -> None:
        made.wait(10)
        try:
            seen.append(Outcome("value", handle.get(jobs[0])))
        except Exception as error:
            seen.append(Outcome("error", error=error))

    jobs.append(handle.submit(tasks.nap, 0.2, callback=callback))
    made.set()
    scene.wait(handle, jobs[0])
    for _ in scene.ticks("the callback does not end"):
        if seen:
            break
    scene.goes_on(handle)
    return f"{name_of(seen[0])} in the callback"


def callback_submits(scene: Scene) -> str:
    """Wait in a callback for another call."""
    handle = scene.make()
    seen: list[Outcome] = []

    def callback(_: object) -> None:
        seen.append(handle.outcome(handle.submit(tasks.square, 4), 3 * scene.wait_s))

    job = handle.submit(tasks.square, 3, callback=callback)
    scene.wait(handle, job)
    for _ in scene.ticks("the callback's own call does not end"):
        if seen:
            break
    if seen[0].kind == "waiting":
        raise Hangs("the callback's own call does not end")
    return name_of(seen[0])


def callback_terminates(scene: Scene) -> str:
    """Terminate the pool in a callback."""
    handle = scene.make()
    other = handle.submit(tasks.nap, 60)
    ended: list[str] = []

    def callback(_: object) -> None:
        try:
            handle.terminate()
            ended.append("returned")
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    handle.submit(tasks.square, 3, callback=callback)
    for _ in scene.ticks("terminate() in a callback does not return"):
        if ended:
            break
    if ended == ["NoSuchCall"]:
        raise NoSuchCall("stop of running tasks")
    scene.wait(handle, other, "a call of the pool that was terminated in a callback does not end")
    return ended[0]


def iterable_raises(scene: Scene, lazily: bool) -> str:
    """Raise in the iterable of a map."""
    handle = scene.make()

    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the iterable fails")

    seen: list[str] = []

    def run() -> None:
        try:
            seen.append(str(list((handle.imap if lazily else handle.map)(tasks.square, items()))))
        except ValueError as error:
            seen.append(type(error).__name__)

    within(scene.wait_s, run, "imap" if lazily else "map")
    if seen[0] != "ValueError":
        raise Failed("no error", f"returned {seen[0]}")
    scene.goes_on(handle)
    return seen[0]


def iterable_blocks(scene: Scene) -> str:
    """Wait in the iterable of a map, for ever."""
    handle = scene.make()
    asked = threading.Event()

    def items() -> Iterator[int]:
        yield from range(2)
        asked.set()
        threading.Event().wait(60)

    _probe_imap(handle)

    def consume() -> None:
        for _ in handle.imap(tasks.square, items()):
            pass

    threading.Thread(target=consume, name="consumer", daemon=True).start()
    if not asked.wait(scene.wait_s):
        raise Hangs("the iterable is not read")
    scene.goes_on(handle)
    return "others go on"


def _probe_imap(handle: Handle) -> None:
    """Find out in this thread whether there is an imap at all."""
    list(handle.imap(tasks.square, [1]))


def endless(scene: Scene) -> str:
    """Map over an iterable that does not end."""
    handle = scene.make()
    taken = itertools.count()
    until = time.monotonic() + 3

    def items() -> Iterator[int]:
        while time.monotonic() < until:  # endless as far as this case goes
            yield next(taken)

    results = handle.imap(tasks.square, items())
    values = list(itertools.islice(results, 3))
    returned = time.monotonic() < until
    time.sleep(0.5)
    count = next(taken)
    if values != [0, 1, 4]:
        raise Failed("wrong", shown(values))
    if not returned:
        raise Hangs(f"no result before the iterable ended, {count:,} items taken")
    if count > 1_000:
        raise Failed(f"{count // 1000}k taken", f"{count:,} items taken for 3 results")
    return f"{count} taken"


# Initializers -------------------------------------------------------------------------------------


def initializer(scene: Scene, function: Callable[[str], object], **wants: Any) -> str:
    """Run an initializer that does not succeed."""
    try:
        handle = scene.make(initializer=function, initargs=(scene.folder,), **wants)
        outcome = scene.end(handle, tasks.square, 3)
    except (NoSuchCall, Hangs):
        raise
    except Exception as error:
        outcome = Outcome("error", error=error)
    starts = len(list(Path(scene.folder).glob("start-*")))
    if outcome.kind == "value":
        raise Failed("no error", "the call returned its value")
    if starts > 60:
        raise Failed("storm", f"{starts} workers were started")
    return f"{name_of(outcome)}, {starts} starts"


def initializer_endless(scene: Scene, function: Callable[[str], object]) -> str:
    """Run one that fails in each worker, and count the workers."""
    try:
        return initializer(scene, function)
    except Hangs as hang:
        starts = len(list(Path(scene.folder).glob("start-*")))
        raise Hangs(f"{hang}; {starts} workers were started") from None


def initializer_dies(scene: Scene) -> str:
    """Kill a worker in its initializer, once."""
    handle = scene.make(initializer=tasks.init_dies_once, initargs=(scene.folder,))
    scene.goes_on(handle)
    return "works on"


# Recycling ----------------------------------------------------------------------------------------


def recycled(scene: Scene, workers: int, lifespan: int, count: int, size: int) -> str:
    """Replace workers after so many tasks."""
    handle = scene.make(workers=workers, lifespan=lifespan)
    values: list[Any] = []

    def run() -> None:
        values.extend(handle.map(tasks.give, [size] * count))

    took = within(2 * scene.wait_s, run, "map")
    if len(values) != count or any(len(value) != size for value in values):
        raise Failed("lost", f"{len(values)} of {count} results")
    return f"{took:.1f} s"


# Deadlines ----------------------------------------------------------------------------------------


def timeout(scene: Scene, function: Callable[[], object]) -> str:
    """Run a task for ever, with a time limit."""
    handle = scene.make(workers=1, deadlines=True)
    scene.goes_on(handle, 1)
    name = scene.fails(handle, function, timeout=0.5)
    scene.goes_on(handle)
    return name


def timeout_siblings(scene: Scene) -> str:
    """Run a task for ever among others, with a time limit."""
    handle = scene.make(deadlines=True)
    scene.goes_on(handle, 1)
    stuck = handle.submit(tasks.loop_in_python, timeout=0.5)
    others = [handle.submit(tasks.nap_square, number, timeout=30) for number in range(40)]
    end = scene.wait(handle, stuck, "the call with the deadline does not end")
    ends = [handle.outcome(job, scene.wait_s) for job in others]
    if any(other.kind == "waiting" for other in ends):
        raise Hangs("the other calls do not end")
    lost = sum(other.kind == "error" for other in ends)
    if lost:
        raise Failed(f"{lost} lost", f"{lost} healthy tasks of {len(ends)} failed")
    if end.kind != "error":
        raise Failed("no error", "the call with the deadline returned")
    return name_of(end)


def cancel(scene: Scene, function: Callable[..., object]) -> str:
    """Cancel a task that runs for ever."""
    handle = scene.make(workers=1)
    job = handle.submit(function, scene.path("busy"))
    scene.marked("busy")
    time.sleep(0.2)
    handle.cancel(job)
    outcome = scene.wait(handle, job, "the cancelled call does not end")
    scene.goes_on(handle)
    return name_of(outcome)


# Life cycle ---------------------------------------------------------------------------------------


def terminate(scene: Scene, function: Callable[..., object], stop: bool = False) -> str:
    """Terminate a pool in which a task runs."""
    handle = scene.make()
    handle.submit(function, 60, scene.path("busy"))
    worker = scene.marked("busy")
    if stop:
        os.kill(worker, signal.SIGSTOP)
    time.sleep(0.2)
    took = _stop(scene, handle)
    for _ in scene.ticks("terminate() leaves the worker alive"):
        if not _alive(worker):
            break
    return f"{took:.1f} s"


def _stop(scene: Scene, handle: Handle) -> float:
    """Terminate and join a pool; return how many seconds that took."""
    took = within(scene.wait_s, handle.terminate, "terminate()")
    try:
        took += within(scene.wait_s, handle.join, "join()")
    except NoSuchCall:
        pass  # its stop waits by itself
    return took


def terminate_calls(scene: Scene) -> str:
    """Terminate a pool, and ask for what it had not done."""
    handle = scene.make()
    running = handle.submit(tasks.nap, 60, scene.path("busy"))
    waiting = [handle.submit(tasks.nap, 60) for _ in range(5)]
    scene.marked("busy")
    _stop(scene, handle)
    outcome = scene.wait(handle, running, "the call that ran does not end")
    for job in waiting:
        scene.wait(handle, job, "a call that waited does not end")
    return name_of(outcome)


def terminate_full(scene: Scene) -> str:
    """Terminate a pool for which more work waits than its channels hold."""
    handle = scene.make()
    handle.submit(tasks.nap, 60, scene.path("busy"))
    scene.marked("busy")
    for _ in range(30):
        handle.submit(tasks.take, bytes(5 * MEGABYTE))
    return f"{_stop(scene, handle):.1f} s"


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return text.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def odd_orders(scene: Scene) -> str:
    """End pools in orders that nobody intends."""
    orders: list[list[str]] = [
        ["close", "close", "join", "join", "terminate", "join"],
        ["terminate", "terminate", "join", "close", "join", "leave"],
        ["leave", "leave", "terminate", "close", "join"],
        ["close", "terminate", "join", "terminate"],
    ]
    for order in orders:
        handle = scene.make()
        scene.end(handle, tasks.square, 3)
        for name in order:
            try:
                within(scene.wait_s, getattr(handle, name), f"{name}() in {', '.join(order)}")
            except NoSuchCall:
                continue  # what there is not needs no order
            except ValueError as error:
                raise Failed("raises", f"{name}(): {brief(error)}") from None
    return "all return"


def open_at_exit(scene: Scene, pending: int) -> str:
    """End the program without a word to its pool."""
    handle = scene.make()
    scene.goes_on(handle)
    for number in range(pending):
        handle.submit(tasks.nap_square, number)
    _keep.append(handle)
    return "ends"


_keep: list[object] = []


def closed_at_exit(scene: Scene) -> str:
    """End the pool in an ``atexit`` function."""
    handle = scene.make()

    def end() -> None:
        try:
            handle.close()
            handle.join()
        except NoSuchCall:
            handle.leave()

    atexit.register(end)
    scene.goes_on(handle)
    return "ends"


def terminate_in_handler(scene: Scene) -> str:
    """Terminate the pool in a signal handler, which interrupts the wait for it."""
    handle = scene.make()
    took: list[float] = []

    class Interrupted(Exception):
        """So that the wait ends."""

    def handler(*_: object) -> NoReturn:
        begun = time.monotonic()
        handle.terminate()
        took.append(time.monotonic() - begun)
        raise Interrupted

    signal.signal(signal.SIGUSR1, handler)
    scene.goes_on(handle)
    scene.ask("sleep", 0.5, "kill", os.getpid(), signal.SIGUSR1)
    try:
        handle.get(handle.submit(tasks.nap, 60))
    except Interrupted:
        return f"{took[0]:.1f} s"
    raise Failed("no error", "the call returned")


def dropped(scene: Scene) -> str:
    """Forget a pool."""
    if not scene.library.collects_dropped():
        raise NoSuchCall("documented as wrong")
    handle = scene.make()
    workers = {scene.end(handle, tasks.nap, 0.1).value for _ in range(4)}
    del handle
    gc.collect()
    for _ in scene.ticks("its workers live on"):
        gc.collect()
        if not any(map(_alive, workers)):
            break
    return "gone"


def leftovers(scene: Scene) -> str:
    """Make and end pools, and count what stays."""

    def use() -> None:
        handle = scene.make()
        scene.end(handle, tasks.give, MEGABYTE)
        try:
            handle.close()
            handle.join()
        except NoSuchCall:
            handle.leave()

    use()  # what stays for good is made by the first: a server, a tracker
    before = _possessions()
    for _ in range(3):
        use()
    after: dict[str, int] = {}
    for _ in range(200):
        gc.collect()
        after = _possessions()
        if all(after[kind] <= before[kind] for kind in before):
            return "as before"
        time.sleep(0.01)
    more = [f"{after[kind] - before[kind]} {kind}" for kind in before if after[kind] > before[kind]]
    raise Failed(more[0], f"more than before, after 3 pools: {', '.join(more)}")


def _possessions() -> dict[str, int]:
    return {
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "children": len(_children()),
    }


def _children() -> list[str]:
    found: list[str] = []
    for thread in os.listdir("/proc/self/task"):
        try:
            found += Path(f"/proc/self/task/{thread}/children").read_text().split()
        except OSError:
            continue  # the thread has ended
    return found


# Signals ------------------------------------------------------------------------------------------


def interrupted(scene: Scene, call: Callable[[Handle], object], again: bool = False) -> str:
    """Press Ctrl-C in a call."""
    handle = scene.make()
    scene.goes_on(handle, 2)
    scene.ask("sleep", 0.6, "interrupt")
    begun = time.monotonic()
    try:
        call(handle)
    except KeyboardInterrupt:
        took = time.monotonic() - begun - 0.6
    except NoSuchCall:
        raise
    except BaseException as error:
        raise Failed("other error", brief(error)) from None
    else:
        raise Failed("no error", "the call returned")
    if again:
        scene.goes_on(handle)
        return "works on"
    try:
        within(scene.wait_s, handle.terminate, "terminate()")
    except NoSuchCall:
        within(scene.wait_s, handle.leave, "the end of the with block")
    if took > 2 * scene.library.patience:
        raise Failed("late", f"KeyboardInterrupt after {took:.1f} s")
    return f"{max(took, 0.0):.1f} s"


def map_naps(handle: Handle) -> object:
    """Map over tasks that sleep."""
    return handle.map(tasks.nap_long, range(4))


def get_nap(handle: Handle) -> object:
    """Wait for a task that sleeps."""
    return handle.get(handle.submit(tasks.nap, 60))


def imap_naps(handle: Handle) -> object:
    """Read from an imap of tasks that sleep."""
    return list(handle.imap(tasks.nap_long, range(4)))


def parent_ends(
    scene: Scene, number: signal.Signals, function: Callable[..., object] | None, *args: Any
) -> str:
    """End the program from outside, with a signal."""
    handle = scene.make()
    scene.goes_on(handle)
    if function is not None:
        handle.submit(function, *args, scene.path("busy"))
        scene.marked("busy")
    time.sleep(0.2)
    _keep.append(handle)
    scene.ask("sleep", 0.3, "kill", os.getpid(), number)
    time.sleep(60)
    raise AssertionError


# Forks --------------------------------------------------------------------------------------------


def held_lock(scene: Scene) -> str:
    """Replace a worker while a thread of the program holds a lock."""
    handle = scene.make(workers=1)
    worker = scene.end(handle, tasks.give_pid).value
    held = threading.Event()

    def hold() -> None:
        with tasks.LOCK:
            held.set()
            threading.Event().wait(60)

    threading.Thread(target=hold, name="holder", daemon=True).start()
    held.wait()
    kill(worker)
    time.sleep(0.5)
    outcome = scene.end(handle, tasks.with_lock, 3)
    if outcome.kind == "error":
        outcome = scene.end(handle, tasks.with_lock, 3)  # the first one may have met the death
    if outcome.kind == "error":
        raise Failed("pool dead", brief(outcome.error))
    return "works on"


def user_fork(scene: Scene) -> str:
    """Fork beside a pool."""
    handle = scene.make()
    scene.goes_on(handle)
    child = os.fork()
    if child == 0:
        sys.exit(0)  # through atexit functions and finalizers, as a careless program does
    for _ in scene.ticks("the program's own child does not end"):
        if os.waitpid(child, os.WNOHANG)[0]:
            break
    scene.goes_on(handle)
    within(scene.wait_s, handle.leave, "the end of the with block")
    return "works on"


def fork_uses(scene: Scene) -> str:
    """Fork beside a pool, and use the pool in the child."""
    handle = scene.make()
    scene.goes_on(handle)
    child = os.fork()
    if child == 0:
        try:
            handle.get(handle.submit(tasks.square, 3))
        finally:
            os._exit(0)
    try:
        for _ in scene.ticks("the pool's use in the program's child does not end"):
            if os.waitpid(child, os.WNOHANG)[0]:
                break
    finally:
        kill(child)
    scene.goes_on(handle)
    return "ends"


def nested(scene: Scene) -> str:
    """Make a pool in a task."""
    handle = scene.make(nests=True)
    outcome = scene.end(handle, tasks.nested, scene.library.name)
    if outcome.kind == "error":
        raise Failed("refused", brief(outcome.error))
    return "works"


def made_in_thread(scene: Scene) -> str:
    """Make a pool in a thread that ends."""
    made: list[Handle] = []
    thread = threading.Thread(target=lambda: made.append(scene.make()), name="maker")
    thread.start()
    thread.join()
    time.sleep(0.3)
    scene.goes_on(made[0])
    return "works on"


# Scarcity -----------------------------------------------------------------------------------------


def few_descriptors(scene: Scene) -> str:
    """Make a pool with hardly any descriptor left."""
    scene.goes_on(warm := scene.make())
    within(2 * scene.wait_s, warm.leave, "the end of the with block")
    before = len(_children())
    with _descriptors(6):
        try:
            handle = scene.make(workers=4)
            outcome = scene.end(handle, tasks.square, 3)
        except OSError as error:
            outcome = Outcome("error", error=error)
    if outcome.kind == "value":
        return "works"
    for _ in range(100):
        gc.collect()
        if len(_children()) <= before:
            return name_of(outcome)
        time.sleep(0.02)
    raise Failed("children", f"{brief(outcome.error)}; {len(_children()) - before} children stay")


def few_at_replacement(scene: Scene) -> str:
    """Let a worker die with hardly any descriptor left."""
    handle = scene.make()
    scene.goes_on(handle)
    with _descriptors(1):
        scene.end(handle, tasks.kill_self)
        time.sleep(0.5)
    scene.goes_on(handle)
    return "works on"


class _descriptors:
    """Leave so many descriptors to this process."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def __enter__(self) -> None:
        last = max(int(name) for name in os.listdir("/proc/self/fd"))
        self.fill = [os.open("/dev/null", os.O_RDONLY) for _ in range(last)]
        top = max(self.fill) + 1 + self.left
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self.before)
        for fd in self.fill:
            os.close(fd)
