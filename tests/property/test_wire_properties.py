"""The wire and the outbox: nothing that was put in is lost, doubled or out of order."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import reply_sizes, words

from glasspool.engines.local import channel, wire
from glasspool.engines.local.outbox import CAPACITY, Outbox, Outboxes

Reply = tuple[int, int, bytes]
"""Kind, task, body."""


@given(
    kind=st.integers(0, 2**16 - 1),
    flags=st.integers(0, 2**16 - 1),
    call=st.integers(0, 2**32 - 1),
    ids=st.tuples(words, words),
    length=st.integers(0, 2**32 - 1),
)
def test_requests_come_back(
    kind: int, flags: int, call: int, ids: tuple[int, int], length: int
) -> None:
    """A request's head is read as it was written."""
    packed = wire.REQUEST.pack(kind, flags, call, *ids, length)
    assert wire.REQUEST.unpack(packed) == (kind, flags, call, *ids, length)


@given(
    kind=st.integers(0, 2**16 - 1),
    lane=st.integers(0, 2**16 - 1),
    length=st.integers(0, 2**32 - 1),
    times=st.tuples(words, words, words),
)
def test_replies_come_back(kind: int, lane: int, length: int, times: tuple[int, int, int]) -> None:
    """A reply's head is read as it was written."""
    packed = wire.REPLY.pack(kind, lane, length, *times)
    assert wire.REPLY.unpack(packed) == (kind, lane, length, *times)


def test_flags_do_not_overlap() -> None:
    """Each flag has a bit of its own, outside of the mode."""
    flags = [wire.MODE, wire.KEYWORDS, wire.INLINE, wire.BY_VALUE, wire.SEGMENT, wire.BY_REFERENCE]
    assert sum(flags) == flags[0] | flags[1] | flags[2] | flags[3] | flags[4] | flags[5]


def replies_in(message: bytes) -> Iterator[Reply]:
    """Read a message (or an outbox) reply by reply; it must come out even."""
    at = 0
    while at < len(message):
        kind, _, length, task, _, _ = wire.REPLY.unpack_from(message, at)
        at += wire.REPLY.size
        assert at + length <= len(message)
        yield kind, task, message[at : at + length]
        at += length


class Link:
    """An outbox, the channel behind it, and what has come through."""

    def __init__(self) -> None:
        self.boxes = Outboxes.create(3)
        self.ours, theirs = channel.pair()
        self.theirs = theirs
        self.outbox = Outbox(self.boxes, 1, theirs)
        self.receiver = channel.Receiver()
        self.arrived: list[Reply] = []
        self.messages = 0

    def drain(self) -> None:
        """Take what has arrived."""
        while True:
            try:
                message, fds = self.receiver.receive(self.ours, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            assert message
            self.messages += 1
            self.arrived += replies_in(message)
            channel.close_fds(fds)

    def close(self) -> None:
        """Give everything back."""
        self.ours.close()
        self.theirs.close()
        # The worker's end holds a view of the memory.
        self.outbox._view.release()
        self.boxes.close()


@given(
    steps=st.lists(st.none() | st.tuples(st.sampled_from([0, 2, 3, 100]), reply_sizes), max_size=30)
)
@settings(deadline=None)
def test_what_was_put_in_counts_from_then_on(steps: list[tuple[int, int] | None]) -> None:
    """At every moment the replies that arrived and those in the outbox are all that were put in.

    Each in order, and none twice, apart from those that were sent and not yet cleared.
    """
    link = Link()
    put: list[Reply] = []
    try:
        for number, step in enumerate(steps):
            if step is None:
                link.outbox.flush()
            else:
                kind, size = step
                body = bytes([number % 256]) * size
                link.outbox.put(kind, 0, body, number, 1, 2)
                put.append((kind, number, body))
            link.drain()
            assert link.arrived + list(replies_in(link.boxes.read(1))) == put
            assert not link.boxes.read(0)
            assert not link.boxes.read(2)
        link.outbox.flush()
        link.drain()
        assert link.arrived == put
        assert not link.boxes.read(1)
    finally:
        link.close()


@given(sizes=st.lists(st.integers(0, 3000), min_size=2, max_size=60))
@settings(deadline=None)
def test_short_replies_share_messages(sizes: list[int]) -> None:
    """As many replies as fit travel in one message."""
    link = Link()
    try:
        for number, size in enumerate(sizes):
            link.outbox.put(wire.OK, 0, bytes(size), number, 1, 2)
        link.outbox.flush()
        link.drain()
        total = sum(sizes) + len(sizes) * wire.REPLY.size
        assert link.messages <= 1 + total // (CAPACITY - 3000 - wire.REPLY.size)
    finally:
        link.close()


@pytest.mark.parametrize("size", [CAPACITY - wire.REPLY.size, CAPACITY, wire.INLINE_BYTES])
def test_a_reply_of_every_allowed_size_gets_through(size: int) -> None:
    """One that fills the outbox to the brim, and one that is larger than it."""
    link = Link()
    try:
        link.outbox.put(wire.OK, 0, b"first", 1, 1, 2)
        link.outbox.put(wire.OK, 0, b"x" * size, 2, 1, 2)
        link.outbox.put(wire.OK, 0, b"last", 3, 1, 2)
        link.outbox.flush()
        link.drain()
        assert [(task, len(body)) for _, task, body in link.arrived] == [(1, 5), (2, size), (3, 4)]
    finally:
        link.close()


def test_a_segment_travels_with_its_reply() -> None:
    """The descriptor arrives with the message, and what came before goes before."""
    link = Link()
    fd = os.memfd_create("test")
    try:
        os.write(fd, b"content")
        link.outbox.put(wire.OK, 0, b"before", 1, 1, 2)
        link.outbox.put_segment(wire.OK_SEGMENT, 0, b"head", (fd,), 2, 1, 2)
        message, fds = link.receiver.receive(link.ours)
        assert list(replies_in(message)) == [(wire.OK, 1, b"before")]
        assert fds == []
        message, fds = link.receiver.receive(link.ours)
        assert list(replies_in(message)) == [(wire.OK_SEGMENT, 2, b"head")]
        assert os.pread(fds[0], 100, 0) == b"content"
        channel.close_fds(fds)
    finally:
        os.close(fd)
        link.close()
