"""What a link does for a pool, on real clusters of Dask and of Ray: see ``engines/cluster/link.py``."""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest
from link_actors import EchoAgent, EchoKeeper

from clusters import Cluster, wait_until
from glasspool.engines import dask as dask_engine
from glasspool.engines import ray as ray_engine
from glasspool.engines.cluster.link import Link, Message, Node

LIMIT_S = 30.0

LARGE = 20_000_000

pytestmark = [pytest.mark.clusters, pytest.mark.one_python, pytest.mark.timeout(120)]


class Heard:
    """What a seat tells: messages and losses, in order."""

    def __init__(self) -> None:
        self.messages: queue.Queue[tuple[Any, list[Any]]] = queue.Queue()
        self.losses: queue.Queue[str] = queue.Queue()

    def arrived(self, body: bytes, buffers: Sequence[Any]) -> None:
        """Keep a message."""
        self.messages.put((pickle.loads(body), list(buffers)))

    def lost(self, why: str) -> None:
        """Keep a loss."""
        self.losses.put(why)

    def next(self) -> tuple[Any, list[Any]]:
        """Return the next message."""
        return self.messages.get(timeout=LIMIT_S)

    def loss(self) -> str:
        """Return why the seat was lost."""
        return self.losses.get(timeout=LIMIT_S)


class Linked:
    """A link to a cluster, with agents that echo."""

    def __init__(self, link: Link, cluster: Cluster) -> None:
        self.link: Link = link
        self.cluster: Cluster = cluster

    def seat(self, node: Node | None = None, setup: Any = "", is_there: bool = True) -> Any:
        """Return a seat, and what it tells; its agent has begun."""
        heard = Heard()
        node = node or self.link.nodes()[0]
        seat = self.link.seat(node, pickle.dumps(setup), 1, heard)
        if is_there:
            assert heard.next()[0][:2] == ("hello", node.name)
        return seat, heard

    def member(self, node: Node) -> Any:
        """Return the node's processes."""
        return next(m for m in self.cluster.members if _runs_on(m, node))


def _runs_on(member: Any, node: Node) -> bool:
    if node.name.endswith(f"/{member.name}"):
        return True  # Dask
    said = " ".join(" ".join(p.cmdline()) for p in member.processes())
    return f"--node_id={node.id}" in said or f"--node-id={node.id}" in said


def say(*what: Any, buffers: Sequence[Any] = ()) -> Message:
    """Return a message that tells an echo what to do."""
    return Message(pickle.dumps(what), buffers)


CONNECT: dict[str, Callable[..., Any]] = {"dask": dask_engine.connect, "ray": ray_engine.connect}


@pytest.fixture
def echoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have agents that echo."""
    monkeypatch.setattr(dask_engine, "Keeper", EchoKeeper)
    monkeypatch.setattr(ray_engine, "GlasspoolAgent", EchoAgent)


@pytest.fixture
def linked(each_cluster: Cluster, echoes: None, leak_check: None) -> Iterator[Linked]:
    """Return a link to a cluster of each library."""
    link = CONNECT[each_cluster.library](each_cluster.address)
    yield Linked(link, each_cluster)
    link.close()


def test_nodes_are_those_of_the_cluster(linked: Linked) -> None:
    """A link tells which nodes there are, with their processors; ids and names differ."""
    nodes = linked.link.nodes()
    assert [node.processors for node in nodes] == [1, 1]
    assert len({node.id for node in nodes}) == len({node.name for node in nodes}) == 2


def test_messages_arrive_in_order(linked: Linked) -> None:
    """Messages arrive in the order in which they were sent, small and large, both ways."""
    seat, heard = linked.seat()
    for number in range(500):
        seat.send(say("echo", number, buffers=[b"x" * 200_000] if number % 50 == 0 else []))
    assert [heard.next()[0][1] for _ in range(500)] == list(range(500))


def test_messages_of_several_threads_all_arrive(linked: Linked) -> None:
    """Any thread may send; none of the messages is lost, and each thread's are in order."""
    seat, heard = linked.seat()

    def send(thread: int) -> None:
        for number in range(100):
            seat.send(say("echo", (thread, number)))

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    came = [heard.next()[0][1] for _ in range(400)]
    assert sorted(came) == [(t, n) for t in range(4) for n in range(100)]
    for one in range(4):
        assert [n for t, n in came if t == one] == list(range(100))


def test_large_memory_goes_both_ways(linked: Linked) -> None:
    """Buffers arrive whole, as memory, whatever they were."""
    seat, heard = linked.seat()
    sent = [b"a" * LARGE, bytearray(b"b") * 100, memoryview(b"c" * LARGE), b""]
    seat.send(say("echo", 0, buffers=sent))
    kinds, sizes, firsts, lasts = zip(*heard.next()[0][2], strict=True)
    assert set(kinds) <= {"memoryview", "bytes", "bytearray"}
    assert sizes == (LARGE, 100, LARGE, 0)
    assert firsts == lasts == (b"a", b"b", b"c", b"")
    seat.send(say("give", LARGE, 3))
    for number in range(3):
        what, buffers = heard.next()
        assert what == ("given", number)
        assert bytes(buffers[0]) == bytes([number]) * LARGE


def test_memory_that_was_put_goes_to_several_nodes(linked: Linked) -> None:
    """What ``put`` returned stands for its memory in a message to each node."""
    first, second = linked.link.nodes()
    kept = linked.link.put(memoryview(b"k" * LARGE), first)
    seats = [linked.seat(node) for node in (first, second)]
    for seat, _ in seats:
        seat.send(say("echo", 1, buffers=[b"own", kept]))
    for _, heard in seats:
        assert [seen[1:] for seen in heard.next()[0][2]] == [(3, b"o", b"n"), (LARGE, b"k", b"k")]


def test_what_an_agent_is_made_of_may_be_large(linked: Linked) -> None:
    """An agent's setup of some megabytes arrives, with no warning of the library's."""
    _, heard = linked.seat(setup="s" * LARGE, is_there=False)
    assert heard.next()[0][3] > LARGE


def test_an_agent_that_cannot_begin_is_lost(linked: Linked) -> None:
    """If an agent fails while it begins, the loss says why."""
    _, heard = linked.seat(setup="fail", is_there=False)
    assert "this agent does not begin" in heard.loss()


def test_an_agent_ends_when_it_is_told(linked: Linked) -> None:
    """``end`` ends agent and children; the pool hears last words, then the loss, once."""
    seat, heard = linked.seat()
    seat.send(say("bear"))
    child = psutil.Process(heard.next()[0][1])
    seat.end(10.0)
    assert heard.loss() == "it has ended"
    assert heard.next()[0] == ("ended",)
    child.wait(LIMIT_S)
    seat.end(0.0)
    seat.send(say("echo", 1))
    linked.link.nodes()
    assert heard.losses.empty()


def test_a_killed_agent_is_lost_once(linked: Linked) -> None:
    """The end of the agent's process is told once, at once; what is sent after that goes nowhere."""
    seat, heard = linked.seat()
    seat.send(say("die"))
    assert heard.loss()
    seat.send(say("echo", 1))
    seat.end(0.0)
    linked.link.nodes()
    assert heard.losses.empty()
    linked.cluster.top_up(2)


def test_a_killed_node_is_lost_and_another_one_comes(linked: Linked) -> None:
    """A node whose machine fails is told of; one that comes after it is another node, and can be used."""
    nodes = linked.link.nodes()
    last = linked.cluster.members[-1]
    victim = next(node for node in nodes if linked.member(node) is last)
    _, heard = linked.seat(victim)
    last.kill()
    assert heard.loss()
    wait_until(lambda: len(linked.link.nodes()) == 1, LIMIT_S, "the node is not told any more")
    linked.cluster.top_up(2)
    wait_until(lambda: len(linked.link.nodes()) == 2, LIMIT_S, "a node has come")
    fresh = next(node for node in linked.link.nodes() if node not in nodes)
    assert fresh.id not in {node.id for node in nodes}
    linked.seat(fresh)


def test_a_seat_on_a_node_that_has_gone_is_lost(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seat on a node that went meanwhile is lost, and not waited for without an end."""
    monkeypatch.setattr(dask_engine, "PLACE_S", 2.0)
    last = linked.cluster.members[-1]
    victim = next(node for node in linked.link.nodes() if linked.member(node) is last)
    last.kill()
    _, heard = linked.seat(victim, is_there=False)
    assert heard.loss()
    linked.cluster.top_up(2)


def test_closing_leaves_nothing_on_the_nodes(each_cluster: Cluster, echoes: None) -> None:
    """When a link is closed its agents end, and what they have started; the next link has all again."""
    for _ in range(2):
        link = CONNECT[each_cluster.library](each_cluster.address)
        linked = Linked(link, each_cluster)
        seats = [linked.seat(node) for node in link.nodes()]
        children = []
        for seat, heard in seats:
            seat.send(say("bear"))
            children.append(psutil.Process(heard.next()[0][1]))
        link.close()
        for _, heard in seats:
            assert heard.loss()
        gone, alive = psutil.wait_procs(children, LIMIT_S)
        assert len(gone) == 2, alive
