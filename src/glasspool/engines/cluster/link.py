"""What a cluster's library does for a pool: the one thing in which Ray and Dask differ.

A *link* is a pool's connection to a cluster. It tells which nodes there are, puts an agent on one (a
*seat*), carries messages both ways, and tells when an agent is lost. It knows nothing of tasks.

Messages are a body of bytes and a row of buffers, which travel out of band. Those to an agent arrive
in the order in which they were sent, and so do those from it; none is lost while the agent lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class Message(NamedTuple):
    """What the driver and an agent say to each other.

    ``body`` is a pickle of built-in types. In ``buffers`` are large pieces of memory; in a message to an
    agent also what ``Link.put`` returned, in place of the memory that was put.
    """

    body: bytes
    buffers: Sequence[Any] = ()


class Node(NamedTuple):
    """One place of a cluster where an agent can be.

    ``id`` is never used again for another one. ``name`` is for people: a host's name or an address.
    ``processors`` is how many tasks it is meant to run at a time.
    """

    id: str
    name: str
    host: str
    processors: int


class Missing:
    """In a message, in place of memory that was put and could not be had on the node."""

    def __init__(self, why: str) -> None:
        self.why: str = why


class LinkLost(Exception):
    """The cluster cannot be reached any more: its scheduler, or head, is gone. The text says why."""


class NoSeat(Exception):
    """An agent could not be put on a node: the text says why, and what to do about it."""


class Told(Protocol):
    """What a seat tells the pool, on any thread. None of these blocks or raises."""

    def arrived(self, body: bytes, buffers: Sequence[Buffer]) -> None:
        """A message of the agent's."""

    def lost(self, why: str) -> None:
        """The agent, or its node, is gone: nothing more will come. Told once, after ``Seat.end`` too."""


class Seat(Protocol):
    """An agent's place on a node, as the driver has it. Any thread may call these."""

    def send(self, message: Message) -> None:
        """Have a message delivered. Does not wait for that; after a loss it does nothing."""

    def end(self, grace_s: float) -> None:
        """End the agent, by force if it has not ended after so long. Does not wait."""


class Link(Protocol):
    """A pool's connection to a cluster."""

    library: str
    address: str
    """Where the cluster is, in words."""

    def nodes(self) -> list[Node]:
        """Return the nodes that are there now. Blocks, for some seconds at most.

        Raises:
            LinkLost: Nobody can tell any more.
        """

    def seat(self, node: Node, setup: bytes, processors: int, told: Told) -> Seat:
        """Put an agent on a node; it begins there by itself, and says so by a message.

        If that fails later on, ``told.lost`` says why.

        Args:
            node: Where.
            setup: What the agent is made of.
            processors: How many processors of the node it is to be given.
            told: Whom to tell.

        Raises:
            NoSeat: It cannot be put there.
            LinkLost: The cluster cannot be reached.
        """

    def put(self, buffer: Buffer, node: Node) -> Any:
        """Have the cluster keep a piece of memory that goes to several nodes; return what stands for it.

        It is kept until the last reference to what is returned is dropped. A node is sent it with one
        message, and keeps it; ``node`` is the first to be. Does not wait for the network.
        """

    def close(self) -> None:
        """Let go of the cluster, and end it if it was made for this pool. Blocks, for some seconds."""
