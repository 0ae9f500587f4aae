"""Check that a test gives back what it took: descriptors, threads, processes, files, memory."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

import clusters
from hang_guard import describe

SETTLE_S = 5.0
"""How long a test's threads, processes and descriptors may take to go away after it."""

_LOOK_AGAIN_S = 0.02

_KEPT_FOR_REUSE = "/dev/shm/pym-"
"""Blocks from which ``multiprocessing`` cuts its shared values; it never gives them back."""

_RAY_LOG = re.compile(r"/session_[^/]+/logs/")
"""Files that Ray keeps open in the driver."""

_OF_CLUSTERS = re.compile(
    r"descriptor (anon_inode:\[(event|timer)|socket:)|file .*\.[0-9]+\.(board|sock)$"
)

_LASTING = ("Dask-Offload",)
"""Threads that live as long as the process does, once there is one."""


@dataclass(frozen=True)
class Held:
    """What this process holds at one moment.

    Threads are told apart by object, because idents are used again, and processes by pid and start
    time (``psutil.Process`` compares both). Orphans are processes of our process group that have
    lost their parent: a worker that outlived its pool's helper process.
    """

    descriptors: Counter[str]
    mappings: Counter[str]
    threads: frozenset[threading.Thread]
    children: frozenset[psutil.Process]
    orphans: frozenset[psutil.Process]
    files: frozenset[str]

    def beyond(self, before: Held) -> list[str]:
        """List in words what is held now and was not before."""
        return [
            *_more("descriptor", self.descriptors, before.descriptors),
            *_more("mapping", self.mappings, before.mappings),
            *(f"thread {thread!r}" for thread in self.threads - before.threads),
            *(f"child process {describe(p)}" for p in self.children - before.children),
            *(f"orphan {describe(p)}" for p in self.orphans - before.orphans),
            *(f"file {name}" for name in sorted(self.files - before.files)),
        ]


def take() -> Held:
    """Return what this process holds now."""
    running = _running()
    children = _descendants(running)
    return Held(
        descriptors=Counter(_descriptors()),
        mappings=Counter(_shared_mappings()),
        threads=frozenset(
            t
            for t in threading.enumerate()
            if not t.name.startswith(_LASTING) and not isinstance(t, threading._DummyThread)
        ),
        children=_known(children),
        orphans=_known(_orphans(running) - children),
        files=frozenset(_files()),
    )


@contextlib.contextmanager
def nothing_left(settle_s: float = SETTLE_S, beside_clusters: bool = False) -> Iterator[None]:
    """Fail if what the block took is not given back soon after it.

    Args:
        settle_s: How long that may take, in seconds.
        beside_clusters: The block uses clusters. Ray keeps descriptors of its own (epoll, eventfd, timerfd,
            sockets), and an agent that was killed with its node leaves two files: these are not looked at.

    Raises:
        AssertionError: With one line for each thing that is left.
    """
    before = take()
    yield
    left = _wait_for(before, time.monotonic() + settle_s)
    if beside_clusters:
        left = [one for one in left if not _OF_CLUSTERS.search(one)]
    if left:
        raise AssertionError("left behind:\n  " + "\n  ".join(left))


def _wait_for(before: Held, deadline: float) -> list[str]:
    now = take()
    if not now.beyond(before):
        return []  # mostly; to collect garbage takes long, as pytest has made so many objects
    gc.collect()
    now = take()
    for thread in now.threads - before.threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    psutil.wait_procs(now.children - before.children, timeout=max(0.0, deadline - time.monotonic()))
    # Nothing announces that a descriptor was closed or a mapping undone: look again until then.
    while (left := take().beyond(before)) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
        gc.collect()
    return left


def _more(word: str, now: Counter[str], before: Counter[str]) -> list[str]:
    return [f"{count} x {word} {name}" for name, count in sorted((now - before).items())]


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        # The descriptor that lists the folder is itself in the list, and gone by now.
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith(_KEPT_FOR_REUSE) and not _is_left_by_ray(int(name), target):
                yield target


def _is_left_by_ray(descriptor: int, target: str) -> bool:
    """Tell whether Ray has left a descriptor behind when it disconnected: a log, a port closed by half."""
    if "ray" not in sys.modules or not target.startswith("socket:"):
        return _RAY_LOG.search(target) is not None
    with socket.socket(fileno=os.dup(descriptor)) as one:
        if one.type != socket.SOCK_STREAM or one.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return False
        try:
            one.getpeername()
        except OSError as error:
            return error.errno == errno.ENOTCONN
        return False


def _shared_mappings() -> Iterator[str]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        path = fields[5] if len(fields) == 6 else ""
        if path.startswith(("/memfd:", "/dev/shm/")) and not path.startswith(_KEPT_FOR_REUSE):
            yield path


class _Process(NamedTuple):
    state: str
    parent: int
    group: int


def _running() -> dict[int, _Process]:
    """Read what runs on this machine, once: this is done around each of some thousand tests."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                stat = Path("/proc", name, "stat").read_bytes()
                state, parent, group = stat.rpartition(b")")[2].split()[:3]
                if int(group) not in clusters.groups:
                    found[int(name)] = _Process(state.decode(), int(parent), int(group))
    return found


def _descendants(running: dict[int, _Process]) -> set[int]:
    found: set[int] = set()
    fresh = {os.getpid()}
    while fresh:
        fresh = {pid for pid, process in running.items() if process.parent in fresh} - found
        found |= fresh
    return found


def _orphans(running: dict[int, _Process]) -> set[int]:
    group = os.getpgrp()
    mine = {pid for pid, process in running.items() if process.group == group}
    # Init may take its time to collect what has already ended.
    return {pid for pid in mine if running[pid].parent not in mine and running[pid].state != "Z"}


def _known(pids: set[int]) -> frozenset[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):  # it has ended
            found.append(psutil.Process(pid))
    return frozenset(found)


def _files() -> Iterator[str]:
    for path, _, names in os.walk(os.environ.get("GLASSPOOL_DIR", "/nowhere")):
        yield from (os.path.join(path, name) for name in names)
    # Other programs of the machine use /dev/shm too.
    yield from (str(path) for path in Path("/dev/shm").glob("*glasspool*"))
