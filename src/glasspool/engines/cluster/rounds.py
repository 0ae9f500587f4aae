"""Rounds on a cluster: calls that every worker of every node makes once (``Pool.run_on_all``).

Each node's local pool makes a round by itself (``engines.local.rounds``), for its workers to come, too, and
tells what became of it as bytes. Here is what the driver knows. Owns: the pool's rounds in their order.
Threads: none; the dispatcher's thread alone calls ``ClusterRounds``. A ``ClusterRound`` is waited for by the
thread that asked for it.

Invariants:

* a node has each round once: when it joins, or when the round begins, whichever is later;
* a round is over when each node that was there has made it or is lost, and at least one has made it. One that
  joins meanwhile is waited for, too;
* a round that failed is spared to workers to come, wherever they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasspool.engines.cluster import freight, words
from glasspool.engines.cluster.nodes import READY, STARTING
from glasspool.engines.local import wire
from glasspool.engines.local.outcome import RAISED, VALUE, Outcome, rebuild
from glasspool.errors import InitializerFailed
from glasspool.latch import Latch

if TYPE_CHECKING:
    from glasspool.engines.cluster.dispatcher import Dispatcher
    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.engines.local.callables import Known

Told = list[tuple[int, int, Any]]
"""What became of a round on a node: slot, kind, body."""


class ClusterRound(Latch):
    """A call that every worker makes once. Turned when all nodes have that were there."""

    __slots__ = ("_missing", "_order", "_outcomes", "known", "number")

    def __init__(self, number: int, known: Known) -> None:
        super().__init__()
        self.number: int = number
        self.known: Known = known
        self._order: list[RemoteNode] = []
        self._missing: set[RemoteNode] = set()
        self._outcomes: dict[RemoteNode | None, dict[int, Outcome]] = {}

    def ask(self, node: RemoteNode) -> None:
        """Wait for a node, too (dispatcher)."""
        if not self.is_set():
            self._order.append(node)
            self._missing.add(node)

    def made(self, node: RemoteNode, outcomes: dict[int, Outcome]) -> None:
        """Take what became of it on a node (dispatcher)."""
        self._outcomes[node] = outcomes
        self.lost(node)

    def lost(self, node: RemoteNode) -> None:
        """Take note that a node is at it no more (dispatcher).

        If there is none left, the next one that joins is asked.
        """
        self._missing.discard(node)
        if not self._missing and self._outcomes:
            self.set()

    def give_up(self, error: BaseException) -> None:
        """End the wait: no more workers will make it (dispatcher)."""
        if not self.is_set():
            self._outcomes = {None: {-1: (RAISED, error)}}
            self.set()

    def values(self) -> list[Any]:
        """Return what the workers returned, in the order of nodes and slots (once it is turned).

        Raises:
            BaseException: What one of them raised: the one of the lowest slot of the first node.
        """
        nodes = [node for node in (None, *self._order) if node in self._outcomes]
        rows = [(node, self._outcomes[node]) for node in nodes]
        rebuilt = [(node, rebuild(row[slot])) for node, row in rows for slot in sorted(row)]
        for node, (kind, value) in rebuilt:
            if kind != VALUE:
                if node is not None:
                    value.add_note(f"On the node {node.name}.")
                raise value
        return [value for _, (_, value) in rebuilt]

    @property
    def has_failed(self) -> bool:
        """Whether it raised somewhere."""
        return any(_failed(outcomes) for outcomes in self._outcomes.values())


class ClusterRounds:
    """The rounds of one pool."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._rounds: dict[int, ClusterRound] = {}

    def begin(self, round_: ClusterRound) -> None:
        """Have every node make a round: now, or when it joins (an item)."""
        dispatcher = self._dispatcher
        if dispatcher.stopped or dispatcher.failure is not None:
            round_.give_up(dispatcher.failure or ValueError("Pool not running"))
            return
        self._rounds[round_.number] = round_
        for node in dispatcher.nodes.values():
            if node.state in (STARTING, READY):
                round_.ask(node)
            if node.state == READY:
                self._send(node, round_)

    def welcome(self, node: RemoteNode) -> None:
        """Have a node that is ready make the rounds so far, before it is given tasks."""
        for round_ in self._rounds.values():
            if node not in round_._missing:
                round_.ask(node)
            self._send(node, round_)

    def _send(self, node: RemoteNode, round_: ClusterRound) -> None:
        number = round_.known.number
        if number not in node.calls:
            try:
                self._dispatcher.introduce(node, number)
            except Exception as error:  # no room here, or the cluster cannot keep its data
                round_.give_up(freight.not_sent("the function", error))
                return
        node.say(words.ROUND, round_.number, number)

    def told(self, node: RemoteNode, number: int, told: Told) -> None:
        """Take what became of a round on a node."""
        round_ = self._rounds.get(number)
        if round_ is None:
            return  # it failed elsewhere meanwhile
        outcomes = {slot: _unpacked(kind, form) for slot, kind, form in told}
        if round_.is_set():
            if _failed(outcomes):
                self._dispatcher.fail(self._not_joined(node, round_, outcomes))
            return
        round_.made(node, outcomes)
        self._look(round_)

    def _not_joined(
        self, node: RemoteNode, round_: ClusterRound, outcomes: dict[int, Outcome]
    ) -> InitializerFailed:
        """Return the error for workers that came later and failed in a round: they failed to start."""
        error = InitializerFailed(
            f"{round_.known.name} (of run_on_all) of {self._dispatcher.engine.name} raised in the workers "
            f"of {node.name}, which joined later"
        )
        error.__cause__ = next(
            (value for kind, value in map(rebuild, outcomes.values()) if kind != VALUE), None
        )
        return error

    def _look(self, round_: ClusterRound) -> None:
        """Have no worker to come make a round that is over and has failed."""
        if round_.is_set() and round_.has_failed:
            del self._rounds[round_.number]
            for node in self._dispatcher.nodes.values():
                node.say(words.ROUND, round_.number, 0)

    def lost(self, node: RemoteNode) -> None:
        """Take note that a node is gone."""
        for round_ in list(self._rounds.values()):
            if not round_.is_set():
                round_.lost(node)
                self._look(round_)

    @property
    def is_under_way(self) -> bool:
        """Whether somebody waits for a round."""
        return any(not round_.is_set() for round_ in self._rounds.values())

    def give_up(self, error: BaseException) -> None:
        """Tell whoever waits for a round that no more workers will make it."""
        for round_ in self._rounds.values():
            round_.give_up(error)


def _failed(outcomes: dict[int, Outcome]) -> bool:
    return any(kind not in (VALUE, wire.OK, wire.OK_SEGMENT) for kind, _ in outcomes.values())


def _unpacked(kind: int, body: Any) -> Outcome:
    return kind, freight.unpack_error(body) if kind == RAISED else body
