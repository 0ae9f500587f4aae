"""Clusters on this machine to measure on: a Dask scheduler with workers, a Ray head with a second node.

All are processes of their own, bounded in memory, and ended as process groups: their nodes run what is in
this checkout, from ``src``.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).parents[1]
START_S = 60.0
STORE_BYTES = 200_000_000


def environment() -> dict[str, str]:
    """Return what a process finds in its environment that runs this checkout.

    The checkout is compiled, as a package is when it is installed: else each process of ours would do it.
    """
    compileall.compile_dir(ROOT / "src", quiet=1)
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


class Cluster:
    """Processes that make a cluster, until it is left as a context."""

    address = ""

    def __init__(self) -> None:
        self.environ: dict[str, str] = environment()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="gpb", dir="/tmp"))  # short: sockets lie in it
        self._log: IO[bytes] = (self._folder / "log").open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own."""
        made = subprocess.Popen(
            command,
            env=self.environ,
            cwd=self._folder,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self.processes.append(made)
        return made

    def end(self) -> None:
        """End all processes, the last ones first, and remove what they have written."""
        for one in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGTERM)
        limit = time.monotonic() + 10.0
        for one in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(max(0.1, limit - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait(5.0)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def story(self) -> str:
        """Return the last lines that the processes wrote."""
        self._log.flush()
        return "\n".join((self._folder / "log").read_text(errors="replace").splitlines()[-20:])


class DaskCluster(Cluster):
    """A scheduler and workers with one thread each."""

    def __init__(self, nodes: int, threads: int = 1) -> None:
        super().__init__()
        try:
            port = free_port()
            self.address = f"tcp://127.0.0.1:{port}"
            self._begin("dask_scheduler", "--host", "127.0.0.1", "--port", str(port))
            for _ in range(nodes):
                self._begin(
                    "dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", str(threads),
                    "--no-nanny", "--memory-limit", "2GB",
                )  # fmt: skip
            self._wait(nodes)
        except BaseException:
            self.end()
            raise

    def _begin(self, module: str, *words: str) -> None:
        options = ("--no-dashboard",)
        self.begin(sys.executable, "-m", f"distributed.cli.{module}", *words, *options)

    def _wait(self, nodes: int) -> None:
        from distributed import Client

        with Client(self.address, timeout=START_S) as client:
            client.wait_for_workers(nodes, timeout=START_S)


class RayCluster(Cluster):
    """A head, and further nodes that have joined it."""

    def __init__(self, nodes: int, cpus: int = 1) -> None:
        super().__init__()
        try:
            port = free_port()
            self.address = f"127.0.0.1:{port}"
            self.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            os.environ.update(
                {name: self.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
            )
            head = ("--head", "--port", str(port), "--include-dashboard=false")
            self._begin(cpus, *head, "--temp-dir", str(self._folder))
            wait_for(port)
            for _ in range(nodes - 1):
                self._begin(cpus, "--address", self.address)
            self._wait(nodes)
        except BaseException:
            self.end()
            raise

    def _begin(self, cpus: int, *words: str) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        self.begin(
            ray, "start", "--block", "--num-cpus", str(cpus), "--object-store-memory",
            str(STORE_BYTES), "--disable-usage-stats", *words,
        )  # fmt: skip

    def _wait(self, nodes: int) -> None:
        count = (
            "import ray, sys, time; ray.init(address=sys.argv[1], log_to_driver=False)\n"
            "while sum(n['Alive'] for n in ray.nodes()) < int(sys.argv[2]): time.sleep(0.1)"
        )
        subprocess.run(
            [sys.executable, "-c", count, self.address, str(nodes)],
            env=self.environ,
            timeout=START_S,
            check=True,
            capture_output=True,
        )


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until somebody listens at a port of loopback.

    Raises:
        TimeoutError: Nobody does.
    """
    limit = time.monotonic() + START_S
    while time.monotonic() < limit:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens at port {port} after {START_S:.0f} s")


def cluster(engine: str, nodes: int, places: int = 1) -> Cluster:
    """Start a cluster of so many nodes with so many places each."""
    return DaskCluster(nodes, places) if engine == "dask" else RayCluster(nodes, places)
