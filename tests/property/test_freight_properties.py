"""Freight: what was packed on one machine is the same when it is unpacked on another."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import nested, same

from glasspool.engines.cluster import freight
from glasspool.engines.cluster.link import Node
from glasspool.engines.local import channel, outcome, payload, wire
from glasspool.engines.local.recurring import Recurring
from glasspool.errors import GlasspoolError

sizes = st.sampled_from([300_000, 1 << 20, (1 << 20) + 1])


class Cluster:
    """What a link does with memory: keeps what is put, and carries copies that cannot be written to."""

    def __init__(self) -> None:
        self.sent: list[int] = []  # for each piece of memory that is no task's own, its node
        self.puts = 0
        self.gone: list[int] = []
        self.sharing = freight.Sharing(self.put, self.gone.append)
        self.held: dict[int, dict[int, Any]] = {}

    def put(self, memory: Any, node: Node) -> bytes:
        self.puts += 1
        return bytes(memory)

    def carried(self, body: Any, at: int = 0, is_function: bool = False) -> Any:
        """Return what a node makes of arguments, or of a function, that were sent to it."""
        if not isinstance(body, payload.Parcel):
            return body
        held, buffers = self.held.setdefault(at, {}), []
        node = Node(str(at), str(at), "host", 1)
        form, shared = freight.pack(body, buffers, self.sharing, is_function)
        for number, view in shared:
            if number not in held:
                self.sent.append(at)
                memory = self.sharing.memory(number, view, node, is_function)
                held[number] = freight.hold(bytes(memory))
        form, buffers = pickle.loads(pickle.dumps((form, [bytes(each) for each in buffers])))
        return freight.unpack(form, buffers, held)


def rebuilt(body: Any) -> Any:
    return body.load() if isinstance(body, payload.Parcel) else payload.load(body)


@given(lengths=st.lists(sizes, max_size=2), recurring=st.lists(sizes, max_size=2), extra=nested)
@settings(deadline=None, max_examples=40)
def test_arguments_arrive_as_they_were(
    lengths: list[int], recurring: list[int], extra: Any
) -> None:
    """Own memory and shared memory of any number arrive equal, and what recurs is put once for all tasks."""
    cluster, known = Cluster(), Recurring()
    common = [np.full(length, 7 + at, "u1") for at, length in enumerate(recurring)]
    for task in range(4):
        own = [np.full(length, task, "u1") for length in lengths]
        body = payload.dump_any((common, own, extra), known)[0]
        arrived = rebuilt(cluster.carried(body, task % 2))
        for sent, came in zip([*common, *own], [*arrived[0], *arrived[1]], strict=True):
            assert np.array_equal(sent, came)
            assert came.flags.writeable
            came[:] = 0  # of nobody else's
        assert same(arrived[2], extra)
    assert len(cluster.sent) == 2 * len(recurring) + 4 * len(lengths)
    assert cluster.puts == len(recurring)  # for the second node


@given(length=sizes, extra=nested)
@settings(deadline=None, max_examples=20)
def test_a_function_is_put_once(length: int, extra: Any) -> None:
    """The memory of a function is kept by the cluster once, however many nodes it goes to."""
    cluster = Cluster()
    body = payload.dump_any((np.arange(length) % 251, extra))[0]
    for task in range(6):
        array, other = rebuilt(cluster.carried(body, task % 2, is_function=True))
        assert np.array_equal(array, np.arange(length) % 251)
        assert same(other, extra)
    assert cluster.sent == [0, 1]
    assert cluster.puts == 1


def test_what_nobody_needs_is_let_go_of() -> None:
    """When the last task that shares a piece of memory is gone, its number is told, and nothing is kept."""
    cluster, known = Cluster(), Recurring()
    array = np.zeros(1 << 20, "u1")
    tasks = [payload.dump_any((array, i), known)[0] for i in range(3)]
    forms = [freight.pack(task, [], cluster.sharing) for task in tasks]
    assert {tuple(each.number for each in shared) for _, shared in forms} == {(1,)}
    del known, forms
    tasks.pop()
    gc.collect()
    assert not cluster.gone
    tasks.clear()
    gc.collect()
    assert cluster.gone == [1]
    cluster.sharing.drop(1)
    assert len(cluster.sharing) == 0


def test_memory_that_did_not_come_says_so() -> None:
    """A task whose memory is missing on its node ends with the words for it, whichever memory it is."""
    cluster, known = Cluster(), Recurring()
    body = payload.dump_any((np.zeros(1 << 20, "u1"), 1), known)[0]
    form, (shared,) = freight.pack(body, [], cluster.sharing)
    with pytest.raises(GlasspoolError, match="the store is full"):
        freight.unpack(form, [], {shared.number: freight.Missing("the store is full")})
    own = payload.dump_any((np.zeros(1 << 20, "u1"), 1))[0]
    form, _ = freight.pack(own, [], cluster.sharing)
    with pytest.raises(GlasspoolError, match="cut off"):
        freight.unpack(form, [freight.Missing("cut off")], {})


def a_result(value: Any) -> Any:
    """Return what a worker's result is where it arrives on its node."""
    body = payload.dump_any(value)[0]
    if not isinstance(body, payload.Parcel):
        return wire.OK, body
    hold = body.give_up()
    fds = [os.dup(hold.segment.fd)]
    return wire.OK_SEGMENT, outcome.Segment(body.head, channel.take_fds(fds, 1)[0], deque())


@given(
    lengths=st.lists(st.sampled_from([10, 1000, 300_000, 2_000_000, 5_000_001]), max_size=6),
    room=st.sampled_from([200_000, 1 << 20, 3_000_000]),
)
@settings(deadline=None, max_examples=40)
def test_results_arrive_in_order_in_messages_of_bounded_size(lengths: list[int], room: int) -> None:
    """Every result arrives once, in its turn, to be written to; no message has more than its room."""
    ends: deque[Any] = deque()
    for at, length in enumerate(lengths):
        kind, body = a_result(np.full(length, at, "u1"))
        ends.append(SimpleNamespace(id=at, ended_as=kind, outcome=(kind, body)))
    arrived: list[Any] = []
    going, coming = freight.Going(), freight.Coming()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(freight, "MESSAGE_BYTES", room)
        for _ in itertools.takewhile(lambda _: ends, itertools.count()):
            buffers: list[Any] = []
            tasks, pieces = going.take(ends, buffers)
            assert tasks or pieces
            forms = [(t.ended_as, freight.pack_outcome(t.outcome[1], buffers)) for t in tasks]
            sent = [bytes(each) for each in buffers]
            assert sum(map(len, sent)) <= room + 512
            for total, where, index in pieces:
                coming.add(total, where, sent[index])
            for kind, form in forms:
                back = freight.unpack_outcome(form, sent, coming)
                arrived.append(back.load() if kind == wire.OK_SEGMENT else payload.load(back))
    assert [len(each) for each in arrived] == lengths
    for at, each in enumerate(arrived):
        assert (each == at).all()
        assert each.flags.writeable
