"""A link to a cluster of Dask: agents are actors on its workers, spoken to over Dask's own connections.

Owns: the client, if the program has none; a cluster that was made for the occasion; the agents' seats. All of
it lives on the client's event loop: there is no thread of ours.

Each seat is a coroutine that places two actors on its worker. ``Keeper`` holds the agent: when the scheduler
lets go of it, as the seat was given up or the driver has died, the agent ends. The call that waits for the
agent's news goes to ``Mouth``, because an actor is kept for as long as a call of its runs.

Messages go straight to the worker where it can be reached, else through the scheduler. Large memory travels
out of band in them, and shared memory with the first message to each worker that needs it: it is kept
there by the agent, not by Dask.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

from glasspool import extras
from glasspool.engines.cluster.host import Host
from glasspool.engines.cluster.link import Buffer, LinkLost, Message, Node, NoSeat, Told
from glasspool.errors import EngineUnavailable
from glasspool.processors import usable_processors

CONNECT_S = 10.0
"""So long a scheduler may take to answer a new client."""

ANSWER_S = 3.0
"""So long ``nodes`` waits for an answer."""

SILENT_S = 30.0
"""A scheduler that has not answered for so long is lost, though its connection stands."""

PLACE_S = 30.0
"""So long Dask may take to place an agent on its worker."""

REACH_S = 5.0
"""So long a worker may take to answer, before the way to it leads through the scheduler."""

FIRST_VERSION = (2024, 2)

_INSTALL = "pip install glasspool"


def connect(address: Any = None, *, processors: int | None = None) -> DaskLink:
    """Connect to a cluster of Dask.

    Args:
        address: Of a scheduler (``"tcp://host:port"``), or a ``dask.distributed.Client`` or cluster; None:
            the client that this process has, else what Dask's configuration says (``scheduler-address``),
            else a cluster is started on this machine, and ended with the link.
        processors: How many processors such a cluster has; default: those of the machine.

    Raises:
        EngineUnavailable: Dask is not installed, or the cluster cannot be had: the text says what to do.
        TypeError: The address is none of these.
    """
    distributed = _loaded()
    cluster = None
    if address is None:
        address = _client_here(distributed) or _configured()
    if isinstance(address, distributed.Client):
        client = _checked(address)
    elif address is None:
        client, cluster = _own_cluster(distributed, processors or usable_processors())
    elif isinstance(address, str | distributed.deploy.Cluster):
        client = _own_client(distributed, address)
    else:
        raise TypeError(
            f"address={address!r} is no cluster of Dask: give 'tcp://host:port', a dask.distributed.Client, "
            "or a cluster such as LocalCluster"
        )
    return DaskLink(distributed, client, is_ours=client is not address, cluster=cluster)


def _loaded() -> Any:
    try:
        distributed = extras.load("distributed", "dask")
    except extras.MissingExtra as error:
        raise EngineUnavailable(f"the engine 'dask': {error}") from error
    version = tuple(int(part) for part in distributed.__version__.split(".")[:2])
    if version < FIRST_VERSION:
        wanted = ".".join(map(str, FIRST_VERSION))
        raise EngineUnavailable(
            f"the engine 'dask' needs distributed {wanted} or newer; this is {distributed.__version__}: "
            "pip install -U 'glasspool[dask]'"
        )
    return distributed


def _client_here(distributed: Any) -> Any:
    """Return the client that this process has, or that its task may have; None if there is none."""
    try:
        return distributed.get_client()
    except ValueError:
        return None


def _configured() -> str | None:
    import dask

    address: str | None = dask.config.get("scheduler-address", None)
    return address


def _checked(client: Any) -> Any:
    if client.asynchronous:
        raise EngineUnavailable(
            "a pool waits, and would hold up the event loop of an asynchronous Client: give it one made with "
            "asynchronous=False, or the address of its scheduler"
        )
    if client.status != "running":
        raise EngineUnavailable(
            f"this Client of Dask is {client.status}: give one that is connected"
        )
    return client


def _discard(client: Any) -> None:
    """End a client that could not connect, and the thread of its event loop, which it may have left."""
    if client.status in ("closed", "newly-created"):
        client.loop.add_callback(client.loop.stop)
    else:
        client.close()


def _own_client(distributed: Any, address: Any) -> Any:
    if isinstance(address, str) and address.startswith("tls://"):
        _check_certificates(distributed, address)
    client = distributed.Client.__new__(distributed.Client)  # known also if it cannot connect
    try:
        client.__init__(
            address, timeout=CONNECT_S, set_as_default=False, name="glasspool", asynchronous=False
        )
    except (OSError, TimeoutError, ValueError) as error:
        _discard(client)
        said = " ".join(str(error).split())[:300]
        raise EngineUnavailable(
            f"no scheduler of Dask at {address}: {said}. Is it running (`dask scheduler`)? If it speaks TLS, "
            "the address begins with tls://"
        ) from error
    return client


def _check_certificates(distributed: Any, address: str) -> None:
    """Refuse to connect without a certificate: Dask would fail, and then wait for 20 s in its destructor.

    Raises:
        EngineUnavailable: Dask's configuration names none, or none that can be loaded.
    """
    try:
        if distributed.Security().get_connection_args("client").get("ssl_context") is not None:
            return
        why = "Dask's configuration names no certificate of this program's"
    except OSError as error:  # a file that is missing, or is no certificate
        why = f"the certificate that Dask's configuration names cannot be loaded: {error}"
    raise EngineUnavailable(
        f"no way to the scheduler of Dask at {address}: {why}. Set distributed.comm.tls (ca-file, "
        "client.cert, client.key), or give a Client that has a Security"
    )


def _own_cluster(distributed: Any, processors: int) -> tuple[Any, Any]:
    """Start a cluster of one worker on this machine.

    The worker is a process of its own, which does not import the program, and ends when it loses the
    scheduler; that is in this process, and so ends with it.
    """
    workers = extras.load("distributed.deploy.subprocess", "dask")
    opts = {
        "nthreads": processors,
        "name": "local",
        "memory_limit": 0,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "death_timeout": CONNECT_S,
        "silence_logs": logging.WARNING,
    }
    worker = {"worker_class": "distributed.Worker", "worker_kwargs": opts}
    before = set(threading.enumerate())
    try:
        cluster = distributed.SpecCluster(
            workers={0: {"cls": workers.SubprocessWorker, "options": worker}},
            scheduler={
                "cls": distributed.Scheduler,
                "options": {
                    "host": "127.0.0.1",
                    "port": 0,
                    "dashboard": False,
                    "dashboard_address": "127.0.0.1:0",
                },
            },
            name="glasspool",
            silence_logs=logging.WARNING,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise EngineUnavailable(
            f"no cluster of Dask could be started on this machine: {error}"
        ) from error
    try:
        client = _own_client(distributed, cluster)
        client.wait_for_workers(1, timeout=PLACE_S)
    except BaseException:
        cluster.close()
        raise
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("asyncio-waitpid"):  # until Python 3.12: it waits for the worker
            thread.name = "Dask-waitpid"
    return client, cluster


class DaskLink:
    """A pool's connection to a cluster of Dask."""

    library = "dask"

    def __init__(self, distributed: Any, client: Any, is_ours: bool, cluster: Any) -> None:
        self.distributed = distributed
        self.client = client
        self._is_ours = is_ours
        self._cluster = cluster
        self._loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop
        self._answered_at = time.monotonic()
        self._nodes: dict[str, Node] = {}  # by address
        self.is_stale = True  # whether workers may have been replaced; set on the loop
        self._seats: dict[DaskSeat, asyncio.Future[None]] = {}  # the loop's
        self.address: str = f"Dask at {client.scheduler.address}"

    def _call(self, coroutine: Coroutine[Any, Any, Any], limit_s: float) -> Any:
        """Run a coroutine on the client's loop, and wait for it.

        Raises:
            LinkLost: The loop is closed.
            TimeoutError: It has not ended in time.
        """
        try:
            running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:
            coroutine.close()
            raise LinkLost(f"the Client of {self.address} was closed") from error
        try:
            return running.result(limit_s)
        except TimeoutError:
            running.cancel()
            raise

    def nodes(self) -> list[Node]:
        """Return the workers; those known last, if the scheduler is slow to answer.

        Raises:
            LinkLost: The client has lost the scheduler, or that has not answered for ``SILENT_S``.
        """
        try:
            self._nodes = self._call(self._look(), ANSWER_S)
            self._answered_at = time.monotonic()
        except TimeoutError:
            silent_s = time.monotonic() - self._answered_at
            if silent_s > SILENT_S:
                raise LinkLost(
                    f"the scheduler of {self.address} has not answered for {silent_s:.0f} s"
                ) from None
        except (OSError, CancelledError) as error:
            raise LinkLost(f"the scheduler of {self.address} is gone: {error}") from error
        return list(self._nodes.values())

    async def _look(self) -> dict[str, Node]:
        if self.client.status != "running":
            what = {"closed": "was closed"}.get(self.client.status, "has lost its scheduler")
            raise LinkLost(f"the Client of {self.address} {what}")
        threads = await self.client.scheduler.ncores()
        if not self.is_stale and threads.keys() == self._nodes.keys():
            return {
                address: node._replace(processors=threads[address])
                for address, node in self._nodes.items()
            }
        self.is_stale = False
        told = (await self.client.scheduler.identity())["workers"]
        return {
            address: _node(address, one)
            for address, one in told.items()
            if one["status"] in ("running", "paused", "init")
        }

    def seat(self, node: Node, setup: bytes, processors: int, told: Told) -> DaskSeat:
        """Put an agent on a worker."""
        seat = DaskSeat(self, node, setup, told)
        try:
            self._loop.call_soon_threadsafe(self._seat, seat)
        except RuntimeError as error:
            raise LinkLost(f"the Client of {self.address} was closed") from error
        return seat

    def _seat(self, seat: DaskSeat) -> None:
        live = asyncio.ensure_future(seat.live())
        self._seats[seat] = live
        live.add_done_callback(lambda _: self._seats.pop(seat, None))

    def put(self, buffer: Buffer, node: Node) -> Any:
        """Return the memory itself: it goes with one message to each node."""
        return buffer

    def close(self) -> None:
        """End what agents are left; close the client and the cluster that are ours."""
        with contextlib.suppress(LinkLost, TimeoutError):
            self._call(self._end_seats(), 5.0)
        if self._is_ours:
            self.client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=5)

    async def _end_seats(self) -> None:
        for seat in list(self._seats):
            seat.give_up()
        if self._seats:
            await asyncio.wait(list(self._seats.values()))


def _node(address: str, one: Mapping[str, Any]) -> Node:
    """Return a worker as a node. Addresses and names may be used again, its folder may not."""
    name = str(one["name"])
    host = str(one["host"])
    label = address if name == address else f"{host}/{name}"
    return Node(f"{address} {one['local_directory']}", label, host, int(one["nthreads"]))


class DaskSeat:
    """An agent's place on a worker, as the driver has it. What it holds is the loop's, but the queue."""

    def __init__(self, link: DaskLink, node: Node, setup: bytes, told: Told) -> None:
        self._link = link
        self._client = link.client
        self._loop: asyncio.AbstractEventLoop = link.client.loop.asyncio_loop
        self._address = node.id.partition(" ")[0]
        self._name = node.name
        self._setup = setup
        self._told = told
        self._queue: deque[Message] = deque()
        self._number = 0  # of the next message
        self._filled = asyncio.Event()
        self._given_up = asyncio.Event()
        self._is_awake = False  # whether the loop has been told that there are messages
        self._is_over = False
        self._grace_s = 0.0

    # Any thread --------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Have a message delivered."""
        if self._is_over:
            return
        self._queue.append(message)
        if not self._is_awake:
            self._is_awake = True  # two threads may both say so: one wake-up too many
            self._on_loop(self._filled.set)

    def end(self, grace_s: float) -> None:
        """End the agent."""
        self._grace_s = grace_s
        self._on_loop(self.give_up)

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            self._is_over = True  # the client was closed, and its loop with it

    # The loop ----------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Let ``live`` end."""
        self._given_up.set()

    async def live(self) -> None:
        """Place the agent, and carry messages until it is gone."""
        token = f"glasspool-agent-{uuid.uuid4().hex}"
        actors: list[Any] = []
        rpc = self._link.distributed.rpc(
            self._address, timeout=REACH_S, connection_args=self._client.connection_args
        )
        self._call = _Way(self._client, self._address, rpc)
        why = "it was ended"
        try:
            try:
                actors += self._placed(token)
                why = await self._stay(token, actors)
            except NoSeat as error:
                why = str(error)
            except Exception as error:
                why = self._why(error)
        finally:
            self._is_over = True
            self._link.is_stale = True
            self._queue.clear()
            for actor in actors:
                actor.release()  # the scheduler lets go of them, and the agent ends
            with contextlib.suppress(OSError):
                await rpc.close_rpc()
            self._told.lost(why)

    def _placed(self, token: str) -> list[Any]:
        """Submit the actors.

        What Dask is given is a pickle: the scheduler, which looks at tasks, needs no glasspool.
        """
        return [
            self._client.submit(
                pickle.loads,
                pickle.dumps(_Making(kind, *args)),
                key=f"{token}-{kind.__name__.lower()}",
                workers=[self._address],
                allow_other_workers=False,
                actor=True,
                pure=False,
                priority=1_000_000,
            )
            for kind, args in ((Keeper, (token, self._name)), (Mouth, (token,)))
        ]

    async def _stay(self, token: str, actors: Sequence[Any]) -> str:
        placing = asyncio.gather(*(actor.exception() for actor in actors))
        given_up = asyncio.ensure_future(self._given_up.wait())
        try:
            done, _ = await asyncio.wait(
                (placing, given_up), timeout=PLACE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if given_up in done:
                return "it was ended"
            if placing not in done:
                raise NoSeat(
                    f"Dask has not placed an agent there for {PLACE_S:.0f} s: its threads are busy with "
                    "other tasks, most likely"
                )
            for error in placing.result():
                if error is not None:
                    raise error
            keeper, mouth = actors
            return await self._carry(keeper.key, mouth.key, given_up)
        finally:
            placing.cancel()
            given_up.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await placing

    async def _carry(self, keeper: str, mouth: str, given_up: asyncio.Future[Any]) -> str:
        """Carry messages both ways; return why that ended."""
        await self._call.find(keeper)
        works = [
            asyncio.ensure_future(work)
            for work in (self._begin(keeper), self._give(keeper), self._take(mouth))
        ]
        begin = works[0]
        try:
            waiting = {*works, given_up}
            while True:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    one.result()  # raises what it met
                if done == {begin}:
                    continue
                break
            if given_up in done and self._grace_s > 0:
                await self._end(keeper, works[2])
            return "it has ended"
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _begin(self, keeper: str) -> None:
        setup, self._setup = self._setup, b""
        await self._call(keeper, "begin", pickle.PickleBuffer(setup))

    async def _give(self, keeper: str) -> None:
        """Deliver messages, as many at a time as there are."""
        while True:
            await self._filled.wait()  # set by ``send``
            self._filled.clear()
            self._is_awake = False
            row = []
            while self._queue:
                message = self._queue.popleft()
                row.append((self._number, message.body, _carried(message.buffers)))
                self._number += 1
            if row:
                await self._call(keeper, "give", row)

    async def _take(self, mouth: str) -> None:
        """Take what the agent says, until it has ended."""
        while (message := await self._call(mouth, "take")) is not None:
            body, buffers = message
            self._told.arrived(body, [memoryview(buffer) for buffer in buffers])

    async def _end(self, keeper: str, taking: asyncio.Future[None]) -> None:
        """End the agent, and hear its last words."""
        with contextlib.suppress(TimeoutError):
            call = self._call(keeper, "end", self._grace_s)
            await asyncio.wait_for(call, self._grace_s + 1)
            await asyncio.wait_for(asyncio.shield(taking), 1.0)

    def _why(self, error: BaseException) -> str:
        if isinstance(error, ModuleNotFoundError) and error.name == "glasspool":
            return f"glasspool is not installed there: {_INSTALL} on each worker"
        if isinstance(error, OSError):
            return f"its worker of Dask, {self._address}, is gone: {error}"
        return f"Dask says: {type(error).__name__}: {error}"


class _Way:
    """How an actor's methods are called: on the worker itself, or through the scheduler."""

    def __init__(self, client: Any, address: str, rpc: Any) -> None:
        self._client = client
        self._address = address
        self._rpc = rpc
        self._is_direct = True
        self._to_serialize = extras.load("distributed.protocol", "dask").to_serialize

    async def find(self, keeper: str) -> None:
        """Find out whether the worker can be reached.

        Raises:
            OSError: It cannot, in neither way.
        """
        try:
            await asyncio.wait_for(self(keeper, "here"), REACH_S)
        except (TimeoutError, OSError):
            self._is_direct = False
            await self(keeper, "here")

    async def __call__(self, key: str, method: str, *args: Any) -> Any:
        said = {
            "function": method,
            "actor": key,
            "args": [self._to_serialize(arg) for arg in args],
            "kwargs": {},
        }
        if self._is_direct:
            reply = await self._rpc.actor_execute(**said)
        else:
            said["op"] = "actor_execute"
            reply = await self._client.scheduler.proxy(worker=self._address, msg=said)
        if reply["status"] != "OK":
            raise reply["exception"]
        return reply["result"]


def _carried(buffers: Sequence[Any]) -> list[pickle.PickleBuffer]:
    return [pickle.PickleBuffer(buffer) for buffer in buffers]


# On the worker -------------------------------------------------------------------------------------

_hosts: dict[str, Host] = {}
"""The hosts of this worker's agents, by token."""


class _Making:
    """Unpickled, it is an actor."""

    def __init__(self, kind: type[Any], *args: Any) -> None:
        self._kind = kind
        self._args = args

    def __reduce__(self) -> Any:
        return self._kind, self._args


class Keeper:
    """The actor that holds an agent, which ends when the scheduler lets go of this."""

    host_class = Host

    def __init__(self, token: str, node: str) -> None:
        worker = extras.load("distributed", "dask").get_worker()
        self._host = _hosts[token] = self.host_class(node, _fetch)
        weakref.finalize(self, _let_go, token, worker.loop.asyncio_loop)

    async def here(self) -> None:
        """Tell that the worker can be reached."""

    async def begin(self, setup: Any) -> None:
        """Have the agent begin."""
        await self._host.begin(bytes(setup))

    async def give(self, row: Sequence[tuple[int, bytes, Sequence[Any]]]) -> None:
        """Give the agent some messages."""
        for number, body, buffers in row:
            await self._host.give(number, body, [memoryview(buffer) for buffer in buffers])

    async def end(self, grace_s: float) -> None:
        """End the agent."""
        await self._host.end(grace_s)


class Mouth:
    """The actor that tells what an agent has to say."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def take(self) -> tuple[bytes, list[Any]] | None:
        """Return what the agent has to say; None if it has ended."""
        host = _hosts.get(self._token)
        message = None if host is None else await host.take()
        return None if message is None else (message[0], _carried(message[1]))


async def _fetch(what: Any) -> Any:
    return what


def _let_go(token: str, loop: asyncio.AbstractEventLoop) -> None:
    """End the agent of an actor that is gone (any thread, any moment)."""
    host = _hosts.pop(token, None)
    if host is not None and not loop.is_closed():
        loop.call_soon_threadsafe(_end, host)


_endings: set[asyncio.Task[None]] = set()
"""Agents that are being ended: an event loop keeps no tasks itself."""


def _end(host: Host) -> None:
    ending = asyncio.ensure_future(_end_quietly(host))
    _endings.add(ending)
    ending.add_done_callback(_endings.discard)


async def _end_quietly(host: Host) -> None:
    with contextlib.suppress(
        TimeoutError, asyncio.TimeoutError
    ):  # its own limit has passed: it ends later
        await host.end(5.0)
