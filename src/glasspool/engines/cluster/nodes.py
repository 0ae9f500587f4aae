"""A node, as the driver knows it: its agent's seat, the tasks that it holds, its workers, its clock.

``RemoteNode`` belongs to the dispatcher's thread; ``Ear`` is what the link tells, on any thread.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool.engines.cluster import freight, words
from glasspool.engines.cluster.clocks import Clock
from glasspool.engines.cluster.link import Buffer, Message, Node, Seat
from glasspool.ledger import Held

if TYPE_CHECKING:
    from glasspool.engines.cluster.dispatcher import Dispatcher
    from glasspool.snapshot import PoolInfo

_seats = itertools.count(1)

STARTING, READY, LEAVING, LOST, GONE = "starting", "ready", "leaving", "lost", "gone"


class RemoteWorker(NamedTuple):
    """Who ran a task on a node: what ``result.info`` tells of it."""

    node: str
    slot: int
    generation: int
    pid: int
    ident: int | None
    native_id: int | None
    thread_name: str
    runs_in_main: bool
    lane: int = 0


class RemoteNode:
    """One node of a pool.

    Args:
        node: As the cluster's library tells of it.
        processes: How many workers it is to have.
        talking: It puts itself here when it has got something to say.
    """

    def __init__(self, node: Node, processes: int, talking: list[RemoteNode]) -> None:
        self.node: Node = node
        self.key: str = f"{node.id}#{next(_seats)}"  # a node that was let go may be wanted again
        self.name: str = node.name
        self.processes: int = processes
        self.staffed: int = 0  # so many of them have a process
        self.places: int = 0  # so many tasks run at a time, once it is ready
        self.state: str = STARTING
        self.why: str = ""  # it was lost, in words
        self.seat: Seat | None = None
        self.held: Held | None = None
        self.calls: set[int] = set()  # callables that it has been told
        self.shared: set[int] = set()  # memory that it has been told
        self.about: dict[str, Any] = {}
        self.workers: dict[int, RemoteWorker] = {}
        self.clock: Clock = Clock()
        self.heard_at: float = time.monotonic()
        self.bytes_held: int = 0
        self.tasks_done: int = 0
        self.records_bytes: int = 0  # handled, and not told; the thread ``logs``'s
        self.pings: int = 0
        self.coming: freight.Coming = freight.Coming()
        self.asked: set[int] = set()  # questions that it has not answered
        self.recalled: set[int] = set()  # tasks that it has been asked to give back
        self.keeps_all: bool = False  # when it was asked last, it gave nothing back
        self.is_silent: bool = False  # it has not answered for a while
        self.seen: tuple[float, PoolInfo] | None = None  # when, and what it told then; any thread's
        self.has_words: bool = False  # there is something to be sent
        self._talking = talking
        self._words: list[tuple[Any, ...]] = []
        self._buffers: list[Any] = []

    @property
    def is_usable(self) -> bool:
        """Whether it may be given tasks."""
        return self.state == READY and not self.is_silent

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes from it."""
        return self.state in (LOST, GONE)

    def workers_told(
        self,
        key: int,
        slot: int,
        generation: int,
        pid: int,
        ident: int | None,
        native_id: int | None,
        thread: str,
        runs_in_main: bool,
        lane: int,
    ) -> None:
        """Take note of a worker that ends of tasks will name by its key."""
        self.workers[key] = RemoteWorker(
            self.name, slot, generation, pid, ident, native_id, thread, runs_in_main, lane
        )

    def say(self, *word: Any) -> None:
        """Have a word told to the agent with the next message."""
        self._words.append(word)
        if not self.has_words:
            self.has_words = True
            self._talking.append(self)

    @property
    def buffers(self) -> list[Any]:
        """The buffers of the next message."""
        return self._buffers

    def flush(self) -> None:
        """Send what there is to say."""
        if not self._words or self.seat is None or self.is_over:
            return
        said, buffers = self._words, self._buffers
        self.has_words = False
        self._words, self._buffers = [], []
        self.seat.send(Message(pickle.dumps(said, words.PROTOCOL), buffers))


class Ear:
    """What the link tells of one node's agent: put into the dispatcher's mailbox (any thread)."""

    def __init__(self, dispatcher: Dispatcher, node: RemoteNode) -> None:
        self._dispatcher = dispatcher
        self._node = node

    def arrived(self, body: bytes, buffers: Sequence[Buffer]) -> None:
        """A message of the agent's."""
        self._node.heard_at = time.monotonic()  # also if the dispatcher is behind
        hear = functools.partial(
            self._dispatcher.hear, self._node, body, buffers, time.monotonic_ns()
        )
        self._dispatcher.mailbox.put(hear)

    def lost(self, why: str) -> None:
        """The agent, or its node, is gone."""
        self._dispatcher.mailbox.put(functools.partial(self._dispatcher.lost, self._node, why))
