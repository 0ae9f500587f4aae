"""The outbox, with both ends in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from glasspool.engines.local import wire
from glasspool.engines.local.outbox import Outbox, Outboxes

Both = tuple[Outboxes, Outbox, socket.socket]


@pytest.fixture
def both() -> Iterator[Both]:
    """Give the outboxes of a pool, the worker's end of one, and the channel's other end."""
    boxes = Outboxes.create(2)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outbox = Outbox(boxes, 1, theirs)
    try:
        yield boxes, outbox, ours
    finally:
        outbox._view.release()
        ours.close()
        theirs.close()
        boxes.close()


def test_what_was_put_in_can_be_read_until_it_is_sent(both: Both) -> None:
    """The replies that lie there are those of the next message, byte for byte but for its mark."""
    boxes, outbox, ours = both
    outbox.put(wire.OK, 0, b"body", 1, 10, 20)
    outbox.put_plain(b"N", 2, 20, 30)
    lying = boxes.read(1)
    assert len(lying) == wire.REPLY.size + 4 + wire.PLAIN_REPLY.size
    outbox.flush()
    assert ours.recv(1 << 17) == lying
    assert boxes.read(1) == b""


def test_a_message_of_plain_values_says_so(both: Both) -> None:
    """And only such a one: it is taken apart as a row of records of one size."""
    _, outbox, ours = both
    for task in range(3):
        outbox.put_plain(b"T", task, 20, 30)
    outbox.flush()
    rows = list(wire.PLAIN_REPLY.iter_unpack(ours.recv(1 << 17)))
    assert [row[1] for row in rows] == [wire.ALL_PLAIN, 0, 0]
    assert [row[3] for row in rows] == [0, 1, 2]
    outbox.put_plain(b"T", 4, 20, 30)
    outbox.put(wire.OK, 0, b"body", 5, 10, 20)
    outbox.flush()
    assert wire.REPLY.unpack_from(ours.recv(1 << 17))[1] == 0
    outbox.put_plain(b"T", 6, 20, 30)
    outbox.flush()
    assert wire.REPLY.unpack_from(ours.recv(1 << 17))[1] == wire.ALL_PLAIN


def test_a_living_worker_is_never_read_in_half(both: Both) -> None:
    """If it empties the outbox and puts something new in while it is read, nothing counts as read."""
    boxes, outbox, _ = both
    outbox.put(wire.OK, 0, b"first", 1, 10, 20)

    class Meanwhile:
        """A view of the memory of which a part is taken just when the worker goes on."""

        def __getitem__(self, part: slice) -> memoryview[int]:
            outbox.flush()
            outbox.put(wire.OK, 0, b"a longer second one", 2, 30, 40)
            return view[part]

    view = boxes.view
    boxes.view = Meanwhile()  # type: ignore[assignment]
    try:
        assert boxes.read(1) == b""
    finally:
        boxes.view = view
    assert boxes.read(1).endswith(b"a longer second one")


def test_a_full_outbox_is_sent(both: Both) -> None:
    """What does not fit in makes room for itself; what never fits is sent at once, after the rest."""
    _, outbox, ours = both
    outbox.put(wire.OK, 0, bytes(60_000), 1, 10, 20)
    outbox.put(wire.OK, 0, bytes(60_000), 2, 10, 20)
    outbox.put(wire.OK, 0, bytes(70_000), 3, 10, 20)
    received = [wire.REPLY.unpack_from(ours.recv(1 << 17)) for _ in range(3)]
    assert [(head[2], head[3]) for head in received] == [(60_000, 1), (60_000, 2), (70_000, 3)]
    assert outbox.used == 0
