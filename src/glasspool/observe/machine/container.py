"""Whether this is a container, and which limits its cgroups set.

Sources: ``cgroups(7)``, the kernel's cgroup-v2 and cgroup-v1 documents (``memory``, ``pids``, ``cpu``),
``pid_namespaces(7)``; the file names are those that Docker, Podman and Kubernetes put into containers.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glasspool.engines.local import kernel, oom
from glasspool.observe.machine.check import LIMITED, OK, Check, size_words
from glasspool.processors import allowed_processors, quota_of, usable_processors

TOPIC = "Container and limits"

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel's proc_ns.h
_GVISOR = "#1 SMP Sun Jan 10 15:06:54 PST 2016"  # what its kernel says of itself, in every version
_NO_LIMIT = 1 << 60  # cgroup v1 writes the largest number there is
_FEW = 16

_IN_CGROUP = (
    ("kubepods", "Kubernetes"),
    ("docker", "Docker"),
    ("libpod", "Podman"),
    ("lxc", "LXC"),
    ("containerd", "containerd"),
    ("ecs", "Amazon ECS"),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of a cgroup: how much is allowed, and how much of it is used."""

    limit: int
    used: int
    file: str


def checks() -> Iterator[Check]:
    """Look at the container and its limits."""
    yield _container()
    if sys.platform == "linux":
        yield _namespace()
    yield _processors()
    yield _memory()
    pids = pids_bound()
    if pids is not None or sys.platform == "linux":
        yield _pids(pids)


def kinds(root: str = "/", environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Name the kinds of container that this process seems to be in."""
    found = []
    if environment.get("KUBERNETES_SERVICE_HOST"):
        found.append("Kubernetes")
    if os.path.exists(os.path.join(root, ".dockerenv")):
        found.append("Docker")
    if os.path.exists(os.path.join(root, "run/.containerenv")):
        found.append("Podman")
    if environment.get("AWS_LAMBDA_FUNCTION_NAME"):
        found.append("AWS Lambda")
    if environment.get("container"):  # what systemd-nspawn, Podman and LXC set
        found.append(environment["container"])
    with contextlib.suppress(OSError):
        groups = kernel.read_file(os.path.join(root, "proc/self/cgroup")).decode(errors="replace")
        found.extend(kind for word, kind in _IN_CGROUP if word in groups)
    lowered: dict[str, str] = {}
    for kind in found:
        lowered.setdefault(kind.lower(), kind)
    return tuple(lowered.values())


def sandbox() -> str | None:
    """Name what stands in for a kernel, where it can be told: ``gVisor`` or ``WSL 1``."""
    if not hasattr(os, "uname"):
        return None
    told = os.uname()
    if told.version == _GVISOR:
        return "gVisor"
    return "WSL 1" if "-Microsoft" in told.release else None


def _container() -> Check:
    found, box = kinds(), sandbox()
    facts = {"kinds": list(found), "sandbox": box}
    words = f"{', '.join(found)}" if found else "none seen"
    if box is None:
        return Check("container", TOPIC, OK, words, facts=facts)
    return Check(
        "container",
        TOPIC,
        LIMITED,
        f"{words}, on {box}",
        "This is not Linux itself: what threads wait for, and stacks from outside, may be missing.",
        "Use another runtime class where you have to look into programs.",
        facts=facts,
    )


def _namespace() -> Check:
    try:
        told = os.readlink("/proc/self/ns/pid")
    except OSError:
        told = None
    inside = told not in (None, _INITIAL_PID_NAMESPACE)
    is_init = os.getpid() == 1
    own = "one of its own" if inside else "the machine's" if told else "not known"
    found = f"{own}, this is pid {os.getpid()}"
    facts = {"namespace": told, "own": inside, "pid": os.getpid()}
    if is_init:
        return Check(
            "pid-namespace",
            TOPIC,
            LIMITED,
            found,
            "As pid 1 a program gets all orphans and has no default signal handlers: docker stop kills it.",
            "docker run --init, or shareProcessNamespace: true in a pod.",
            facts=facts,
        )
    means = "Only processes of this container are seen, with its numbers." if inside else ""
    return Check("pid-namespace", TOPIC, OK, found, means, facts=facts)


def _processors() -> Check:
    machine, allowed = os.cpu_count() or 1, allowed_processors()
    quota, usable = quota_of(), usable_processors()
    found = f"{usable} of {machine} may be used"
    found += f", affinity allows {allowed}" if allowed != machine else ""
    found += f", the cgroup's quota is {quota:g}" if quota is not None else ""
    facts = {"machine": machine, "affinity": allowed, "quota": quota, "usable": usable}
    means = f"A pool has {usable} worker{'s' if usable > 1 else ''} by default."
    if usable < machine:
        means += " Libraries and os.cpu_count() count more."
    if quota is not None and quota < allowed:
        remedy = (
            f"Set OMP_NUM_THREADS and OPENBLAS_NUM_THREADS to {usable} or less: numeric libraries "
            "don't know of the quota."
        )
        return Check("processors", TOPIC, LIMITED, found, means, remedy, facts=facts)
    return Check("processors", TOPIC, OK, found, means, facts=facts)


def memory_bound() -> Bound | None:
    """Return the tightest limit of memory of this process's cgroup and those above it."""
    return _tightest(
        "memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.max", "memory.current"),
    )


def pids_bound() -> Bound | None:
    """Return the tightest limit of processes and threads of this process's cgroup."""
    return _tightest("pids", ("pids.max", "pids.current"), ("pids.max", "pids.current"))


def _tightest(controller: str, old: tuple[str, str], new: tuple[str, str]) -> Bound | None:
    groups = oom.groups_of(os.getpid())
    found = []
    for kind, names in ((controller, old), ("", new)):
        folder = oom.folder_of(kind, groups[kind]) if kind in groups else None
        # A group is also bound by those above it, up to where no more such files are.
        while folder is not None:
            limit, used = (_number(os.path.join(folder, name)) for name in names)
            if limit is not None and used is not None and limit < _NO_LIMIT:
                found.append(Bound(limit, used, os.path.join(folder, names[0])))
            above = os.path.dirname(folder)
            folder = above if os.path.exists(os.path.join(above, "cgroup.procs")) else None
    return min(found, key=lambda bound: bound.limit - bound.used, default=None)


def _number(file: str) -> int | None:
    try:
        return int(kernel.read_file(file))
    except (OSError, ValueError):
        return None  # no such file, or "max"


def _memory() -> Check:
    import psutil

    machine = psutil.virtual_memory()
    bound = memory_bound()
    facts: dict[str, Any] = {
        "machine_bytes": machine.total,
        "available_bytes": machine.available,
    }
    if bound is None or bound.limit > machine.total:
        limit, used, found = (
            machine.total,
            machine.total - machine.available,
            "no limit of a container",
        )
        facts |= {"limit_bytes": None, "used_bytes": used}
    else:
        limit, used, found = bound.limit, bound.used, "the container's limit"
        facts |= {"limit_bytes": limit, "used_bytes": used, "file": bound.file}
    found = f"{size_words(limit)} ({found}), {size_words(used)} in use"
    if limit - used < limit // 10:
        means = "Little is left (files in the cache are counted, too): the kernel may kill workers."
        remedy = "Raise the limit, start fewer workers, or set max_memory= of the pool."
        return Check("memory", TOPIC, LIMITED, found, means, remedy, facts=facts)
    return Check("memory", TOPIC, OK, found, facts=facts)


def _pids(bound: Bound | None) -> Check:
    if bound is None:
        means = "Processes and threads are limited by ulimit -u only."
        return Check("pids", TOPIC, OK, "no limit of a container", means, facts={"limit": None})
    left = bound.limit - bound.used
    found = f"{bound.limit} processes and threads in the container, {bound.used} in use"
    facts = {"limit": bound.limit, "used": bound.used, "file": bound.file}
    if left < _FEW:
        means = f"{max(0, left)} more can be started; a pool of N workers takes up to N + 6."
        remedy = "Raise pids.max (docker run --pids-limit; podPidsLimit of the kubelet)."
        return Check("pids", TOPIC, LIMITED, found, means, remedy, facts=facts)
    return Check("pids", TOPIC, OK, found, facts=facts)
