"""Whether this process may read others: capabilities, seccomp, Yama, and what comes of trying it.

The rules themselves are in ``observe.rights``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from glasspool.observe import procfs, pyspy, rights
from glasspool.observe.machine.check import LIMITED, OK, Check
from glasspool.observe.machine.interpreter import effective_uid, user_words

TOPIC = "Reading processes"

LIMIT_S = 10.0

_SYS_PTRACE = 1 << 19
_SECCOMP = ("off", "strict", "filter")
_TRIES = ("exe", "maps", "syscall", "mem")


def tries(pid: int) -> dict[str, str | None]:
    """Open those files of a process that the system guards; None for what went well, else why not.

    ``exe`` and ``maps`` take the right to read the process, ``syscall`` and ``mem`` the right to trace it,
    which Yama restricts further. Nothing is written, and opening does nothing to the process.
    """
    return {name: _try(f"/proc/{pid}/{name}") for name in _TRIES}


def _try(path: str) -> str | None:
    try:
        if path.endswith("exe"):
            os.readlink(path)
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or str(error)
    try:
        if not path.endswith("mem"):  # which has nothing to read at its beginning
            os.read(descriptor, 64)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(descriptor)
    return None


# A Python program that waits, and one that looks at it: as any other terminal would.
_WAIT = "import sys; print('ready', flush=True); sys.stdin.read()"
_LOOK = "import sys; open(sys.argv[1], 'rb').read(64)"


@contextlib.contextmanager
def bystander() -> Iterator[int | None]:
    """Run a Python program that waits, to be looked at; None if none can be started."""
    command = [sys.executable, "-I", "-S", "-c", _WAIT]
    try:
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError:
        yield None
        return
    try:
        # Woken by its line, or by its end.
        said = program.stdout.readline() if program.stdout is not None else b""
        yield program.pid if said == b"ready\n" else None
    finally:
        program.kill()  # a child of ours, which has nothing to put in order
        program.communicate()  # woken by that


def checks() -> Iterator[Check]:
    """Look at the rights of this process, and try to read a child of ours."""
    mine = procfs.status(os.getpid())
    if mine is not None:
        yield _user()
        yield _capabilities(mine)
        yield _yama(rights.yama_scope(), bool(mine.cap_effective & _SYS_PTRACE))
        yield _proc()
    with bystander() as pid:
        if pid is None:
            means = "Whether programs can be read was not tried."
            remedy = "See the limits of processes and descriptors."
            yield Check("ptrace", TOPIC, LIMITED, "no process could be started", means, remedy)
            return
        if mine is not None:
            yield _trial(pid)
        yield _stacks(pid)


def _user() -> Check:
    uid, inside = effective_uid(), rights.is_in_user_namespace()
    found = f"{user_words(uid or 0)}" + (", in a user namespace of its own" if inside else "")
    means = "Programs of all users may be read where CAP_SYS_PTRACE is held, else one's own."
    if uid != 0:
        means = "Programs of this user may be read; those of others show little."
    elif inside:
        means = (
            "Root here is an ordinary user outside: only processes of this namespace may be read."
        )
    facts = {"uid": uid, "in_user_namespace": inside}
    return Check("user", TOPIC, OK, found, means, facts=facts)


def _capabilities(mine: procfs.Status) -> Check:
    seccomp = _SECCOMP[mine.seccomp] if mine.seccomp < len(_SECCOMP) else str(mine.seccomp)
    has = bool(mine.cap_effective & _SYS_PTRACE)
    found = f"CAP_SYS_PTRACE {'held' if has else 'not held'}, seccomp {seccomp}"
    found += ", no_new_privs" if mine.no_new_privs else ""
    facts = {
        "cap_sys_ptrace": has,
        "cap_effective": f"{mine.cap_effective:016x}",
        "seccomp": seccomp,
        "no_new_privs": mine.no_new_privs,
    }
    means = (
        "Programs of any user can be read, whatever rights they have."
        if has
        else "Enough for programs of the same user with the same or fewer rights: the usual case."
    )
    return Check("capabilities", TOPIC, OK, found, means, facts=facts)


def _yama(scope: int | None, entitled: bool) -> Check:
    facts = {"scope": scope}
    found = "absent" if scope is None else f"kernel.yama.ptrace_scope is {scope}"
    if not scope:
        return Check("yama", TOPIC, OK, found, "It restricts nobody.", facts=facts)
    if entitled and scope < 3:
        means = "CAP_SYS_PTRACE is held, and overrides it."
        return Check("yama", TOPIC, OK, found, means, facts=facts)
    means = {
        1: "Only a program's ancestors may read its stacks: not a glasspool in another terminal.",
        2: "Only a process with CAP_SYS_PTRACE may read stacks.",
    }.get(scope, "Nobody may read stacks of another process until the machine starts again.")
    remedy = "sysctl kernel.yama.ptrace_scope=0 on the host, or CAP_SYS_PTRACE for glasspool."
    return Check("yama", TOPIC, LIMITED, found, means, remedy, facts=facts)


def _proc() -> Check:
    hidden = hidepid()
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    shown = f"/proc shows {len(pids)} processes"
    facts = {"hidepid": hidden, "processes": len(pids), "sees_pid_1": 1 in pids}
    if hidden not in (None, "0", "off") and effective_uid() != 0:
        return Check(
            "proc",
            TOPIC,
            LIMITED,
            f"{shown}, hidepid={hidden}",
            "Processes of other users are not seen at all.",
            "Run glasspool as the program's user, or as one in the group that /proc exempts (gid=).",
            facts=facts,
        )
    return Check("proc", TOPIC, OK, shown + (f", hidepid={hidden}" if hidden else ""), facts=facts)


def hidepid() -> str | None:
    """Return the option ``hidepid`` with which ``/proc`` is mounted, None without it."""
    try:
        with open("/proc/self/mountinfo") as mounts:
            lines = [line.split() for line in mounts]
    except OSError:
        return None
    # The last mount at a place is the one that is seen.
    for fields in reversed(lines):
        if fields[4] == "/proc":
            options = dict(part.partition("=")[::2] for part in fields[-1].split(","))
            return options.get("hidepid")
    return None


def _trial(pid: int) -> Check:
    child = tries(pid)
    neighbour = _as_neighbour(pid)
    failed = [name for name, error in child.items() if error is not None]
    facts = {"child": child, "neighbour": neighbour}
    if not failed and neighbour is None:
        found = "memory of a child read by its parent and by another process"
        return Check("ptrace", TOPIC, OK, found, facts=facts)
    if not failed and not _is_refusal(neighbour):
        means = "Whether other programs can be read was not tried."
        remedy = "See the limits of processes and descriptors."
        return Check("ptrace", TOPIC, LIMITED, neighbour or "", means, remedy, facts=facts)
    why = rights.explain(pid)
    by = "its parent" if failed else "another process of the same user"
    return Check(
        "ptrace",
        TOPIC,
        LIMITED,
        f"a child may not be read by {by}: {why.words}",
        "Stacks, arguments and what threads wait for are missing; processes, threads and times are told.",
        sentence(why.remedy),
        facts=facts | {"cause": why.cause},
    )


def _as_neighbour(pid: int) -> str | None:
    """Try to read a process from one that is not its ancestor; return why not, None if it went well."""
    command = [sys.executable, "-I", "-S", "-c", _LOOK, f"/proc/{pid}/syscall"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"could not be tried: {error}"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return said if _is_refusal(said) else f"could not be tried: {said or 'no message'}"


def _is_refusal(said: str | None) -> bool:
    return said is not None and ("ermission" in said or "not permitted" in said)


def _stacks(pid: int) -> Check:
    program = pyspy.program()
    if program is None:
        return Check(
            "py-spy",
            TOPIC,
            LIMITED,
            "not found",
            "Roles are told from names and the kernel's word, and stacks are not shown.",
            pyspy.INSTALL,
            facts={"path": None},
        )
    begun = time.monotonic()
    dump = pyspy.dump([pid], LIMIT_S)[pid]
    took_ms = (time.monotonic() - begun) * 1e3
    version = _version(program)
    facts = {"path": program, "version": version, "note": dump.note, "refusal": dump.refusal}
    named = f"py-spy {version or '(no version told)'}"
    if dump.threads:
        found = f"{named} read a program in {took_ms:.0f} ms"
        return Check("py-spy", TOPIC, OK, found, facts=facts | {"took_ms": round(took_ms, 1)})
    remedy = "Install a py-spy that knows this Python: pip install --upgrade py-spy"
    what = f"read no program: {dump.note}"
    if dump.refusal == "denied":
        why = rights.explain(pid)
        what = f"was not permitted to read a program: {why.words}"
        remedy, facts["cause"] = sentence(why.remedy), why.cause
    elif dump.refusal == "missing":  # it is there, but could not be started
        remedy = "See the limits of processes and descriptors."
    return Check(
        "py-spy",
        TOPIC,
        LIMITED,
        f"{named} {what}",
        "Roles are told from names and the kernel's word, and stacks are not shown.",
        remedy,
        facts=facts,
    )


def sentence(words: str) -> str:
    """Make a sentence of words that stand in the middle of one elsewhere."""
    return f"{words[:1].upper()}{words[1:]}."


def _version(program: str) -> str | None:
    try:
        told = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip().rpartition(" ")[2] or None
