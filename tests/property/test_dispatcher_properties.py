"""The dispatcher of a cluster under any row of events: every task ends once, and none is forgotten."""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glasspool.engines.cluster import dispatcher as dispatching
from glasspool.engines.cluster import freight, words
from glasspool.engines.cluster.dispatcher import Dispatcher
from glasspool.engines.cluster.link import Message, Node
from glasspool.engines.cluster.nodes import Ear, RemoteNode
from glasspool.engines.local import wire
from glasspool.engines.local.outcome import RAISED
from glasspool.errors import TaskCancelled, TaskTimeout, WorkerDied
from glasspool.ledger import ENDED, OPEN, Part, Task
from glasspool.options import Policy
from glasspool.snapshot import DeathCertificate

pytestmark = pytest.mark.one_python

MOST_NODES = 3


def certificate_of(node: str) -> DeathCertificate:
    """Return a certificate as an agent, or the driver, makes them."""
    return DeathCertificate(
        pid=1,
        slot=0,
        cause="was killed",
        task=None,
        attempts=1,
        died_at=0.0,
        pool="p",
        attempts_allowed=1,
        node=node,
    )


class Job:
    """Counts the ends of its tasks."""

    job_id = 1

    _aborted = False

    def __init__(self) -> None:
        self.ends: Counter[int] = Counter()

    def settle_row(self, tasks: Sequence[Task]) -> None:
        """Take ends."""
        self.ends.update(task.id for task in tasks)

    def function_name(self, task: Task) -> str:
        """Return a name."""
        return "f"

    def label(self) -> str:
        """Return a word for it."""
        return "the job"

    def abort(self, error: BaseException) -> None:
        """Do nothing."""


class ScriptedAgent:
    """A seat, and the agent in it: it does what the test wants, at the moment when the test wants it.

    ``coming``: what the driver has said and it has not heard. ``going``: what it has said and the driver
    has not heard. ``unbegun`` and ``begun``: its tasks.
    """

    def __init__(self, cancelled: set[int]) -> None:
        self._cancelled = cancelled
        self.wrong: set[int] = set()
        self.coming: deque[list[tuple[Any, ...]]] = deque()
        self.going: deque[tuple[Any, ...]] = deque()
        self.unbegun: dict[int, None] = {}
        self.begun: dict[int, None] = {}
        self.is_alive = True
        self.is_ready = False
        self.is_leaving = False

    def send(self, message: Message) -> None:
        """Keep what the driver says."""
        said = pickle.loads(message.body)
        sent = {one for word in said if word[0] == words.TASKS for one in word[4]}
        self.wrong |= sent & self._cancelled  # it is handed out again
        self.coming.append(said)

    def end(self, grace_s: float) -> None:
        """Be gone."""
        self.is_alive = False

    def hear_one(self) -> None:
        """Do what the next message says."""
        for word in self.coming.popleft():
            if word[0] == words.TASKS:
                self.wrong |= {*word[4]} & {*self.unbegun, *self.begun}
                self.unbegun.update(dict.fromkeys(word[4]))
            elif word[0] == words.RECALL:
                back = [one for one in word[1] if one in self.unbegun]
                for one in back:
                    del self.unbegun[one]
                self.going.append((words.BACK, back))
            elif word[0] == words.CANCEL:
                for one in word[1]:
                    if one in self.unbegun or one in self.begun:
                        self.tell_end(one, TaskCancelled("it was cancelled"))
            elif word[0] == words.CLOSE:
                self.is_leaving = True
            elif word[0] == words.TERMINATE:
                for one in [*self.unbegun, *self.begun]:
                    self.tell_end(one, TaskCancelled("terminated"))
                self.is_leaving = True
        self.may_go()

    def begin(self) -> None:
        """Begin the next task."""
        one = next(iter(self.unbegun))
        del self.unbegun[one]
        self.begun[one] = None

    def tell_end(self, task_id: int, error: BaseException | None = None) -> None:
        """Say that a task has ended."""
        self.unbegun.pop(task_id, None)
        self.begun.pop(task_id, None)
        kind = wire.OK_PLAIN if error is None else RAISED
        body = None if error is None else freight.pack_error(error)
        self.going.append((words.ENDS, [task_id], [kind], [body], [0], [1], [2]))
        self.may_go()

    def may_go(self) -> None:
        """Say that the pool has ended, if it is to and nothing is left."""
        if self.is_leaving and not self.unbegun and not self.begun:
            self.is_leaving = False
            self.going.append((words.GONE,))


class DispatcherMachine(RuleBasedStateMachine):
    """Does with a dispatcher what users, agents and nodes may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.job = Job()
        self.tasks: list[Task] = []
        self.cancelled: set[int] = set()
        self.agents: dict[RemoteNode, ScriptedAgent] = {}
        self.ids = iter(range(1, 1 << 30))
        self.has_stopped = False
        self.engine = mock.MagicMock(  # what is not told here does nothing
            logs=mock.MagicMock(elsewhere=None),
            outputs=None,
            link=SimpleNamespace(put=bytes),
            options=SimpleNamespace(threads=1),
            callables=SimpleNamespace(find=lambda number: None),
            look_for_the_last_time=lambda: None,
            start_limit_s=1e6,
            next_id=lambda: next(self.ids),
            node_ready=lambda node: None,
            start_failed=lambda node, error: False,
            node_lost=lambda node, held: None,
            node_left=lambda node: node.seat.end(0.0),
            certify=lambda node, task: certificate_of(node.name),
            died=lambda certificate: None,
            failed=lambda error: None,
            run_shutdown_hook=lambda: None,
            stopping=self._stopping,
        )
        self.dispatcher = Dispatcher(self.engine)  # type: ignore[arg-type]
        # Nonsense is told as a fault of a thread, and here it is on purpose.
        self.quiet = mock.patch.object(dispatching, "report_thread_error")
        self.quiet.start()

    def _stopping(self) -> None:
        self.has_stopped = True

    def _turn(self) -> None:
        self.dispatcher._work_off()
        self.dispatcher._move_on()

    def _alive(self) -> list[tuple[RemoteNode, ScriptedAgent]]:
        return [pair for pair in self.agents.items() if not pair[0].is_over]

    def _pick(self, data: st.DataObject, row: Sequence[Any]) -> Any:
        return row[data.draw(st.integers(0, len(row) - 1))]

    @initialize(count=st.integers(1, 2))
    def start(self, count: int) -> None:
        """Begin with some nodes and tasks; one node is not ready yet."""
        for _ in range(count):
            self.join()
            agent = list(self.agents.values())[-1]
            agent.is_ready = True
            agent.going.append((words.HELLO, {"places": 2, "size": 2, "pid": 1}))
        for node, agent in self.agents.items():
            Ear(self.dispatcher, node).arrived(pickle.dumps([agent.going.popleft()]), ())
        self._turn()
        assert all(node.is_usable for node in self.agents)
        self.join()
        self.submit(8, 1)
        self.submit(8, 0)

    @precondition(lambda self: len(self._alive()) < MOST_NODES)
    @rule()
    def join(self) -> None:
        """A node comes."""
        number = len(self.agents)
        node = Node(f"n{number}", f"node{number}", "h", 2)
        remote = RemoteNode(node, 2, self.dispatcher.talking)
        remote.seat = self.agents[remote] = ScriptedAgent(self.cancelled)
        self.dispatcher.join(remote)
        self._turn()

    @precondition(lambda self: any(not agent.is_ready for _, agent in self._alive()))
    @rule(data=st.data())
    def get_ready(self, data: st.DataObject) -> None:
        """An agent has its workers."""
        _, agent = self._pick(data, [pair for pair in self._alive() if not pair[1].is_ready])
        agent.is_ready = True
        agent.going.append((words.HELLO, {"places": 2, "size": 2, "pid": 1}))

    @rule(count=st.integers(1, 12), retries=st.integers(0, 2))
    def submit(self, count: int, retries: int) -> None:
        """The user hands tasks in."""
        policy = Policy(None, retries) if retries else None
        row: list[Task] = []
        for _ in range(count):
            kind = wire.APPLY | wire.PLAIN
            row.append(Part(next(self.ids), self.job, 0, 1, 0, kind, (), 1, 0, policy))
        self.tasks += row
        self.dispatcher.mailbox.put(list(row))
        self._turn()

    @precondition(lambda self: any(agent.coming for _, agent in self._alive()))
    @rule(data=st.data())
    def reach_agent(self, data: st.DataObject) -> None:
        """A message reaches its agent."""
        _, agent = self._pick(data, [pair for pair in self._alive() if pair[1].coming])
        if agent.is_ready:
            agent.hear_one()

    @precondition(lambda self: any(agent.going for agent in self.agents.values()))
    @rule(data=st.data(), twice=st.booleans())
    def reach_driver(self, data: st.DataObject, twice: bool) -> None:
        """A message reaches the driver, perhaps twice, perhaps of a node that has been given up."""
        node, agent = self._pick(data, [pair for pair in self.agents.items() if pair[1].going])
        word = agent.going.popleft()
        told = pickle.dumps([word])
        for _ in range(1 + (twice and word[0] == words.ENDS)):
            Ear(self.dispatcher, node).arrived(told, ())
        self._turn()

    @precondition(lambda self: any(agent.unbegun for _, agent in self._alive()))
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """A worker of a node begins a task."""
        _, agent = self._pick(data, [pair for pair in self._alive() if pair[1].unbegun])
        agent.begin()

    @precondition(lambda self: any(agent.begun for _, agent in self._alive()))
    @rule(data=st.data(), how=st.sampled_from(["done", "done", "died", "timeout"]))
    def end(self, data: st.DataObject, how: str) -> None:
        """A task ends on its node."""
        _, agent = self._pick(data, [pair for pair in self._alive() if pair[1].begun])
        error: BaseException | None = None
        if how == "died":
            error = WorkerDied(certificate_of("there"))
        elif how == "timeout":
            error = TaskTimeout("too long")
        agent.tell_end(self._pick(data, list(agent.begun)), error)

    @precondition(lambda self: self._alive())
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A node is lost; what it has said on the way may arrive, or not."""
        node, _ = self._pick(data, self._alive())
        Ear(self.dispatcher, node).lost("it was killed")
        self._turn()

    @precondition(lambda self: self._alive())
    @rule(data=st.data())
    def say_nonsense(self, data: st.DataObject) -> None:
        """An agent says what makes no sense: it is given up, and the pool goes on."""
        node, _ = self._pick(data, self._alive())
        held = list(node.held.tasks) if node.held else []
        word: Any = data.draw(
            st.sampled_from(
                [
                    None,
                    (words.ENDS, held, [0] * len(held), [], [], [], []),
                    (words.BACK,),
                    (words.PONG, "x", 1),
                ]
            )
        )
        node_was_ready = bool(held or word is None)
        Ear(self.dispatcher, node).arrived(pickle.dumps([word]), ())
        self._turn()
        assert node.is_over or not node_was_ready

    @precondition(lambda self: self._alive())
    @rule(data=st.data())
    def dismiss(self, data: st.DataObject) -> None:
        """A node is not wanted any more."""
        node, _ = self._pick(data, self._alive())
        self.dispatcher.dismiss(node)
        self._turn()

    @rule()
    def balance(self) -> None:
        """It is time to look who has too much."""
        self.dispatcher._balance._look()
        self._turn()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """The user cancels a task."""
        task = self._pick(data, [task for task in self.tasks if task.state != ENDED] or self.tasks)
        if task.state != ENDED:
            self.cancelled.add(task.id)
        self.dispatcher.cancel(task)
        self._turn()

    @rule(how=st.sampled_from(["close", "drain", "terminate", "fail"]), really=st.integers(0, 9))
    def end_pool(self, how: str, really: int) -> None:
        """The user ends the pool, or it fails; seldom."""
        if really:
            return
        if how in ("terminate", "fail"):
            getattr(self.dispatcher, how)(TaskCancelled(how))
        else:
            getattr(self.dispatcher, how)()
        self._turn()

    @invariant()
    def is_sound(self) -> None:
        """Each task is in one place; those that have ended have been told once."""
        dispatcher = self.dispatcher
        dispatcher.ledger.check()
        assert not dispatcher._crashed
        assert not any(agent.wrong for agent in self.agents.values())
        assert all(self.job.ends[task.id] == (task.state == ENDED) for task in self.tasks)
        helds = {id(node.held) for node in dispatcher.nodes.values() if node.held is not None}
        assert {id(held) for held in dispatcher.ledger.holders} == helds
        for node in dispatcher.nodes.values():
            assert node.held is not None or not node.is_usable

    def teardown(self) -> None:
        """With a node that works on, everything ends, and the pool with it."""
        if not self._alive():
            self.join()
        while any(not agent.is_ready for _, agent in self._alive()):
            for _, agent in self._alive():
                if not agent.is_ready:
                    agent.is_ready = True
                    agent.going.append((words.HELLO, {"places": 2, "size": 2, "pid": 1}))
        self._work_on()
        if not self.dispatcher.stopped and any(n.is_usable for n, _ in self._alive()):
            assert not self.dispatcher.ledger.open, "a task was forgotten"
        if not self.dispatcher.stopped:
            if not any(n.is_usable for n, _ in self._alive()):
                self.dispatcher.fail(TaskCancelled("no node"))
            self.dispatcher.close()
            self._turn()
        self._work_on()
        assert not self.dispatcher.ledger.open
        assert self.has_stopped
        self.is_sound()
        self.dispatcher.dispose()
        self.quiet.stop()

    def _work_on(self) -> None:
        """Let all agents do what they are told until nothing moves."""
        moves = True
        while moves:
            moves = False
            for node, agent in self._alive():
                while agent.coming or agent.begun or agent.unbegun or agent.going:
                    moves = True
                    while agent.coming:
                        agent.hear_one()
                    for one in [*agent.begun, *agent.unbegun]:
                        agent.tell_end(one)
                    while agent.going and not node.is_over:
                        Ear(self.dispatcher, node).arrived(
                            pickle.dumps([agent.going.popleft()]), ()
                        )
                    self._turn()
                    if node.is_over:
                        break


DispatcherMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestDispatcher = DispatcherMachine.TestCase


def machine_with(retries: int) -> tuple[DispatcherMachine, RemoteNode, ScriptedAgent]:
    """Return a dispatcher with one node that holds two tasks and has begun none."""
    machine = DispatcherMachine()
    machine.join()
    ((node, agent),) = machine.agents.items()
    Ear(machine.dispatcher, node).arrived(
        pickle.dumps([(words.HELLO, {"places": 2, "size": 2, "pid": 1})]), ()
    )
    machine.submit(2, retries)
    agent.is_ready = True
    while agent.coming:
        agent.hear_one()
    assert len(agent.unbegun) == 2
    return machine, node, agent


def finish(machine: DispatcherMachine) -> None:
    """Everything ends, the first task as cancelled."""
    machine.is_sound()
    machine.teardown()
    first, second = machine.tasks
    assert isinstance(first.outcome[1], TaskCancelled | WorkerDied)
    assert second.ended_as != OPEN


def test_cancel_crosses_recall() -> None:
    """A task that its node gives back while the order to cancel it is on its way does not run again."""
    machine, _, agent = machine_with(0)
    machine.dispatcher._recall(next(iter(machine.agents)))
    machine._turn()
    agent.hear_one()  # it gives them back
    machine.dispatcher.cancel(machine.tasks[0])
    machine.cancelled.add(machine.tasks[0].id)
    machine._turn()
    finish(machine)


def test_cancelled_and_lost() -> None:
    """A task whose node is lost while the order to cancel it is on its way is not tried anew."""
    machine, node, _ = machine_with(1)
    machine.dispatcher.cancel(machine.tasks[0])
    machine.cancelled.add(machine.tasks[0].id)
    Ear(machine.dispatcher, node).lost("it was killed")
    machine._turn()
    assert machine.tasks[0].state == ENDED
    assert machine.tasks[1].state != ENDED
    finish(machine)
