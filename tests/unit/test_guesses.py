"""What is guessed without stacks, from hand-made threads: what they rest in, in the order of their starts."""

from __future__ import annotations

import pytest

from glasspool.observe import families, guesses, libraries
from glasspool.observe.procfs import OsProcess, OsThread
from glasspool.observe.sight import SeenProcess, SeenThread

PID = 100
WAITS = {
    "poll": "poll_schedule_timeout",
    "futex": "futex_wait_queue",
    "read": "anon_pipe_read",
    "write": "anon_pipe_write",
    "sleep": "hrtimer_nanosleep",
    "socket": "unix_stream_data_wait",
}
FOREVER = (0, 4, 0xFFFFFFFF)
STOCK = dict(zip((101, 102, 103), libraries.HANDLERS, strict=True))
MANAGER = {101: libraries.MANAGER_ROLES, 102: ("task-handler",)}


def process(*rests: str, names: tuple[str, ...] = (), gap: int = 1) -> SeenProcess:
    """A process whose threads rest so, each begun ``gap`` numbers and ticks after the one before."""
    threads = [OsThread(PID, PID, "python", "S", 0.0, 0, "futex_wait_queue")]
    for at, rest in enumerate(rests):
        name = names[at] if at < len(names) else "python"
        state, tid = "R" if rest == "work" else "S", PID + 1 + at * gap
        limit = (0, 4, 1000) if rest == "poll for a time" else FOREVER
        wchan = WAITS.get(rest.partition(" ")[0])
        args = limit if rest.startswith("poll") else ()
        threads.append(OsThread(PID, tid, name, state, 0.0, at * gap, wchan, None, args))
    told = OsProcess(PID, "python", ("python", "x.py"), 1, "S", 0, 0.0, 0, 0.0, 0)
    return SeenProcess(told, tuple(map(SeenThread, threads)))


@pytest.mark.parametrize(
    ("rests", "modules", "kind", "roles"),
    [
        (("poll", "futex", "read"), (), libraries.STOCK, STOCK),
        (("poll", "write", "work"), (), libraries.STOCK, STOCK),
        (("work", "work", "futex"), (), libraries.STOCK, STOCK),
        (("poll", "futex", "read"), ("multiprocess",), libraries.MULTIPROCESS, STOCK),
        (("sleep", "futex", "poll for a time"), (), libraries.BILLIARD, STOCK),
        (("poll", "futex"), (), libraries.EXECUTOR, MANAGER),
        (("poll", "futex"), ("loky",), libraries.LOKY, MANAGER),
    ],
)
def test_threads_are_told_by_what_they_rest_in(rests, modules, kind, roles):
    """The threads of a pool rest each in its own kind of call; at work, only their order tells."""
    (guess,) = guesses.of_parent(process(*rests), modules)
    assert (guess.kind, dict(guess.roles)) == (kind, roles)


@pytest.mark.parametrize(
    "rests",
    [(), ("work",), ("work", "futex"), ("sleep", "sleep", "sleep"), ("read", "read", "read")],
)
def test_what_does_not_tell_is_not_guessed(rests):
    """Threads that rest otherwise are the user's for all that is known."""
    assert guesses.of_parent(process(*rests), ()) == []


def test_threads_that_began_at_other_times_are_no_pools():
    """At work, three threads are only a pool's if nothing else began between them."""
    assert guesses.of_parent(process("work", "work", "work", gap=50), ()) == []


def test_two_pools_are_told_one_after_the_other():
    """Each pool's threads begin in a row."""
    found = guesses.of_parent(process(*("poll", "futex", "read") * 2), ())
    assert [min(guess.roles) for guess in found] == [101, 104]


def test_native_threads_are_left_out():
    """Three threads of a library for linear algebra rest as a pool's may, but are known not to be."""
    (guess,) = guesses.of_parent(
        process(*("futex",) * 3, "poll", "futex", "read"), (), native=(101, 102, 103)
    )
    assert min(guess.roles) == 104


def test_where_the_kernel_says_nothing_the_number_tells():
    """Of a program of somebody else's only the order and number of threads is known."""
    (guess,) = guesses.of_parent(process("", "", ""), ())
    assert guess.kind == libraries.STOCK
    (guess,) = guesses.of_parent(process("", ""), ())
    assert guess.kind == libraries.EXECUTOR
    assert guesses.of_parent(process("", "", "", ""), ()) == []


def test_names_of_threads():
    """Threads that have names for the system are told by them."""
    named = process("futex", "futex", names=("p1 results", "QueueFeederThre"))
    roles = [guesses.by_name(thread.os) for thread in named.threads]
    assert roles == [None, ("result-handler",), ("task-handler",)]


def test_a_server_of_shared_objects():
    """Its main thread waits in a futex, and its second one for connections."""
    assert guesses.is_manager(process("socket"))
    assert not guesses.is_manager(process("read"))
    assert not guesses.is_manager(process())


@pytest.mark.parametrize(
    ("command", "role", "module"),
    [
        ("from multiprocessing.resource_tracker import main;main(5)", "resource-tracker", None),
        ("from billiard.semaphore_tracker import main;main(5)", "resource-tracker", "billiard"),
        ("from loky.backend.resource_tracker import main; main(3)", "resource-tracker", "loky"),
        ("from multiprocessing.forkserver import main; main(5)", "fork-server", None),
        ("from multiprocess.spawn import spawn_main; spawn_main()", "worker", "multiprocess"),
        ("import nothing", None, ""),
    ],
)
def test_command_lines(command, role, module):
    """What a library starts says so in its command line."""
    told = OsProcess(PID, "python", ("python", "-c", command), 1, "S", 0, 0.0, 0, 0.0, 0)
    assert families.role_by_command(told) == role
    assert (families.module_of(told) or "") == ("multiprocessing" if module is None else module)
