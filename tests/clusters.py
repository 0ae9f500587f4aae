"""Real clusters on this machine, of processes of their own: a scheduler and workers of Dask, nodes of Ray.

The fixtures ``dask_cluster`` and ``ray_cluster`` (``conftest``) have two nodes of one processor each, alive.

Each node is a process group, as a machine is: killed, stopped and continued as a whole. With a ``Wire`` each
has a network of its own too, which can be cut. All memory is bounded; all is ended with the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

START_S = 120.0
"""So long a node may take to belong to its cluster: Ray wants most of a minute of a machine that is busy."""

END_S = 10.0

_LOOK_AGAIN_S = 0.05

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"

groups: set[int] = set()
"""The process groups of all clusters that run: what belongs to one is no leak of a test's."""

IMPORTED = ("", "integration", "faults", "conformance")
"""Folders of tests whose modules can be imported on the nodes."""


class Wire:
    """A network of this machine, with a namespace for each node: so it can be cut for one of them.

    Raises:
        OSError: Namespaces cannot be made here; the text says why.
    """

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex[:5]
        self._bridge = f"gpb{self._mark}"
        self._subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self._spaces: list[str] = []
        self.address: str = f"{self._subnet}.1"
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            self.join().leave()
        except OSError:
            self.close()
            raise

    def join(self) -> Line:
        """Return a new node's line to the others."""
        number = len(self._spaces) + 2
        line = Line(
            f"gp{self._mark}n{number}", f"gpv{self._mark}{number}", f"{self._subnet}.{number}"
        )
        self._spaces.append(line.space)
        _ip("netns", "add", line.space)
        _ip("link", "add", line.end, "type", "veth", "peer", "name", "eth0", "netns", line.space)
        _ip("link", "set", line.end, "master", self._bridge, "up")
        _ip("-n", line.space, "addr", "add", f"{line.address}/24", "dev", "eth0")
        _ip("-n", line.space, "link", "set", "eth0", "up")
        _ip("-n", line.space, "link", "set", "lo", "up")
        return line

    def close(self) -> None:
        """Take the network away."""
        for space in self._spaces:
            with contextlib.suppress(OSError):
                _ip("netns", "del", space)
        with contextlib.suppress(OSError):
            _ip("link", "del", self._bridge)


@dataclass(frozen=True)
class Line:
    """The line of one node: what is put before its command, and how it is cut."""

    space: str
    end: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run there."""
        return [_tool("ip"), "netns", "exec", self.space]

    def cut(self) -> None:
        """Cut it: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self.end, "down")

    def heal(self) -> None:
        """Mend it."""
        _ip("link", "set", self.end, "up")

    def leave(self) -> None:
        """Take it away."""
        with contextlib.suppress(OSError):
            _ip("netns", "del", self.space)


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise OSError(f"the command {name} is not installed")
    return found


def _ip(*words: str) -> None:
    done = subprocess.run(
        [_tool("ip"), *words], capture_output=True, text=True, timeout=10, check=False
    )
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass
class Member:
    """One node of a cluster: a session. ``process`` is its first process.

    Not a process group: Ray gives each worker of its own a group, and so each agent.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    line: Line | None = None
    is_stopped: bool = field(default=False)

    @property
    def pid(self) -> int:
        """The pid of its first process, which is its session and process group too."""
        return self.process.pid

    def processes(self) -> list[psutil.Process]:
        """Return all processes that run on it."""
        return _session(self.pid)

    def kill(self) -> None:
        """End all its processes at once, as if the machine had lost its power."""
        self._signal(signal.SIGKILL)
        self.process.wait(END_S)
        wait_until(lambda: not self._signal(signal.SIGKILL), END_S, f"{self.name} is gone")
        groups.discard(self.pid)

    def stop(self) -> None:
        """Have all its processes stand still."""
        self._signal(signal.SIGSTOP)
        self._signal(signal.SIGSTOP)  # also what was being started meanwhile
        self.is_stopped = True

    def resume(self) -> None:
        """Let its processes go on."""
        self._signal(signal.SIGCONT)
        self.is_stopped = False

    def _signal(self, number: int) -> bool:
        """Send all its processes a signal; tell whether there are any."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)  # most of them, at the same moment
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                os.kill(process.pid, number)
        return bool(processes)

    def cut(self) -> None:
        """Cut its network."""
        assert self.line is not None, "the cluster was made without a Wire"
        self.line.cut()

    def heal(self) -> None:
        """Mend its network."""
        assert self.line is not None, "the cluster was made without a Wire"
        self.line.heal()


def _session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            is_alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if is_alive and os.getsid(process.pid) == session:
                found.append(process)
    return found


def wait_until(
    is_true: Callable[[], bool], limit_s: float, what: str, log: Path | None = None
) -> None:
    """Wait for what nothing announces. The error says what ``log`` says by then.

    Raises:
        TimeoutError: It did not come true in time.
    """
    deadline = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > deadline:
            said = "" if log is None else f": {_text(log)[-2000:]}"
            raise TimeoutError(f"not within {limit_s:.0f} s: {what}{said}")
        time.sleep(_LOOK_AGAIN_S)


class Cluster:
    """What clusters of both libraries have. ``members`` are the nodes, ``address`` is for ``Pool``."""

    library = ""

    def __init__(self, wire: Wire | None = None) -> None:
        self.wire: Wire | None = wire
        self.folder: Path = Path(tempfile.mkdtemp(prefix="gpc", dir="/tmp"))  # short: for sockets
        self.members: list[Member] = []
        self.address: str = ""
        self._count = 0
        self._beyond_repair: Exception | None = None

    def _start(self, name: str, command: Sequence[str], line: Line | None = None) -> Member:
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*(line.prefix if line else ()), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment(),
                cwd=self.folder,
                start_new_session=True,
            )
        groups.add(process.pid)
        return Member(name, process, log, line)

    def environment(self) -> dict[str, str]:
        """Return the environment of the nodes' processes."""
        paths = [str(SOURCE), *(str(TESTS / name) for name in IMPORTED)]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            # All but one that Ray itself causes, from Python 3.12 on.
            "PYTHONWARNINGS": "default,ignore:uvloop.install() is deprecated:DeprecationWarning",
        }

    def add(self, processors: int = 1) -> Member:
        """Add a node; returns when it belongs to the cluster."""
        raise NotImplementedError

    def remove(self, member: Member) -> None:
        """Take a node away by force."""
        member.kill()
        if member in self.members:
            self.members.remove(member)
        if member.line is not None:
            member.line.leave()

    def top_up(self, count: int) -> None:
        """Have so many nodes again, all of them running.

        Raises:
            RuntimeError: That has failed before. A test waits for it once, and all after it fail at once.
        """
        if self._beyond_repair is not None:
            raise RuntimeError("this cluster could not be repaired") from self._beyond_repair
        for member in list(self.members):
            if member.process.poll() is not None:
                self.remove(member)
        try:
            while len(self.members) < count:
                self.add()
        except Exception as error:
            self._beyond_repair = error
            raise

    def close(self) -> None:
        """End everything."""
        for member in list(self.members):
            self.remove(member)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _name(self) -> str:
        self._count += 1
        return f"node{self._count}"


AnyCluster = TypeVar("AnyCluster", bound=Cluster)


class DaskCluster(Cluster):
    """A scheduler of Dask and its workers.

    Args:
        workers: How many, with one thread each.
        wire: The network that each has a line of.
    """

    library = "dask"
    protocol = "tcp"

    def __init__(self, workers: int = 2, wire: Wire | None = None) -> None:
        super().__init__(wire)
        where = self.folder / "scheduler.json"
        host = "127.0.0.1" if wire is None else wire.address
        self.scheduler: Member = self._start(
            "scheduler",
            [
                *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", host),
                *("--port", "0", "--dashboard-address", f"{host}:0", "--no-dashboard"),
                *("--scheduler-file", str(where), "--protocol", self.protocol),
            ],
        )
        try:
            wait_until(where.exists, START_S, "the scheduler of Dask is there")
            self.address = json.loads(where.read_text())["address"]
            begun = [self._begin() for _ in range(workers)]
            for member in begun:
                self._await(member)
        except BaseException:
            self.close()
            raise

    def add(self, processors: int = 1) -> Member:
        """Add a worker."""
        return self._await(self._begin(processors))

    def _begin(self, processors: int = 1, nanny: bool = False) -> Member:
        name = self._name()
        line = None if self.wire is None else self.wire.join()
        host = "127.0.0.1" if line is None else line.address
        command = [
            *(sys.executable, "-m", "distributed.cli.dask_worker", self.address),
            *("--nthreads", str(processors), "--memory-limit", "1GB", "--name", name),
            *("--host", host, "--dashboard-address", f"{host}:0", "--no-dashboard"),
            *("--local-directory", str(self.folder), "--protocol", self.protocol),
            *(() if nanny else ("--no-nanny",)),
        ]
        return self._start(name, command, line)

    def add_with_nanny(self) -> Member:
        """Add a worker that is started again when it ends."""
        return self._await(self._begin(nanny=True))

    def _await(self, member: Member) -> Member:
        """Wait until a worker belongs to the cluster."""
        self.members.append(member)
        wait_until(
            lambda: "Registered to:" in _text(member.log) or member.process.poll() is not None,
            START_S,
            f"{member.name} of Dask is there",
            member.log,
        )
        assert member.process.poll() is None, _text(member.log)
        return member

    def close(self) -> None:
        """End everything."""
        super().close()
        self.scheduler.kill()


_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
"""How fast the head of Ray sees that a node is gone: in a few seconds, where it takes half a minute."""


class RayCluster(Cluster):
    """A head of Ray, which is a node too, and further nodes.

    Args:
        nodes: How many in all, with one processor each.
        wire: The network that each node but the head has a line of.
    """

    library = "ray"

    def __init__(self, nodes: int = 2, wire: Wire | None = None) -> None:
        super().__init__(wire)
        host = "127.0.0.1" if wire is None else wire.address
        self.address = f"{host}:{_free_port()}"
        try:
            self.head: Member = self._await_or_retry(self._begin(1, is_head=True), 1, True)
            begun = [self._begin(1) for _ in range(nodes - 1)]
            for member in begun:
                self._await_or_retry(member, 1)
        except BaseException:
            self.close()
            raise

    def add(self, processors: int = 1) -> Member:
        """Add a node."""
        return self._await_or_retry(self._begin(processors), processors)

    def _await_or_retry(self, member: Member, processors: int, is_head: bool = False) -> Member:
        """Wait for a node; begin anew, once, if Ray has given it up: it does after half a minute, always."""
        try:
            return self._await(member)
        except AssertionError:
            self.remove(member)
            return self._await(self._begin(processors, is_head))

    def _begin(self, processors: int, is_head: bool = False) -> Member:
        name = self._name()
        line = None if self.wire is None or is_head else self.wire.join()
        host, _, port = self.address.rpartition(":")
        place: Sequence[str]
        if is_head:
            place = ("--head", f"--port={port}", "--include-dashboard=false")
            place = (*place, f"--temp-dir={self.folder}", f"--dashboard-port={_free_port()}")
            place = (*place, f"--system-config={json.dumps(_HEALTH)}")
        else:
            place = (f"--address={self.address}",)
        own = line.address if line is not None else host
        command = [
            *(os.path.join(sysconfig.get_path("scripts"), "ray"), "start", *place),
            *(f"--node-ip-address={own}", f"--num-cpus={processors}", "--block"),
            *("--object-store-memory=150000000", "--disable-usage-stats"),
        ]
        return self._start(name, command, line)

    def _await(self, member: Member) -> Member:
        """Wait until a node belongs to the cluster."""
        self.members.append(member)
        wait_until(
            lambda: "Ray runtime started" in _text(member.log) or member.process.poll() is not None,
            START_S,
            f"{member.name} of Ray is there",
            member.log,
        )
        assert member.process.poll() is None, _text(member.log)
        return member

    def close(self) -> None:
        """End everything: first the nodes that are not the head."""
        self.members.reverse()
        super().close()


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def driver_threads_ended() -> None:
    """End the connection to Ray, and the thread that Dask keeps for as long as the process lives."""
    ray, distributed = sys.modules.get("ray"), sys.modules.get("distributed")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
    if distributed is not None:
        kept = distributed.utils._offload_executor
        kept.shutdown()
        distributed.utils._offload_executor = ThreadPoolExecutor(1, kept._thread_name_prefix)


@contextlib.contextmanager
def opened(make: Callable[[], AnyCluster]) -> Iterator[AnyCluster]:
    """Have a cluster for a while."""
    cluster = make()
    try:
        yield cluster
    finally:
        cluster.close()
