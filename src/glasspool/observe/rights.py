"""Why another process may not be read, and the one thing to do about it here.

Readers tell this badly: py-spy says of missing capabilities that the process had gone. So the causes are
looked at one by one, in the order in which the kernel does (``__ptrace_may_access`` in its
``kernel/ptrace.c``, then Yama). Nothing is attached to anything.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import NamedTuple

from glasspool.observe import procfs

_SYS_PTRACE = 1 << 19  # CAP_SYS_PTRACE of capabilities(7)
_SECCOMP_FILTER = 2
_INITIAL_NAMESPACE = "user:[4026531837]"  # PROC_USER_INIT_INO of the kernel's proc_ns.h
_IN_CONTAINER = "docker run --cap-add SYS_PTRACE, or kubectl debug --profile=general"


class Denial(NamedTuple):
    """Why a process may not be read.

    ``cause`` is one word: ``user`` (it is another user's), ``protected`` (it made itself non-dumpable),
    ``capabilities`` (it has some that we lack), ``namespace`` (of users), ``yama``, ``seccomp``, ``files``
    (those of its interpreter), or ``unknown``.
    """

    cause: str
    words: str
    remedy: str

    def __str__(self) -> str:
        return f"not permitted to read it: {self.words}; {self.remedy}"


def is_readable(pid: int) -> bool:
    """Tell whether the kernel lets us read the memory of a process, without reading any.

    True also where that cannot be found out, and for a process that has ended.
    """
    if sys.platform != "linux":
        return True
    try:
        # Opening asks the very question that a reader's first access asks (PTRACE_MODE_ATTACH).
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EPERM)
    return True


def denial(pid: int) -> Denial | None:
    """Say why a process may not be read; None if it may, or has ended."""
    return None if is_readable(pid) else explain(pid)


def explain(pid: int) -> Denial:
    """Say why a process cannot be read, where it is known that it cannot."""
    target, own = procfs.status(pid), procfs.status(os.getpid())
    if target is None or own is None:
        return Denial("unknown", "the system does not say why", "try as root")
    entitled = bool(own.cap_effective & _SYS_PTRACE)
    if is_readable(pid):
        return _beside_the_kernel(own, entitled)
    if not entitled and (found := _for_lack_of_rights(pid, target, own)) is not None:
        return found
    scope = yama_scope() or 0
    if scope == 3 or (scope > 0 and not entitled):
        return _by_yama(scope)
    if is_in_user_namespace() and _namespace(pid) is None:
        words = "it lives outside this user namespace, in which alone root has its rights"
        return Denial("namespace", words, "run outside of the namespace, as its user")
    if not entitled and _namespace(pid) is None:
        # What no other rule forbids: of root's processes their files don't tell that.
        return _protected("most likely it has made itself non-dumpable")
    return Denial(
        "unknown",
        "it is in another user namespace, or a security module (SELinux, AppArmor) forbids it",
        "run beside it, in its own container, or as root of the machine",
    )


def is_in_user_namespace() -> bool:
    """Tell whether this process lives in a user namespace that is not the machine's."""
    return _namespace(os.getpid()) not in (None, _INITIAL_NAMESPACE)


def _namespace(pid: int) -> str | None:
    """Return the user namespace of a process; None where the process may not be read, or has ended.

    That takes PTRACE_MODE_READ, which Yama and seccomp do not guard.
    """
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return None


def _beside_the_kernel(own: procfs.Status, entitled: bool) -> Denial:
    # The process itself may be read, yet the reader was refused something.
    scope = yama_scope() or 0
    if scope > 0 and not entitled:
        return _by_yama(scope)  # we started it, and the reader did not
    if own.seccomp == _SECCOMP_FILTER:
        remedy = f"grant CAP_SYS_PTRACE: {_IN_CONTAINER}"
        return Denial("seccomp", "a seccomp filter of this container forbids it", remedy)
    words = "the files of its interpreter may not be opened"
    return Denial("files", words, "run as a user who may read them, or as root")


def _for_lack_of_rights(pid: int, target: procfs.Status, own: procfs.Status) -> Denial | None:
    # The kernel compares all three user ids and group ids of the target with the real ones of who asks.
    if set(target.uids[:3]) != {own.uids[0]}:
        other = next(iter({*target.uids[:3]} - {own.uids[0]}))
        return Denial("user", f"it belongs to {_user(other)}", "run as that user, or as root")
    if set(target.gids[:3]) != {own.gids[0]}:
        return Denial("user", "it belongs to another group", "run as that group, or as root")
    if _is_protected(pid, target):
        return _protected("it has made itself non-dumpable")
    if target.cap_permitted & ~own.cap_effective:
        return Denial(
            "capabilities",
            "it has capabilities that this command lacks",
            f"grant CAP_SYS_PTRACE: {_IN_CONTAINER}",
        )
    return None


def _protected(words: str) -> Denial:
    remedy = f"run as root, or grant CAP_SYS_PTRACE ({_IN_CONTAINER})"
    return Denial("protected", words, remedy)


def _is_protected(pid: int, target: procfs.Status) -> bool:
    try:
        # The files of a non-dumpable process are root's there, whoever the process belongs to. Of
        # root's own processes that does not tell.
        return os.stat(f"/proc/{pid}/status").st_uid != target.uids[1]
    except OSError:
        return False


def yama_scope() -> int | None:
    """Return ``kernel.yama.ptrace_scope``, None for a kernel without Yama."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", "rb") as setting:
            return int(setting.read())
    except (OSError, ValueError):
        return None


def _by_yama(scope: int) -> Denial:
    where = f"kernel.yama.ptrace_scope is {scope}"
    if scope >= 3:
        return Denial(
            "yama", f"{where}, which forbids it to all", "set it to 0 and restart the machine"
        )
    return Denial("yama", where, "run as root, or: sysctl kernel.yama.ptrace_scope=0")


def _user(uid: int) -> str:
    import pwd  # only for those who are refused

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
