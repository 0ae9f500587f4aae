"""Pure: the pools of other libraries in a ``Sight``: which process and thread is what, and what it does."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from glasspool.observe import families, guesses, libraries, loops, matching, procfs
from glasspool.observe.families import root_of as root_of
from glasspool.observe.loops import Place
from glasspool.observe.matching import Found, Member
from glasspool.observe.sight import SeenProcess, SeenThread, Sight
from glasspool.snapshot import (
    HANDLER_ROLES,
    Evidence,
    InitializerInfo,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
    ThreadRef,
)

NO_POOL = "Python program (no pool found)"
"""The kind of a program in which no pool was seen."""

if TYPE_CHECKING:
    from glasspool.observe.threads import Stack

_METHODS = {
    "ForkContext": "fork",
    "ForkServerContext": "forkserver",
    "SpawnContext": "spawn",
    "LokyContext": "loky",
}
_VERSION = re.compile(r"[/\\]python(3\.\d+)t?[/\\]|python(3\.\d+)t?$")
_OPEN_JOB = re.compile(r"(\d+): (<\w+ at 0x[0-9a-f]+>)")
_WAITING_FILES = ("/threading.py", "/queue.py", "/selectors.py")
_TREE = "from names and the process tree"


def pools(
    sight: Sight, *, redact: bool = False, owners: Mapping[int, str] | None = None
) -> tuple[PoolInfo, ...]:
    """Tell of all pools of the sight that are not ours.

    All processes and threads of the sight are in one of them. A Python program without a pool is told as
    one of kind ``Python program (no pool found)``. Without stacks, roles come from names, command lines and
    what the kernel says, and are marked as inferred.

    Args:
        sight: What was seen.
        redact: Whether to leave the arguments of tasks out.
        owners: The library that each native thread belongs to, by native id, where it is known.
    """
    if not sight.processes:
        return ()
    known = matching.members(sight)
    found = matching.found_pools(known)
    owners = owners or {}
    _Unread(sight, known, found, owners).add()
    picture = _Picture(sight, known, found, redact, owners)
    return tuple(picture.pools())


class _Unread:
    """Adds what has to be guessed for processes whose stacks could not be read."""

    def __init__(
        self,
        sight: Sight,
        known: Mapping[int, Member],
        found: list[Found],
        owners: Mapping[int, str],
    ) -> None:
        self._native = {tid for tid, owner in owners.items() if owner != "CPython"}
        self._sight = sight
        self._known = known
        self._found = found
        self._tree = {p.pid: p.os for p in sight.processes}

    def add(self) -> None:
        """Put workers without a stack to a pool, and guess pools that only they show."""
        order = list(self._known)
        for owner, workers in self._workers().items():
            pools = [p for p in self._found if p.pid == owner and not p.is_of_threads]
            if not pools:
                modules = [families.module_of(self._tree[pid]) or "" for pid in workers]
                pools = _guessed_pools(self._known[owner].seen, modules, self._native)
                self._found += pools
            for pid in workers:
                # A pool starts its first workers right before its threads.
                later = (p for p in pools if pid < min((*p.threads, *p.roles), default=0))
                pool = next(later, pools[-1])
                pool.workers.append(pid)
                pool.guessed += [pid] if len(pools) > 1 else []
        self._found.sort(key=lambda pool: order.index(pool.pid))

    def _workers(self) -> dict[int, list[int]]:
        """List the processes without a stack that look like workers, by whose they are."""
        workers: dict[int, list[int]] = {}
        servers = frozenset(
            pid for pid in self._known if role_of_unread(self._sight, pid) == "fork-server"
        )
        for pid, member in self._known.items():
            if member.seen.dump.threads or pid == self._sight.pid:
                continue
            if role_of_unread(self._sight, pid) == "worker":
                owner = families.owner_of(pid, list(self._tree.values()), servers)
                if owner is not None:
                    workers.setdefault(owner, []).append(pid)
        return workers


def role_of_unread(sight: Sight, pid: int) -> str | None:
    """Guess what a process is from the command lines of its family and what the kernel says."""
    process = sight.process(pid)
    if process is None:
        return None
    parent = sight.process(process.os.ppid)
    role = families.role_in_tree(process.os, None if parent is None else parent.os)
    return "manager" if role == "worker" and guesses.is_manager(process) else role


def _guessed_pools(
    process: SeenProcess, modules: Sequence[str], native: Collection[int]
) -> list[Found]:
    pools = []
    for guess in guesses.of_parent(process, modules, native) or [guesses.Guess("", {})]:
        pool = Found(guess.kind or libraries.STOCK, process.pid, is_guess=not guess.kind)
        pool.roles.update(guess.roles)
        pools.append(pool)
    return pools


@dataclass(frozen=True, slots=True)
class _Picture:
    """What is put together from a sight, and from the pools found in it."""

    sight: Sight
    known: Mapping[int, Member]
    found: Sequence[Found]
    redact: bool
    owners: Mapping[int, str]

    def pools(self) -> Iterator[PoolInfo]:
        """Tell of each pool; of the program itself if it has none."""
        told: set[int] = set()
        if not self.found or self.found[0].pid != self.sight.processes[0].pid:
            yield self._no_pool(told)
        for pool in self.found:
            yield self._pool(pool, told)

    def _no_pool(self, told: set[int]) -> PoolInfo:
        root = self.sight.processes[0]
        return PoolInfo(
            name=f"process {root.pid}",
            kind=NO_POOL,
            pid=root.pid,
            processes=tuple(self._processes(None, root.pid, told)),
            notes=tuple(_refusals(self.sight)),
        )

    def _pool(self, pool: Found, told: set[int]) -> PoolInfo:
        first = pool.pid not in told
        processes = tuple(self._processes(pool, pool.pid, told))
        workers = [process for process in processes if process.role == "worker"]
        lanes = [place for place in pool.threads.values() if "task" in place.roles]
        size = pool.variable("processes")
        return PoolInfo(
            name=self._name(pool),
            kind=pool.kind,
            pid=pool.pid,
            processes=processes,
            tasks=tuple(
                t.task for p in processes for t in p.threads
                if t.task is not None and t.pool == self._name(pool)
            ),
            stats=_stats(pool),
            start_method=None if pool.is_of_threads else self._start_method(pool),
            size=int(size) if size and size.isdigit() else len(lanes) or len(workers),
            initializer=self._initializer_name(pool),
            notes=(*_pool_notes(pool, self.known[pool.pid]), *(_refusals(self.sight) if first else ())),
        )  # fmt: skip

    def _name(self, pool: Found) -> str:
        alike = [other for other in self.found if other.pid == pool.pid]
        number = f" #{alike.index(pool) + 1}" if len(alike) > 1 else ""
        return f"process {pool.pid}{number}"

    def _processes(self, pool: Found | None, owner: int, told: set[int]) -> Iterator[ProcessInfo]:
        """Tell of a pool's process and workers, and of others that serve it or that they started."""
        told.add(owner)
        yield self._process(self.known[owner], "parent", pool)
        workers = [] if pool is None else pool.workers
        placed = {pid for other in self.found for pid in other.workers}
        for pid, member in self.known.items():
            if pid in workers:
                told.add(pid)
                yield self._process(member, "worker", pool)
            elif pid not in placed and pid not in told and self._belongs_to(pid, owner, workers):
                told.add(pid)
                yield self._process(member, self._other_role(member), pool)

    def _belongs_to(self, pid: int, owner: int, workers: Sequence[int]) -> bool:
        """Tell whether a process was started by a pool's process or workers, not by another pool's."""
        makers = {pool.pid for pool in self.found} | {self.sight.processes[0].pid}
        above: int | None = pid
        while above is not None and above != owner:
            process = self.known.get(above)
            above = None if process is None else process.seen.os.ppid
            if above in workers and above not in makers:
                return True
            if above in makers and above != owner:
                return False
        return above == owner

    def _other_role(self, member: Member) -> str:
        if member.server is not None:
            return member.server
        role = role_of_unread(self.sight, member.pid)
        if member.seen.dump.threads and role not in ("resource-tracker", "fork-server"):
            return "child"  # its stack shows neither a worker's loop nor a server's
        if member.seen.dump.threads and member.main is not None:
            return "child"
        return "child" if role in (None, "worker") else role

    def _process(self, member: Member, role: str, pool: Found | None) -> ProcessInfo:
        works = any(member.pid in other.workers for other in self.found)
        # A worker that has a pool of its own stays a worker, also where it is that pool's parent.
        threads = tuple(self._threads(member, "worker" if works else role))
        place = member.main if role == "worker" else None
        process = member.seen.os
        read = bool(member.seen.dump.threads)
        return ProcessInfo(
            pid=member.pid,
            name=role,
            role=role,
            threads=threads,
            state=self._process_state(member, role),
            started_at=process.started_at,
            tasks_done=(place.completed or 0) if place is not None else 0,
            # The process's count includes ended threads, but in ticks; the threads' are precise.
            cpu_s=max(process.cpu_s, sum(t.os.cpu_s for t in member.seen.threads)),
            rss_bytes=process.rss_bytes,
            initializer=_initializer(member, place) if role == "worker" else None,
            evidence=self._evidence(member.seen, read)
            if read and not (pool and member.pid in pool.guessed)
            else Evidence("inferred", note=_TREE),
            command=" ".join(process.cmdline) or None,
            python_version=self._version(member),
        )

    def _process_state(self, member: Member, role: str) -> str:
        if role != "worker":
            return "stopped" if member.seen.os.state in "Tt" else ""
        main = member.seen.main
        if member.seen.os.state in "Tt":
            return "stopped"
        if member.main is not None:
            return loops.worker_state(member.main.step)
        return guesses.worker_state(None if main is None else main.os)

    def _threads(self, member: Member, role: str) -> Iterator[ThreadInfo]:
        for thread in member.seen.threads:
            yield self._thread(member, role, thread)

    def _thread(self, member: Member, role: str, thread: SeenThread) -> ThreadInfo:
        place = member.places.get(thread.os.tid)
        if thread.python is None:
            return self._unread_thread(member, role, thread)
        if place is not None and not self._serves(member, role, thread, place):
            place = None
        stack = loops.own_part(thread.python.stack) if place is None else place.stack
        is_main = thread.os.tid == member.pid
        info = ThreadInfo(
            pid=member.pid,
            process=role,
            name=thread.python.name or ("MainThread" if is_main else thread.os.name),
            native_id=thread.os.tid,
            roles=_roles(role, is_main, place),
            state=_state(thread, stack, place) + self._awaited(member, thread, place),
            ident=thread.python.ident,
            is_main=is_main,
            os_name=thread.os.name,
            cpu_s=thread.os.cpu_s,
            stack=stack,
            pool=self._pool_of(member, thread.os.tid, place),
            evidence=self._evidence(member.seen, True, thread.whole),
            kernel=procfs.sleeps_in(thread.os),
            cpu_share=thread.cpu_share,
        )
        return replace(info, task=self._task(info, place))

    def _awaited(self, member: Member, thread: SeenThread, place: Place | None) -> str:
        """Name the job for whose end a caller waits: the handlers' table of open jobs has its result."""
        if place is None or "caller" not in place.roles or thread.python is None:
            return ""
        held = {frame.get("self", "") for frame in thread.python.variables}
        for pool in self.found:
            if pool.pid == member.pid:
                for job, result in _OPEN_JOB.findall(pool.variable("cache") or ""):
                    if result in held:
                        return f" for job {job}"
        return ""

    def _serves(self, member: Member, role: str, thread: SeenThread, place: Place) -> bool:
        """Tell whether a thread is part of one of the pools: a queue of the user's own has a feeder too."""
        if "caller" in place.roles or (thread.os.tid == member.pid and role in ("worker", "child")):
            return True
        return any(p.pid == member.pid and thread.os.tid in p.threads for p in self.found)

    def _unread_thread(self, member: Member, role: str, thread: SeenThread) -> ThreadInfo:
        is_main = thread.os.tid == member.pid
        owner = self.owners.get(thread.os.tid)
        roles, note = self._guessed_roles(member, role, thread, owner)
        python = roles != ("native",)
        return ThreadInfo(
            pid=member.pid,
            process=role,
            name="MainThread" if is_main and python else thread.os.name,
            native_id=thread.os.tid,
            roles=roles,
            state=procfs.state_words(thread.os),
            is_main=is_main,
            python=python,
            os_name=thread.os.name,
            cpu_s=thread.os.cpu_s,
            pool=self._pool_of(member, thread.os.tid, None),
            evidence=Evidence("os" if not python else "inferred", note=note),
            kernel=procfs.sleeps_in(thread.os),
            cpu_share=thread.cpu_share,
            library=None if python or owner == "CPython" else owner,
        )

    def _guessed_roles(
        self, member: Member, role: str, thread: SeenThread, owner: str | None
    ) -> tuple[tuple[str, ...], str | None]:
        dump = member.seen.dump
        if dump.threads:
            # Python's threads were read, and this one was not among them: unless it began just then.
            return ("native",), None
        note = dump.note or guesses.NOTE
        if thread.os.tid == member.pid:
            if not families.looks_like_python(member.seen.os):
                return ("native",), "no Python program"
            return _roles(role, True, None), note
        for pool in self.found:
            if pool.pid == member.pid and thread.os.tid in pool.roles:
                return pool.roles[thread.os.tid], note
        if role in ("manager", "resource-tracker", "fork-server"):
            return (role,), note
        named = guesses.by_name(thread.os)
        if named is not None:
            return named, note
        if owner not in (None, "CPython") or not families.looks_like_python(member.seen.os):
            return ("native",), None
        return ("user",), note

    def _pool_of(self, member: Member, tid: int, place: Place | None) -> str | None:
        for pool in self.found:
            in_parent = pool.pid == member.pid and (tid in pool.threads or tid in pool.roles)
            if in_parent or (member.pid in pool.workers and tid == member.pid):
                return self._name(pool)
        if place is None or place.call is None:
            return None
        alike = [p for p in self.found if p.pid == member.pid and place.kind in ("", p.kind)]
        return self._name(alike[0]) if len(alike) == 1 else None

    def _evidence(self, process: SeenProcess, read: bool, whole: bool | None = None) -> Evidence:
        dump = process.dump
        if not read:
            return Evidence("os", note=dump.note)
        age_s = self.sight.taken_at + self.sight.took_s - dump.taken_at
        return Evidence(
            dump.source, age_s=max(0.0, age_s), note=dump.note, paused_s=dump.paused_s, whole=whole
        )

    def _task(self, thread: ThreadInfo, place: Place | None) -> TaskInfo | None:
        if place is None or place.step != "task":
            return None
        return TaskInfo(
            id=None,
            job=place.job,
            function=place.function or "a function in C",
            state="running",
            index=place.index or 0,
            arguments=None if self.redact else place.arguments,
            pid=thread.pid,
            thread=ThreadRef(thread.name, thread.ident, thread.native_id, thread.is_main),
        )

    def _start_method(self, pool: Found) -> str | None:
        context = re.match(r"<(\w+) at", pool.variable("ctx") or "")
        if context is not None and context.group(1) in _METHODS:
            return _METHODS[context.group(1)]
        for pid in pool.workers:
            process = self.known[pid].seen.os
            parent = self.known.get(process.ppid)
            if parent is not None and self._other_role(parent) == "fork-server":
                return "forkserver"
            if families.module_of(process) == "loky":
                return "loky"
            if families.role_by_command(process) == "worker":
                return "spawn"
            if parent is not None and families.is_forked(process, parent.seen.os):
                return "fork"
        return None

    def _initializer_name(self, pool: Found) -> str | None:
        for pid in pool.workers:
            place = self.known[pid].main
            if place is not None and place.step == "initializer" and place.users:
                return place.users[0].function
        return None

    def _version(self, member: Member) -> str | None:
        """Tell the interpreter's version, else guess it from the path of its library or its parent's."""
        if member.seen.version is not None:
            return member.seen.version
        for thread in member.seen.threads:
            for frame in thread.python.stack if thread.python is not None else ():
                found = _VERSION.search(frame.file)
                if found is not None:
                    return found.group(1)
        parent = self.known.get(member.seen.os.ppid)
        if parent is not None and families.is_forked(member.seen.os, parent.seen.os):
            return self._version(parent)
        command = member.seen.os.cmdline[:1]
        named = _VERSION.search(command[0]) if command else None
        return None if named is None else named.group(1) or named.group(2)


def _roles(role: str, is_main: bool, place: Place | None) -> tuple[str, ...]:
    """Return the roles of a thread of Python's, from its process's role and what it is at."""
    served = () if place is None else place.roles
    if role == "worker":
        if not is_main:
            return served or ("user",)
        has_initializer = place is not None and place.variables.get("initializer", "None") != "None"
        first = (
            ("initializer",) if has_initializer or (place and place.step == "initializer") else ()
        )
        return (*first, *(served or ("task",)))
    if role in ("parent", "child"):
        first = ("main",) if is_main else ()
        return (*first, *served) or ("user",)
    return (role,)


def _state(thread: SeenThread, stack: Stack, place: Place | None) -> str:
    """Say in words what a thread of Python's does."""
    if thread.os.state in "Tt":
        words = procfs.state_words(thread.os)
        return words if place is None else f"{words} ({place.words})"
    if place is not None:
        return place.words
    if thread.os.state not in "S?" or procfs.sleeps_in(thread.os) not in (None, "futex"):
        return procfs.state_words(thread.os)
    waits = None
    for frame in reversed(stack):
        if not frame.file.endswith(_WAITING_FILES) or frame.function == "Thread.run":
            break
        waits = frame.function
    if waits is not None:
        return f"waiting in {waits}"
    if not stack:
        return procfs.state_words(thread.os)
    last = stack[-1]
    return f"in {last.function} ({last.file.rpartition('/')[2]}:{last.line})"


def _initializer(member: Member, place: Place | None) -> InitializerInfo | None:
    """Tell what is known of a worker's initializer; None if nothing is."""
    main = member.seen.main
    if place is None or main is None or main.python is None:
        return None
    ran = ThreadRef(main.python.name, main.python.ident, member.pid, True)
    if place.step == "initializer":
        return InitializerInfo(place.users[0].function if place.users else None, "running", ran)
    text = place.variables.get("initializer")
    if text is None or place.step == "starting":
        return None
    return InitializerInfo(None, "none") if text == "None" else InitializerInfo(None, "done", ran)


def _stats(pool: Found) -> dict[str, int]:
    """Count the jobs that have not ended, as far as the handlers' table of them could be read."""
    text = pool.variable("cache")
    if text is None:
        return {}
    # The reader cuts long texts: then there are more.
    key = "jobs_open_at_least" if "..." in text else "jobs_open"
    return {key: len(re.findall(r"\d+: <", text))}


def _pool_notes(pool: Found, member: Member) -> Iterator[str]:
    if pool.is_guess:
        yield "a pool, as its process has workers: which of the libraries made it is not known"
    if pool.guessed:
        pids = _listed(sorted(pool.guessed))
        yield f"which of the program's pools worker {pids} serves is only guessed"
    seen = {role for place in pool.threads.values() for role in place.roles}
    if member.seen.dump.threads and not pool.is_of_threads:
        missing = [role for role in HANDLER_ROLES if role not in seen]
        if missing:
            yield f"no such thread: {', '.join(missing)}"


def _refusals(sight: Sight) -> Iterator[str]:
    """Say once why stacks are missing, and of which processes if not of all."""
    if not sight.with_stacks:
        yield f"roles are told {guesses.NOTE}"
        return
    pids: dict[str, list[int]] = {}
    for process in sight.processes:
        dump = process.dump
        if dump.note and families.looks_like_python(process.os):
            words = f"no stacks: {dump.note}" if dump.refusal or not dump.threads else dump.note
            pids.setdefault(words, []).append(process.pid)
    for words, of in pids.items():
        where = "" if len(of) == len(sight.processes) else f" (process {_listed(of)})"
        yield f"{words}{where}"


def _listed(pids: Sequence[int], most: int = 5) -> str:
    text = ", ".join(map(str, pids[:most]))
    return text if len(pids) <= most else f"{text} and {len(pids) - most} more"
