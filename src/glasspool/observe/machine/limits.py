"""Limits of this process, and shared memory: what there is, and what works when it is tried."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Iterator
from typing import Any

from glasspool.engines.local import kernel, segments
from glasspool.observe.machine.check import LIMITED, NO, OK, Check, size_words
from glasspool.observe.machine.container import TOPIC

_DESCRIPTORS_FAIR = 256
_PROCESSES_FEW = 16
_SHARED_FAIR = 256 * 1000 * 1000
_TRIED_BYTES = 1 << 20
_SHM = "/dev/shm"


def checks() -> Iterator[Check]:
    """Look at the limits of this process and at shared memory."""
    with contextlib.suppress(ImportError):  # not a Unix
        import resource

        yield _descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE))
        yield _processes(resource.getrlimit(resource.RLIMIT_NPROC)[0])
    size = kernel.file_size_limit()
    if size is not None:
        yield _file_size(size)
    if sys.platform == "linux":
        yield _shm()
    yield _memory_files()
    yield _semaphores()


def _descriptors(soft: int, hard: int) -> Check:
    # Listing them takes one more; a process that has none left cannot even ask.
    used = None
    with contextlib.suppress(OSError):
        used = len(os.listdir("/proc/self/fd")) - 1
    facts = {"soft": _number(soft), "hard": _number(hard), "used": used}
    if soft < 0 or soft >= _DESCRIPTORS_FAIR:
        found = f"{_words(soft)} (ulimit -n)"
        return Check("descriptors", TOPIC, OK, found, facts=facts)
    workers = max(0, (soft - 16) // 4)
    found = f"{soft} (ulimit -n), of at most {_words(hard)}"
    means = f"Enough for a pool of about {workers} worker{'s' if workers > 1 else ''}."
    if not workers:
        means = "Too few for most pools."
    remedy = "ulimit -n 4096"
    if 0 <= hard < 4096:
        remedy = (
            "Raise the hard limit: docker run --ulimit nofile=4096, or LimitNOFILE= of the service."
        )
    return Check("descriptors", TOPIC, LIMITED, found, means, remedy, facts=facts)


def _processes(soft: int) -> Check:
    used = _threads_of_user()
    facts = {"soft": _number(soft), "used": used}
    # The kernel counts root's processes, too, but refuses none of them.
    binds = soft >= 0 and os.geteuid() != 0
    found = f"{_words(soft)} (ulimit -u)" + (f", {used} in use" if used is not None else "")
    if not binds or used is None or soft - used >= _PROCESSES_FEW:
        return Check("processes", TOPIC, OK, found, facts=facts)
    left = max(0, soft - used)
    means = (
        f"{left} more processes or threads can be started; a pool of N workers takes up to N + 6."
    )
    return Check(
        "processes", TOPIC, LIMITED, found, means, "Raise the limit (ulimit -u).", facts=facts
    )


def _threads_of_user() -> int | None:
    """Count the threads of this user, which is what the limit of processes counts."""
    uid, count = os.getuid(), 0
    try:
        entries = [entry for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        return None
    for entry in entries:
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            told = kernel.read_file(f"/proc/{entry}/status").decode(errors="replace")
            lines = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
            if int(lines["Uid"].split()[0]) == uid:
                count += int(lines.get("Threads", "1"))
    return count


def _file_size(limit: int) -> Check:
    return Check(
        "file-size",
        TOPIC,
        LIMITED,
        f"files may have {size_words(limit)} (ulimit -f)",
        "Shared memory counts as files: larger arguments and results fail with an error.",
        "ulimit -f unlimited",
        facts={"bytes": limit},
    )


def _shm() -> Check:
    try:
        told = os.statvfs(_SHM)
    except OSError as error:
        return Check(
            "shared-memory",
            TOPIC,
            LIMITED,
            f"no {_SHM}: {error.strerror}",
            "Scoreboards lie in the temporary folder; multiprocessing.shared_memory and its locks fail.",
            f"Mount a tmpfs at {_SHM}.",
            facts={"size_bytes": None},
        )
    size, free = told.f_blocks * told.f_frsize, told.f_bavail * told.f_frsize
    found = f"{_SHM}: {size_words(size)}, {size_words(free)} free"
    facts = {"size_bytes": size, "free_bytes": free, "writable": os.access(_SHM, os.W_OK)}
    if not facts["writable"]:
        means = "Scoreboards lie elsewhere; multiprocessing's locks and shared memory fail."
        remedy = f"Mount {_SHM} writable, with mode 1777."
        return Check(
            "shared-memory", TOPIC, LIMITED, f"{found}, not writable", means, remedy, facts=facts
        )
    if min(size, free) < _SHARED_FAIR:
        means = (
            "Enough for glasspool, whose large values are in memory files that this does not limit; "
            "multiprocessing.shared_memory, PyTorch and joblib are limited by it."
        )
        remedy = "docker run --shm-size=2g; in a pod an emptyDir with medium: Memory at /dev/shm."
        return Check("shared-memory", TOPIC, LIMITED, found, means, remedy, facts=facts)
    return Check("shared-memory", TOPIC, OK, found, facts=facts)


def _memory_files() -> Check:
    """Do with a memory file what a pool does with each large value."""
    named = _tried(getattr(os, "memfd_create", None))
    facts: dict[str, Any] = {"memfd_create": named or "works"}
    if named is None:
        return Check("memory-files", TOPIC, OK, "memfd_create works", facts=facts)
    other = _tried(lambda _: segments.new_file())
    facts["file"] = other or "works"
    if other is None:
        means = f"Large values take files without a name in {_SHM} or the temporary folder: its size counts."
        remedy = "Allow memfd_create in the seccomp profile."
        return Check(
            "memory-files", TOPIC, LIMITED, f"memfd_create: {named}", means, remedy, facts=facts
        )
    means = "Outboxes and large values have no place: each result travels on its own."
    remedy = "Allow memfd_create, or give the container a writable temporary folder."
    found = f"memfd_create: {named}; a temporary file: {other}"
    return Check("memory-files", TOPIC, NO, found, means, remedy, needed=True, facts=facts)


def _tried(create: Any) -> str | None:
    """Make a file in memory, reserve, map and write it; return why that failed, None if it did not."""
    if create is None:
        return "this system has none"
    try:
        fd = create("glasspool-doctor")
    except OSError as error:
        return error.strerror or str(error)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, _TRIED_BYTES)
        else:
            os.truncate(fd, _TRIED_BYTES)
        with mmap.mmap(fd, _TRIED_BYTES) as memory:
            memory[-1] = 1
    except (OSError, ValueError) as error:
        return str(error)
    finally:
        os.close(fd)
    return None


def _semaphores() -> Check:
    try:
        import multiprocessing

        # Of the kind that leaves nothing behind: no tracker is started for it.
        methods = multiprocessing.get_all_start_methods()
        multiprocessing.get_context("fork" if "fork" in methods else None).Lock()
    except (ImportError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else "this Python has none"
        return Check(
            "semaphores",
            TOPIC,
            LIMITED,
            f"none: {why}",
            "glasspool needs none; multiprocessing.Pool and ProcessPoolExecutor cannot be made.",
            f"Use glasspool.Pool, or give the container a writable {_SHM}.",
            facts={"error": str(error)},
        )
    return Check(
        "semaphores", TOPIC, OK, "work", "glasspool needs none; the standard library does."
    )


def _number(limit: int) -> int | None:
    return None if limit < 0 else limit


def _words(limit: int) -> str:
    return "no limit" if limit < 0 else str(limit)
