"""Pure: the pools that the stacks of a sight show, and which processes and threads serve which.

The threads of one pool know each other by the address of a queue that they all have, or by the order in
which they began. A forked worker has that address too; another one holds the pipe that tells its pool of
its end. What only one pool can have is that pool's; what is left is said to be not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glasspool.observe import families, libraries, loops
from glasspool.observe.loops import Place
from glasspool.observe.sight import SeenProcess, SeenThread, Sight

_ADDRESS = re.compile(r"\bat (0x[0-9a-f]+)")
_SHOWN = re.compile(r"<[^<>]*>")
_NUMBER = re.compile(r"\d+")
_THREADED = (libraries.THREADS, libraries.THREAD_EXECUTOR, "multiprocess.pool.ThreadPool")


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a sight, with what its stacks say. ``places`` are by native thread id.

    ``server`` is its role if it only serves others: ``resource-tracker``, ``fork-server``, ``manager``.
    """

    seen: SeenProcess
    places: Mapping[int, Place]
    server: str | None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.seen.pid

    @property
    def main(self) -> Place | None:
        """What its main thread is at, if it serves a pool of processes."""
        place = self.places.get(self.pid)
        return None if place is None or place.kind in _THREADED else place


@dataclass(slots=True)
class Found:
    """One pool. ``threads`` are those of its process ``pid`` that serve it, ``workers`` its processes.

    ``link`` is the address by which its threads were told from another pool's of that kind. ``guessed``
    are workers of which it is not known which of several pools they serve. ``roles`` are those of threads
    without a stack, by native thread id; ``is_guess`` says that even the kind is not known.
    """

    kind: str
    pid: int
    link: str | None = None
    threads: dict[int, Place] = field(default_factory=dict)
    workers: list[int] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)
    roles: dict[int, tuple[str, ...]] = field(default_factory=dict)
    is_guess: bool = False

    @property
    def is_of_threads(self) -> bool:
        """Whether its workers are threads."""
        return self.kind in _THREADED

    def variable(self, name: str) -> str | None:
        """Return the text of a local variable of one of its threads' loops."""
        values = (place.variables.get(name) for place in self.threads.values())
        return next((value for value in values if value is not None), None)


def members(sight: Sight) -> dict[int, Member]:
    """Read the stacks of all processes of a sight, by pid."""
    return {process.pid: _member(process) for process in sight.processes}


def found_pools(known: Mapping[int, Member]) -> list[Found]:
    """List the pools, each with its threads and workers, in the order of their processes."""
    pools = [pool for member in known.values() for pool in _pools_of(member)]
    servers = frozenset(m.pid for m in known.values() if m.server == "fork-server")
    processes = [member.seen.os for member in known.values()]
    for member in known.values():
        place = member.main
        if place is None or "task" not in place.roles or member.server is not None:
            continue
        owner = families.owner_of(member.pid, processes, servers)
        if owner is not None:
            _put_to_a_pool(member, known[owner], pools, known)
    order = {pid: at for at, pid in enumerate(known)}
    pools = [pool for pool in pools if pool.workers or not _is_only_a_feeder(pool)]
    return sorted(pools, key=lambda pool: order[pool.pid])


def address(text: str | None) -> str | None:
    """Return the address in the text of an object, None if it has none."""
    found = None if text is None else _ADDRESS.search(text)
    return None if found is None else found.group(1)


def numbers(text: str | None) -> frozenset[int]:
    """Return the numbers in the text of a list, without what is in the texts of objects."""
    return frozenset(map(int, _NUMBER.findall(_SHOWN.sub("", text or ""))))


def _member(process: SeenProcess) -> Member:
    places = {}
    for thread in process.threads:
        if thread.python is not None and thread.python.stack:
            place = loops.place(thread.python.stack, thread.python.variables)
            if place is not None:
                places[thread.os.tid] = place
    main = process.main
    stack = () if main is None or main.python is None else main.python.stack
    return Member(process, places, loops.server(stack))


def _pools_of(member: Member) -> Iterable[Found]:
    """Find the pools whose own threads run in a process."""
    pools: list[Found] = []
    # In the order of their starts: a pool's threads begin one after the other.
    for tid, place in sorted(member.places.items()):
        serves = place.roles[0] != "caller" and (tid != member.pid or place.kind in _THREADED)
        if not serves or not place.kind:
            continue
        link = _link(place)
        alike = [pool for pool in pools if pool.kind == place.kind]
        pool = next((p for p in alike if link is not None and p.link == link), None)
        if pool is None and link is None:
            pool = _latest_without(alike, place)
        if pool is None:
            pool = Found(place.kind, member.pid, link)
            pools.append(pool)
        pool.threads[tid] = place
    return pools


def _link(place: Place) -> str | None:
    """Return what the threads of one pool have in common."""
    if place.roles == libraries.MANAGER_ROLES:
        return address(place.variables.get("self"))
    if place.kind == libraries.BILLIARD and "worker-handler" in place.roles:
        return address(place.variables.get("pool"))
    return address(place.variables.get("outqueue") or place.variables.get("work_queue"))


def _is_only_a_feeder(pool: Found) -> bool:
    """Tell whether it is just a thread that feeds a queue, which may be the program's own."""
    return all(place.roles == ("task-handler",) for place in pool.threads.values())


def _latest_without(pools: list[Found], place: Place) -> Found | None:
    """Choose the pool that began last of those that lack a thread like this one."""
    for pool in reversed(pools):
        if all(other.roles != place.roles for other in pool.threads.values()):
            return pool
    return None


def _put_to_a_pool(
    worker: Member, owner: Member, pools: list[Found], known: Mapping[int, Member]
) -> None:
    place = worker.main
    kind = "" if place is None else place.kind
    candidates = [
        pool
        for pool in pools
        if pool.pid == owner.pid and not pool.is_of_threads and kind in ("", pool.kind)
    ]
    if not candidates:
        if kind:
            pools.append(Found(kind, owner.pid, workers=[worker.pid]))
        return
    sure = [pool for pool in candidates if _is_worker_of(worker, owner, pool, known)]
    if len(sure) == 1 or len(candidates) == 1:
        (sure or candidates)[0].workers.append(worker.pid)
        return
    # A pool starts its first workers right before its threads; later ones replace such as have ended.
    lacking = min(sure or candidates, key=lambda pool: len(pool.workers) - _size(pool))
    pool = next((p for p in sure or candidates if worker.pid < min(p.threads, default=0)), lacking)
    pool.workers.append(worker.pid)
    pool.guessed.append(worker.pid)


def _is_worker_of(worker: Member, owner: Member, pool: Found, known: Mapping[int, Member]) -> bool:
    """Tell whether something shows that a process is one of a pool's workers."""
    if worker.seen.os.ppid != owner.pid or not _was_forked(worker.seen.main):
        return bool(_ends_told_to(owner, pool) & _ends_told_by(worker, known))
    # It has the addresses and the descriptors' numbers of its parent, but also all of its pipes.
    place = worker.main
    queue = None if place is None else address(place.variables.get("outqueue"))
    if queue is not None and pool.link is not None:
        return queue == pool.link
    number = _inherited(worker.seen.main, "_launch", "parent_r")
    if number is not None and number.isdigit():
        return int(number) in _sentinels(owner, pool)
    itself = address(_inherited(worker.seen.main, "_bootstrap", "self"))
    return itself is not None and itself in _ADDRESS.findall(pool.variable("pool") or "")


def _was_forked(main: SeenThread | None) -> bool:
    python = None if main is None else main.python
    return python is not None and any(
        frame.file.endswith("/popen_fork.py") for frame in python.stack
    )


def _inherited(main: SeenThread | None, function: str, variable: str) -> str | None:
    """Return a local variable of the innermost call of a function with which a worker was started."""
    python = None if main is None else main.python
    if python is None:
        return None
    for frame, variables in zip(reversed(python.stack), reversed(python.variables), strict=False):
        starts = frame.file.endswith(("/process.py", "/popen_fork.py"))
        if starts and libraries.last_part(frame.function) == function:
            return variables.get(variable)
    return None


def _sentinels(owner: Member, pool: Found) -> frozenset[int]:
    """Return the descriptors at which a pool waits for the end of its workers."""
    found: frozenset[int] = frozenset()
    for thread in owner.seen.threads:
        if thread.os.tid in pool.threads and thread.python is not None:
            for variables in thread.python.variables:
                found |= numbers(variables.get("current_sentinels"))
                found |= numbers(variables.get("worker_sentinels"))
    return found


def _ends_told_to(owner: Member, pool: Found) -> frozenset[str]:
    files = owner.seen.files
    return frozenset(files[number] for number in _sentinels(owner, pool) if number in files)


def _ends_told_by(worker: Member, known: Mapping[int, Member]) -> frozenset[str]:
    """Return the pipes that a worker holds, or that its fork server holds in its place."""
    server = known.get(worker.seen.os.ppid)
    if server is None or server.server != "fork-server":
        return frozenset(worker.seen.files.values())
    main = server.seen.main
    for variables in () if main is None or main.python is None else main.python.variables:
        for pid, number in re.findall(r"(\d+): (\d+)", variables.get("pid_to_fd", "")):
            if int(pid) == worker.pid:
                return frozenset({server.seen.files.get(int(number), "")})
    return frozenset()


def _size(pool: Found) -> int:
    text = pool.variable("processes")
    return int(text) if text is not None and text.isdigit() else 0
