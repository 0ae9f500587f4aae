"""What may be read of one process, tried thing by thing, and why not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from glasspool.engines.local import scoreboard
from glasspool.observe import native, outside, procfs, pyspy, rights, running
from glasspool.observe.machine import reading
from glasspool.observe.machine.check import LIMITED, NO, OK, Check
from glasspool.observe.machine.interpreter import effective_uid, user_words
from glasspool.processors import quota_of


def checks(pid: int) -> Iterator[Check]:
    """Try what may be read of a process.

    Raises:
        NoSuchProcess: There is none, or it has ended.
    """
    found = procfs.process(pid)
    if found is None or found.state in "ZX":
        raise running.NoSuchProcess(f"no such process: {pid}")
    topic = f"Process {pid}"
    yield _process(topic, found)
    tried = reading.tries(pid)
    dump = pyspy.dump([pid], reading.LIMIT_S)[pid]
    yield _python(topic, pid)
    yield from _files(topic, pid, tried)
    yield _stacks(topic, dump)
    why = _why_not(pid, tried, dump)
    if why is not None:
        yield why
    yield _own_word(topic, pid)
    yield _native(topic, pid)
    yield _processors(topic, pid)


def _process(topic: str, found: procfs.OsProcess) -> Check:
    command = " ".join(found.cmdline) or f"[{found.name}]"
    threads = len(procfs.thread_ids(found.pid))
    owner = "?" if found.uid is None else user_words(found.uid)
    facts = {"command": command, "uid": found.uid, "threads": threads, "state": found.state}
    shown = command if len(command) <= 60 else command[:59] + "…"
    words = f"{shown}, user {owner}, {threads} thread{'s' if threads != 1 else ''}"
    tracer = procfs.tracer(found.pid)
    if tracer is not None:
        means = f"Process {tracer} traces it (a debugger): no other reader can stop it for a while."
        remedy = "End the debugger, or read without stopping."
        return Check(
            "target", topic, LIMITED, words, means, remedy, facts=facts | {"tracer": tracer}
        )
    if threads == 0:
        means = "Not even its threads are shown."
        remedy = "Run glasspool as its user, or look at how /proc is mounted (hidepid)."
        return Check("target", topic, LIMITED, words, means, remedy, facts=facts)
    return Check("target", topic, OK, words, facts=facts)


def _python(topic: str, pid: int) -> Check:
    version = procfs.python_version(pid)
    facts = {"version": version}
    if version is not None:
        return Check("target.python", topic, OK, f"Python {version}", facts=facts)
    if outside.is_python(pid):
        found = "a Python program, its version is not told"
        return Check("target.python", topic, OK, found, facts=facts)
    return Check(
        "target.python",
        topic,
        NO,
        "not a Python program, as far as can be seen",
        "There are no stacks and no pool in it.",
        "Give the PID of the Python program (glasspool ps lists them).",
        facts=facts,
    )


_TELLS = {
    "fd": "where its descriptors lead: which pipes and files it holds",
    "exe": "which program it runs",
    "maps": "which libraries it has loaded, and so whose native threads it may have",
    "syscall": "what each thread waits for in the kernel",
    "mem": "stacks, local variables, and which library made a thread",
}


def _files(topic: str, pid: int, tried: dict[str, str | None]) -> Iterator[Check]:
    missing = [name for name in ("stat", "status", "cmdline") if not _is_readable(pid, name)]
    found = "times, states, memory, command line"
    if missing:
        found = f"not readable: {', '.join(missing)}"
    yield Check("target.stat", topic, LIMITED if missing else OK, found, facts={"missing": missing})
    descriptors = _listable(f"/proc/{pid}/fd")
    tried = {"fd": descriptors, **tried}
    for name, error in tried.items():
        facts = {"path": f"/proc/{pid}/{name}", "error": error}
        if error is None:
            found = f"/proc/{pid}/{name} tells {_TELLS[name]}"
            yield Check(f"target.{name}", topic, OK, found, facts=facts)
        else:
            found = f"/proc/{pid}/{name}: {error}"
            means = f"Not told: {_TELLS[name]}."
            yield Check(f"target.{name}", topic, LIMITED, found, means, facts=facts)


def _is_readable(pid: int, name: str) -> bool:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            file.read(64)
    except OSError:
        return False
    return True


def _listable(folder: str) -> str | None:
    try:
        os.listdir(folder)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _stacks(topic: str, dump: pyspy.Dump) -> Check:
    facts = {"note": dump.note, "threads": len(dump.threads)}
    if dump.threads:
        count = len(dump.threads)
        found = f"py-spy read {count} Python thread{'s' if count > 1 else ''}"
        return Check("target.stacks", topic, OK, found, facts=facts)
    means = "Roles are told from names and the kernel's word."
    found = dump.note or "no Python thread was found"
    return Check("target.stacks", topic, LIMITED, found, means, facts=facts)


def _why_not(pid: int, tried: dict[str, str | None], dump: pyspy.Dump) -> Check | None:
    """Name the rule that forbids reading, and what to do; None if nothing was forbidden."""
    if dump.refusal != "denied" and all(error is None for error in tried.values()):
        return None
    why = rights.explain(pid)
    facts = {"cause": why.cause, "uid": effective_uid(), "yama": rights.yama_scope()}
    remedy = reading.sentence(why.remedy)
    return Check("target.why", f"Process {pid}", LIMITED, why.words, "", remedy, facts=facts)


def _own_word(topic: str, pid: int) -> Check:
    boards = [one for one in running.pools() if one.pid == pid and one.problem is None]
    if not boards and (elsewhere := _elsewhere(pid)):
        facts = {"pools": 0, "elsewhere": elsewhere}
        means = "It was started in another container or another view of the files."
        remedy = f"GLASSPOOL_DIR={elsewhere} glasspool ps {pid}"
        found = "a pool of glasspool, in a folder that is not this one's"
        return Check("target.pools", topic, LIMITED, found, means, remedy, facts=facts)
    if not boards:
        means = "Stock and other pools are read from outside."
        return Check("target.pools", topic, OK, "no pool of glasspool", means, facts={"pools": 0})
    begun = time.monotonic()
    socket = os.path.splitext(boards[0].path)[0] + ".sock"
    facts = {"pools": len(boards), "socket": socket}
    names = ", ".join(one.name for one in boards)
    try:
        running.ask(socket, stacks=False, limit_s=running.ANSWER_S)
    except (OSError, ValueError) as error:
        found = f"{names}: no answer ({error})"
        means = "Its scoreboard and the operating system are read instead."
        return Check("target.pools", topic, LIMITED, found, means, facts=facts)
    took_ms = (time.monotonic() - begun) * 1e3
    return Check("target.pools", topic, OK, f"{names}: answered in {took_ms:.0f} ms", facts=facts)


def _elsewhere(pid: int) -> str | None:
    """Return the folder of a process's scoreboards in its own view of the files, None if it is not that."""
    for home in scoreboard.folders():
        # Reading it takes the right to read the process: ``proc_pid_root(5)``.
        inside = f"/proc/{pid}/root{os.path.abspath(home)}"
        try:
            if os.path.samefile(inside, home):
                continue
        except OSError:
            pass  # one of them is not there
        try:
            names = os.listdir(inside)
        except OSError:
            continue
        if any(name.endswith(f".{pid}.board") for name in names):
            return inside
    return None


def _native(topic: str, pid: int) -> Check:
    loaded = native.libraries(pid)
    names = list(dict.fromkeys(one.name for one in loaded))
    variables = native.limits_set(pid)
    facts = {"libraries": {one.name: one.file for one in loaded}, "variables": variables}
    if not loaded:
        return Check("target.native", topic, OK, "no library with threads was seen", facts=facts)
    limits = [f"{key}={value}" for key, value in variables.items()]
    found = f"{', '.join(names)}; limits set: {', '.join(limits) or 'none that can be seen'}"
    return Check("target.native", topic, OK, found, facts=facts)


def _processors(topic: str, pid: int) -> Check:
    count, quota = native.processors_of(pid), quota_of(pid)
    found = f"{count} may be used" + (f", quota {quota:g}" if quota is not None else "")
    facts = {"usable": count, "quota": quota}
    return Check("target.processors", topic, OK, found, facts=facts)
