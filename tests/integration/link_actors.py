"""An agent that does what a message tells it, for tests of the links; importable by name on the nodes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from glasspool.engines.cluster.host import Host
from glasspool.engines.cluster.link import Missing
from glasspool.engines.dask import Keeper
from glasspool.engines.ray import GlasspoolAgent


class Echo:
    """An agent that answers each message: with what it saw, or with what it was asked for."""

    def __init__(self, setup: bytes, node: str, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._said: deque[tuple[Any, list[Any]]] = deque()
        self._child: subprocess.Popen[bytes] | None = None
        self._may_end = threading.Event()
        order = pickle.loads(setup)
        if order == "fail":
            raise ValueError("this agent does not begin")
        if order == "hang at the end":
            self._may_end = threading.Event()
        else:
            self._may_end.set()
        self.say(("hello", node, os.getpid(), len(setup)))

    def say(self, what: Any, *buffers: Any) -> None:
        """Have something told to the driver."""
        self._said.append((what, list(buffers)))
        self._ring()

    def receive(self, body: bytes, buffers: Sequence[Any]) -> None:
        """Do what a message says."""
        what, *args = pickle.loads(body)
        _DO[what](self, buffers, *args)

    def echo(self, buffers: Sequence[Any], what: Any) -> None:
        """Say what came."""
        self.say(("echo", what, [_seen(buffer) for buffer in buffers]))

    def give(self, buffers: Sequence[Any], size: int, count: int) -> None:
        """Say something large, some times."""
        for number in range(count):
            self.say(("given", number), memoryview(bytes([number % 256]) * size))

    def die(self, buffers: Sequence[Any]) -> None:
        """End this process."""
        os._exit(3)

    def bear(self, buffers: Sequence[Any]) -> None:
        """Start a process."""
        program = "import sys; sys.stdin.read()"
        self._child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        self.say(("born", self._child.pid))

    def environment(self, buffers: Sequence[Any]) -> None:
        """Say what the environment is."""
        self.say(("environment", dict(os.environ)))

    @property
    def has_news(self) -> bool:
        """Whether there is something to say."""
        return bool(self._said)

    def collect(self) -> tuple[bytes, list[Any]] | None:
        """Take one thing that there is to say."""
        if not self._said:
            return None
        what, buffers = self._said.popleft()
        return pickle.dumps(what), buffers

    def end(self) -> None:
        """End what was started."""
        self._may_end.wait(60)
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self.say(("ended",))


def _seen(buffer: Any) -> Any:
    if isinstance(buffer, Missing):
        return "missing", buffer.why
    view = memoryview(buffer)
    return type(buffer).__name__, view.nbytes, bytes(view[:1]), bytes(view[-1:])


_DO: dict[str, Callable[..., None]] = {
    "echo": Echo.echo,
    "give": Echo.give,
    "die": Echo.die,
    "bear": Echo.bear,
    "environment": Echo.environment,
}


class EchoHost(Host):
    """What holds it."""

    make_agent = Echo


class EchoAgent(GlasspoolAgent):
    """Its actor of Ray."""

    make_agent = Echo


class EchoKeeper(Keeper):
    """Its actor of Dask."""

    host_class = EchoHost
