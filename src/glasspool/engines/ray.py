"""A link to a cluster of Ray: agents are actors, large memory goes through Ray's object store.

Owns: the connection to Ray, if the program had none; a cluster that was made for the occasion; the agents'
seats. Threads, beside Ray's own: ``glasspool ray-errands`` asks Ray for its nodes and ends actors, as such
calls block for as long as Ray waits for a head that is gone; started with the link, it ends with it, and is
left alone if such a call never returns. Replies come on a thread of Ray's.

A driver that has lost its head for a minute is ended by Ray, with all that it does. A program that connects
through here is spared that: Ray then waits without an end, and the pool says that its cluster is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from glasspool import extras
from glasspool.engines.cluster.host import Host
from glasspool.engines.cluster.link import Buffer, LinkLost, Message, Node, Told
from glasspool.errors import EngineUnavailable

REACH_S = 5.0
"""So long a head may take to answer a new connection."""

ANSWER_S = 3.0
"""So long ``nodes`` waits for an answer."""

SILENT_S = 15.0
"""A head that has not answered for so long is lost."""

PLACE_S = 30.0
"""So long Ray may take to place an agent on its node."""

FIRST_VERSION = (2, 9)

_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
_FOR_EVER_S = 10**6
"""In Ray it becomes milliseconds in 32 bits."""

_MEANINGS = (
    (
        "No module named 'glasspool'",
        "glasspool is not installed there: pip install glasspool on each node, in the Python of Ray",
    ),
    ("its node has died", "Ray says that the node has died"),
    (
        "OOM killer due to high",
        "the process of its agent has died (killed, out of memory, or crashed)",
    ),
    ("worker process has died", "the process of its agent has died"),
    ("killed by `ray.kill`", "its agent was ended by ray.kill"),
    ("unavailable", "Ray cannot reach its agent any more"),
)
"""Words of Ray's texts of lost actors, the more telling ones first, and what they come to."""

_LONGEST = 200
"""Not more of a text of Ray's whose words are not known."""


def connect(
    address: str | None = None, *, processors: int | None = None, **settings: Any
) -> RayLink:
    """Connect to a cluster of Ray.

    Args:
        address: ``"auto"`` or ``"host:port"``; None: the connection that this process has, else
            ``RAY_ADDRESS``, else a cluster is started on this machine, and ended with the last link to it.
        processors: How many processors such a cluster says it has; default: those of the machine.
        settings: More arguments for ``ray.init``.

    Raises:
        EngineUnavailable: Ray is not installed, or the cluster cannot be had: the text says what to do.
    """
    ray = _loaded()
    with _lock:
        if ray.is_initialized():
            _check_same(ray, address)
        else:
            _session.begin(ray, address, processors, settings)
        is_ours = _session.join()
        link = RayLink(ray, is_ours)
        _links.add(link)
    return link


def _loaded() -> Any:
    try:
        ray = extras.load("ray", "ray")
    except extras.MissingExtra as error:
        raise EngineUnavailable(f"the engine 'ray': {error}") from error
    version = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if version < FIRST_VERSION:
        wanted = ".".join(map(str, FIRST_VERSION))
        raise EngineUnavailable(
            f"the engine 'ray' needs Ray {wanted} or newer; this is {ray.__version__}: "
            "pip install -U 'glasspool[ray]'"
        )
    return ray


def _check_same(ray: Any, address: str | None) -> None:
    """Refuse an address if this process is connected to another cluster."""
    _refuse_client(address)
    if ray.util.client.ray.is_connected():
        _refuse_client("ray://")
    if address in (None, "auto"):
        return
    here = ray.get_runtime_context().gcs_address
    if _resolved(ray, str(address)) != _resolved(ray, here):
        raise EngineUnavailable(
            f"this process is connected to the Ray cluster at {here}, and can be to one only: give "
            f"address={here!r} or none, or call ray.shutdown() before you use {address!r}"
        )


def _resolved(ray: Any, address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    if host in ("localhost", "127.0.0.1", "::1"):
        host = ray.util.get_node_ip_address()
    return host, port


def _refuse_client(address: str | None) -> None:
    if address is not None and address.startswith("ray://"):
        raise EngineUnavailable(
            "a pool cannot go through Ray Client (ray://): run the program on a machine of the cluster and "
            "give address='auto' or 'host:port' of the head, or hand it in by `ray job submit`"
        )


class _Session:
    """The connection to Ray, if this process had none: ended with the last link that uses it."""

    def __init__(self) -> None:
        self._users = 0
        self._context: Any = None

    def begin(
        self, ray: Any, address: str | None, processors: int | None, settings: Mapping[str, Any]
    ) -> None:
        """Connect, or start a cluster (with the lock held)."""
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        _refuse_client(address)
        told: dict[str, Any] = {"address": address, "logging_level": "error", "log_to_driver": True}
        if address == "local":
            told |= {"num_cpus": processors, "include_dashboard": False}
        _check_reachable(address)
        with _patient(), _kept_handler():
            try:
                self._context = ray.init(**told | dict(settings))
            except Exception as error:  # Ray raises what it likes; its text says it best
                raise EngineUnavailable(_unreachable(address, error)) from error
        self._users = 0

    def join(self) -> bool:
        """Count one more link; tell whether the connection is ours (with the lock held)."""
        if self._context is None:
            return False
        self._users += 1
        return True

    def leave(self) -> bool:
        """Count one link less; tell whether that was the last (with the lock held)."""
        self._users -= 1
        if self._users:
            return False
        self._context = None
        return True


def _check_reachable(address: str) -> None:
    """Look whether anybody is there: Ray would try for twenty seconds, and write of each trial."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except OSError as error:
        raise EngineUnavailable(_unreachable(address, error)) from error


def _unreachable(address: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:500]
    if address == "local":
        return f"no cluster of Ray could be started on this machine: {said}"
    return (
        f"no cluster of Ray at {address}: {said}. Is its head running (`ray start --head`), and this "
        "machine one of its nodes (`ray start --address=...`)?"
    )


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Let Ray wait for a head that is gone, instead of ending the program."""
    if _RECONNECT in os.environ:
        yield
        return
    os.environ[_RECONNECT] = str(_FOR_EVER_S)
    try:
        yield
    finally:
        os.environ.pop(_RECONNECT, None)


@contextlib.contextmanager
def _kept_handler() -> Iterator[None]:
    """Keep what the program does at SIGTERM: Ray sets a handler of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


_lock = threading.Lock()
_session = _Session()
_links: set[RayLink] = set()


class _Errands:
    """Calls to Ray that may block without an end, made by a thread of their own, one after the other."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]
        self._wanted = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="glasspool ray-errands", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:  # ``end`` puts None
            call, told = wanted
            try:
                told.set_result(call())
            except BaseException as error:
                told.set_exception(error)
            del wanted, call, told  # or they would live until the next call

    def ask(self, call: Callable[[], Any]) -> Future[Any]:
        """Have something called; return what tells of the result."""
        told: Future[Any] = Future()
        self._wanted.put((call, told))
        return told

    def end(self, limit_s: float) -> bool:
        """Tell whether all that was asked for has been done by then."""
        self._wanted.put(None)
        self._thread.join(limit_s)
        return not self._thread.is_alive()


class RayLink:
    """A pool's connection to a cluster of Ray."""

    library = "ray"

    def __init__(self, ray: Any, is_ours: bool) -> None:
        self._ray = ray
        self._is_ours = is_ours
        self._errands = _Errands()
        self._asked: Future[Any] | None = None  # the question after nodes that is on its way
        self._answered_at = time.monotonic()
        self._nodes: list[Node] = []
        self._seats: set[RaySeat] = set()
        self.address: str = f"Ray at {ray.get_runtime_context().gcs_address}"

    def nodes(self) -> list[Node]:
        """Return the nodes that have processors; those known last, if the head is slow to answer.

        Raises:
            LinkLost: The head has not answered for ``SILENT_S``.
        """
        if self._asked is None:
            self._asked = self._errands.ask(self._ray.nodes)
        try:
            told = self._asked.result(ANSWER_S)
        except TimeoutError:
            silent_s = time.monotonic() - self._answered_at
            if silent_s > SILENT_S:
                raise LinkLost(
                    f"the head of {self.address} has not answered for {silent_s:.0f} s"
                ) from None
            return self._nodes
        except Exception as error:
            raise LinkLost(f"{self.address}: {error}") from error
        self._asked, self._answered_at = None, time.monotonic()
        self._nodes = [
            _node(one) for one in told if one["Alive"] and one["Resources"].get("CPU", 0) >= 1
        ]
        self._look_at_seats()
        return self._nodes

    def _look_at_seats(self) -> None:
        now = time.monotonic()
        with _lock:
            seats = list(self._seats)
        for seat in seats:
            seat.look(now)

    def seat(self, node: Node, setup: bytes, processors: int, told: Told) -> RaySeat:
        """Put an agent on a node."""
        strategies = extras.load("ray.util.scheduling_strategies", "ray")
        remote = self._ray.remote(GlasspoolAgent).options(
            num_cpus=0 if self._has_room(node) else processors,
            max_concurrency=1000,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        making = self._errands.ask(lambda: remote.remote(node.name))
        try:
            actor = making.result(SILENT_S)  # without a head it would block for ever
        except TimeoutError:
            raise LinkLost(
                f"the head of {self.address} has not answered for {SILENT_S:.0f} s"
            ) from None
        seat = RaySeat(self, node, processors, told)
        with _lock:
            self._seats.add(seat)
        seat.begin(actor, setup)
        return seat

    def _has_room(self, node: Node) -> bool:
        """Tell whether another pool of this program has processors there, which the two then share.

        They would on one machine; and the second would wait for the first to end, perhaps for ever.
        """
        with _lock:
            links = [link for link in _links if link is not self]
            return any(seat.node.id == node.id for link in links for seat in link._seats)

    def put(self, buffer: Buffer, node: Node) -> Any:
        """Put a piece of memory into the object store."""
        return self._ray.put(pickle.PickleBuffer(buffer))

    def forget(self, seat: RaySeat) -> None:
        """Forget a seat whose agent is gone."""
        with _lock:
            self._seats.discard(seat)

    def kill(self, actor: Any) -> None:
        """End an actor by force. Does not wait."""
        self._errands.ask(lambda: self._ray.kill(actor))

    def close(self) -> None:
        """End what agents are left, and the connection, if it is ours and this is its last link."""
        with _lock:
            seats = list(self._seats)
        for seat in seats:
            seat.end(0.0)
        with _lock:
            _links.discard(self)
            is_last = self._is_ours and _session.leave()
            if is_last:
                self._errands.ask(self._ray.shutdown)
        self._errands.end(10.0)


def _node(one: Mapping[str, Any]) -> Node:
    host = str(one["NodeManagerHostname"])
    name = f"{host}/{one['NodeID'][:6]}"
    return Node(str(one["NodeID"]), name, host, int(one["Resources"]["CPU"]))


class RaySeat:
    """An agent's place on a node, as the driver has it."""

    def __init__(self, link: RayLink, node: Node, processors: int, told: Told) -> None:
        self._link = link
        self.node = node
        self._processors = processors
        self._told = told
        self._actor: Any = None
        self._numbers = itertools.count()
        self._place_by: float | None = time.monotonic() + PLACE_S
        self._end_by: float | None = None
        self._lock = threading.Lock()  # of ``_is_over``
        self._is_over = False

    def begin(self, actor: Any, setup: bytes) -> None:
        """Have the agent begin on its actor."""
        self._actor = actor
        actor.here.remote().future().add_done_callback(self._placed)
        actor.begin.remote(setup)
        self._listen()

    def _placed(self, future: Future[Any]) -> None:
        if not future.exception():
            self._place_by = None

    def look(self, now: float) -> None:
        """See whether the agent has been placed, and has ended, in time."""
        if self._place_by is not None and now > self._place_by:
            self._lose(
                f"Ray has found no place there for {PLACE_S:.0f} s: the agent wants {self._processors} "
                "CPU, so others hold them, most likely (`ray status` tells)",
            )
        elif self._end_by is not None and now > self._end_by:
            self._lose("it did not end in time, and was killed")

    def send(self, message: Message) -> None:
        """Have a message delivered."""
        actor = self._actor
        if actor is None or self._is_over:
            return
        buffers = [_carried(buffer) for buffer in message.buffers]
        actor.give.remote(next(self._numbers), message.body, buffers)

    def _listen(self) -> None:
        actor = self._actor
        if actor is not None:
            actor.take.remote().future().add_done_callback(self._heard)

    def _heard(self, future: Future[Any]) -> None:
        """Take a message of the agent's (a thread of Ray's)."""
        error = future.exception()
        if error is not None:
            self._lose(_why(error))
            return
        message = future.result()
        if message is None:
            self._lose("it has ended")
            return
        body, buffers = message
        self._told.arrived(body, [memoryview(buffer) for buffer in buffers])
        self._listen()

    def _lose(self, why: str) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        actor, self._actor = self._actor, None
        self._link.forget(self)
        if actor is not None:
            self._link.kill(actor)
        self._told.lost(why)

    def end(self, grace_s: float) -> None:
        """End the agent."""
        actor = self._actor
        if actor is None or self._is_over:
            return
        if grace_s <= 0:
            self._lose("it was ended")
            return
        self._end_by = time.monotonic() + grace_s + 1
        actor.end.remote(grace_s).future().add_done_callback(lambda _: self._lose("it has ended"))


def _carried(buffer: Any) -> Any:
    is_memory = isinstance(buffer, bytes | bytearray | memoryview)
    return pickle.PickleBuffer(buffer) if is_memory else buffer


def _why(error: BaseException) -> str:
    """Say in one sentence what Ray tells on half a page of an actor that is lost."""
    cause = getattr(error, "cause", None)  # the actor's own error
    said = " ".join((str(error) if cause is None else f"{type(cause).__name__}: {cause}").split())
    for words, meaning in _MEANINGS:
        if words in said:
            _, _, why = said.partition("expectedly: ")  # of the node's end
            return f"{meaning} ({why})" if why else meaning
    return said[:_LONGEST]


class GlasspoolAgent(Host):
    """The actor that holds an agent."""

    def __init__(self, node: str) -> None:
        super().__init__(node, _fetch)

    async def here(self) -> None:
        """Tell that there is an actor."""

    async def take(self) -> tuple[bytes, list[Any]] | None:
        """Return what the agent has to say."""
        message = await super().take()
        if message is None:
            return None
        return message[0], [pickle.PickleBuffer(buffer) for buffer in message[1]]


async def _fetch(what: Any) -> memoryview:
    """Return the memory of an argument: Ray's own kind of it, or a reference to an object."""
    return memoryview(await what if hasattr(what, "__await__") else what)
