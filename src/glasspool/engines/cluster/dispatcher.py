"""The dispatcher: hands tasks out to the nodes of a cluster and takes their ends in.

Owns: the ledger, and what it knows of each node (``RemoteNode``). Thread:
``NAME task-handler+result-handler``, started and stopped by the engine. It waits for its mailbox, into which
all others put what they have for it (tasks, calls, messages of agents, losses of nodes), and for what is due
at a time. It never waits in a send, and runs no code of the user's.

Invariants:

* each task is waiting here, or held by one node; a node that is lost holds nothing;
* a node holds few more tasks than it can run at once: what it has not begun cannot be told from what it
  has when it is lost, so all of it counts as begun.
"""

from __future__ import annotations

import functools
import heapq
import pickle
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasspool import batching
from glasspool.engines.cluster import freight, words
from glasspool.engines.cluster.balancing import Balance
from glasspool.engines.cluster.endings import Endings
from glasspool.engines.cluster.nodes import GONE, LEAVING, LOST, READY, STARTING, RemoteNode
from glasspool.engines.cluster.relaying import Relayed
from glasspool.engines.cluster.rounds import ClusterRounds
from glasspool.engines.cluster.silence import Silence
from glasspool.engines.intake import DRAINED, Intake
from glasspool.engines.local import events, kernel, payload, wire
from glasspool.engines.local.outcome import RAISED, settle
from glasspool.engines.local.timers import Timers
from glasspool.engines.local.workers import report_thread_error
from glasspool.errors import GlasspoolError, TaskCancelled, TaskTimeout, WorkerDied
from glasspool.ledger import CANCELLED, DONE, ENDED, FAILED, TIMEOUT, WAITING, Held, Task
from glasspool.ledger import LOST as LOST_END

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.cluster.journal import NodesJournal
    from glasspool.engines.local.slots import Change
    from glasspool.snapshot import TaskInfo

AHEAD_S = 0.05
"""A node is given tasks for so long ahead: what a message takes there and back, with room to spare."""

MOST_AHEAD = 1024
"""Not more tasks than these are with a node, but for one more for each place."""

LEAST_AHEAD_S = 0.005
"""Towards the end of the work, when nodes are given less: what a message takes there and back."""

REFILL = 4
"""A node is given more when a part of this many of what it may have is missing."""

HELD_BYTES = 64 << 20
"""Not more arguments than these are with a node, unless a single task has more."""

PING_SOON_S, PINGS_SOON = 0.2, 5
"""The clock of a node is asked for so soon in the beginning, so many times; later as ``silence`` wants."""

LEAVE_S = 5.0
"""After ``terminate`` nobody waits longer for the agents to end their pools."""


class NoLender:
    """Callers take no workers for themselves: these are on other machines."""

    is_lending = False
    done = failed = cancelled = 0

    def call(self, task: Task) -> bool:
        """Say that the task is to be submitted."""
        return False

    def hand_back(self) -> None:
        """Do nothing."""


class NoStall:
    """Nobody looks yet whether a pool on a cluster stalls."""

    watching = True


class Dispatcher(Intake):
    """The loop of the thread that owns the ledger of a pool on a cluster."""

    journal: NodesJournal | None

    def __init__(self, engine: ClusterEngine) -> None:
        super().__init__()
        self.engine: ClusterEngine = engine
        self._engine: ClusterEngine = engine
        self.state: str = "waiting for tasks and results"
        self.nodes: dict[str, RemoteNode] = {}
        self.talking: list[RemoteNode] = []  # those to which there is something to be sent
        self.gone: list[RemoteNode] = []
        self.lender: NoLender = NoLender()
        self.stall: NoStall = NoStall()
        self.timers: Timers = Timers()
        self.rounds: ClusterRounds = ClusterRounds(self)
        self.relayed: Relayed = Relayed(engine)
        self.endings: Endings = Endings()
        self.changes: list[Change] = []
        self.sharing: freight.Sharing = freight.Sharing(engine.link.put, self._unshare_later)
        self.bulk: dict[int, float] = {}  # bytes of a large result, by what was called
        self.asked: dict[int, Callable[[Any], None]] = {}
        self._silence = Silence()
        self._balance = Balance(self)
        # Tasks that nodes hold and are to interrupt. One may come back instead, or lose its node.
        self._cancelling: set[int] = set()
        self._poll = select.poll()
        self._poll.register(self.mailbox.fd, select.POLLIN)
        self._even = 0.0  # half of the even part of what is left, for each place
        self._ended = False
        self._crashed = False

    # The loop -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the pool has ended."""
        kernel.name_this_thread(self._engine.os_name("tasks+res"))
        while not self._ended:
            try:
                self._turn()
            except Exception as error:  # a fault of ours: nobody may wait for ever because of it
                self._crash(error)

    def _turn(self) -> None:
        mailbox = self.mailbox
        while not self._ended:
            self._work_off()
            if self._is_over():
                return  # it has just been told to: nobody rings any more
            self._move_on()
            timeout_s = 0.0 if mailbox.fall_asleep() else self.timers.next_s()
            rung = self._poll.poll(None if timeout_s is None else -(-timeout_s * 1000 // 1))
            mailbox.wake_up(bool(rung))
            self.timers.run_due()

    def _is_over(self) -> bool:
        return self._ended

    def _move_on(self) -> None:
        """Do what follows from what has come in."""
        if self.ledger.waiting:
            if self.draining:
                self._put_aside()
            else:
                self.hand_out()
        else:
            self._balance.consider()
        if self.closing and not self.stopped and self._is_finished():
            # What tasks of a failed pool do on their nodes is of no use to anybody.
            self._stop(hard=self.failure is not None)
        self._flush()  # last: all of the above may have something to say

    def _flush(self) -> None:
        talking = self.talking.copy()
        self.talking.clear()
        for node in talking:
            try:
                node.flush()
            except Exception as error:  # of the library: its agent cannot be reached
                why = f"nothing can be sent to it: {type(error).__name__}: {error}"
                self.mailbox.put(functools.partial(self.lost, node, why))
            if node.has_words and not node.is_over:
                self.talking.append(node)  # its agent has no seat yet

    def _crash(self, error: Exception) -> None:
        report_thread_error()
        if self._crashed:
            self._ended = self.stopped = True
            self._engine.stopping()
            return
        self._crashed = True
        why = GlasspoolError(f"an internal error ended the pool: {type(error).__name__}: {error}")
        why.__cause__ = error
        self.fail(why)

    # Handing out ----------------------------------------------------------------------------------

    def hand_out(self) -> None:
        """Give the tasks that wait to nodes that have room: first to places that are free."""
        self._deal(self._idle(len(self.ledger.waiting)), self._free)
        if not self.ledger.waiting:
            return
        line: list[_Place] = []  # made in one pass, as there may be a thousand nodes
        free: list[_Place] = []
        places = all_held = 0
        for number, node in enumerate(self.nodes.values()):
            if node.held is None or not node.is_usable:
                continue
            held = len(node.held.tasks)
            all_held += held
            places += node.places
            line.append((held / (node.places or 1), number, node))
            if held < node.places:
                free.append(line[-1])
        self._even = (len(self.ledger.waiting) + all_held) / (2.0 * max(1, places))
        self._deal(free, self._free)
        if self.ledger.waiting:
            self._deal([(_load(node), number, node) for _, number, node in line], self._ahead)

    def _idle(self, wanted: int) -> list[_Place]:
        """Return nodes that do nothing, with so many places; none if there are not enough of them.

        A few tasks for many nodes need no look at all of these: none has less than one that is idle.
        """
        line: list[_Place] = []
        if wanted > len(self.nodes):
            return line
        for number, node in enumerate(self.nodes.values()):
            if node.held is not None and not node.held.tasks and node.is_usable:
                line.append((0.0, number, node))
                wanted -= node.places
                if wanted <= 0:
                    return line
        return []

    def _deal(self, line: list[_Place], room_of: Callable[[RemoteNode, Task], int]) -> None:
        """Give to the node with the least for its places as long as it has room, then to the next."""
        first = self.ledger.next_waiting()
        heapq.heapify(line)
        while line and first is not None:
            _, number, node = line[0]
            room = room_of(node, first)
            if room > 0:
                self._give(node, first, room)
                heapq.heapreplace(line, (_load(node), number, node))
                first = self.ledger.next_waiting()
            else:
                heapq.heappop(line)

    def _free(self, node: RemoteNode, first: Task) -> int:
        return node.places - len(node.held or ())

    def _ahead(self, node: RemoteNode, first: Task) -> int:
        """Return how many tasks a node may have ahead of those that it runs.

        So many as it does in ``AHEAD_S``, but half of its even part of what is left at most, so that
        all nodes end together; then so many as it does while a message goes there and back. None as
        long as it has most of them: tasks that share a message cost a fraction.
        """
        pace, places = self.pace.get(first.call), node.places
        if node.bytes_held >= HELD_BYTES:
            return 0
        each_s = 1e9 / max(1.0, pace) if pace else 0.0
        ahead = min(AHEAD_S * each_s, max(self._even, LEAST_AHEAD_S * each_s)) * places
        if first.call in self.bulk:
            ahead = min(ahead, HELD_BYTES / self.bulk[first.call])
        most = places + max(places, min(MOST_AHEAD, int(ahead)))
        room = most - len(node.held or ())
        return room if room >= most // REFILL else 0

    def _give(self, node: RemoteNode, first: Task, room: int) -> None:
        """Send a node one row of tasks."""
        held = node.held
        if held is None:
            return
        if first.policy is None:
            row = self.ledger.send_row(held, room, max(1, HELD_BYTES - node.bytes_held))
        else:
            row = [self.ledger.send(held)]
        self._balance.moved = True
        going: list[Task] = []
        forms: list[Any] = []
        for task in row:
            try:
                form = task.payload
                if type(form) is payload.Parcel:
                    form = self._form_of(node, form)
            except Exception as error:  # no room here, or the cluster cannot keep it
                self.settle_here(task, freight.not_sent("its arguments", error), FAILED)
                continue
            going.append(task)
            forms.append(form)
            node.bytes_held += task.weight
        if not going or not self._introduced(node, going):
            return
        if self.journal is not None:
            self.journal.sent(going, time.monotonic_ns())
        timeout = None if first.policy is None else first.policy.timeout_s
        ids = [task.id for task in going]
        attempts = [task.attempts for task in going]
        items = [task.items for task in going]
        if not first.call:
            node.say(words.NAMES, ids, [task.job.function_name(task) for task in going])
        node.say(words.TASKS, first.call, first.kind, timeout, ids, attempts, items, forms)

    def _introduced(self, node: RemoteNode, row: list[Task]) -> bool:
        """Have a node know what some tasks call; if that cannot be had, they end."""
        call = row[0].call
        if not call or call in node.calls:
            return True
        try:
            self.introduce(node, call)
        except Exception as error:  # as above
            for task in row:
                node.bytes_held -= task.weight
                self.settle_here(task, freight.not_sent("its function", error), FAILED)
            return False
        return True

    def introduce(self, node: RemoteNode, call: int) -> None:
        """Tell a node a callable.

        Raises:
            Exception: There is no room for it here, or the cluster cannot keep it.
        """
        known = self._engine.callables.get(call)
        form = self._form_of(node, known.body, is_function=True)
        node.say(words.CALLABLE, call, known.name, known.flags, form)
        node.calls.add(call)

    def _form_of(self, node: RemoteNode, body: Any, is_function: bool = False) -> Any:
        """Return the form of arguments or of a function, whose memory goes along."""
        if type(body) is not payload.Parcel:
            return body
        form, shared = freight.pack(body, node.buffers, self.sharing, is_function)
        is_kept = is_function and len(self.nodes) > 1
        for number, view in shared:
            if number not in node.shared:
                node.buffers.append(self.sharing.memory(number, view, node.node, is_kept))
                node.shared.add(number)
                node.say(words.SHARE, number, len(node.buffers) - 1)
        return form

    def _unshare_later(self, number: int) -> None:
        self.mailbox.put(functools.partial(self._unshare, number))

    def _unshare(self, number: int) -> None:
        self.sharing.drop(number)
        for node in self.nodes.values():
            if number in node.shared:
                node.shared.discard(number)
                node.say(words.UNSHARE, number)

    def forget(self, number: int) -> None:
        """Have the nodes forget a callable whose job has ended."""
        self.bulk.pop(number, None)
        for node in self.nodes.values():
            if number in node.calls:
                node.calls.discard(number)
                node.say(words.FORGET, number)

    # What agents say ------------------------------------------------------------------------------

    def hear(self, node: RemoteNode, body: bytes, buffers: Sequence[Any], arrived_ns: int) -> None:
        """Take in a message of an agent (an item)."""
        if node.is_over:
            return  # what it says late counts for nothing: its tasks have ended, or are elsewhere
        self._balance.moved = True
        try:
            self._hear(node, body, buffers, arrived_ns)
        except Exception as error:  # no reason to end the whole pool
            report_thread_error()
            self.lost(node, f"it said what makes no sense: {type(error).__name__}: {error}")

    def _hear(self, node: RemoteNode, body: bytes, buffers: Sequence[Any], arrived_ns: int) -> None:
        for word in pickle.loads(body):
            kind = word[0]
            if kind == words.ENDS:
                self._take_ends(node, buffers, *word[1:])
            elif kind == words.WORKER:
                node.workers_told(*word[1:])
            elif kind == words.PIECE:
                node.coming.add(word[1], word[2], buffers[word[3]])
            elif kind == words.LOGS:
                self.relayed.record(node, word[1])
            elif kind == words.OUTPUTS:
                self._take_outputs(node, *word[1:])
            elif kind == words.PONG:
                node.clock.answered(word[1], word[2], arrived_ns)
            elif kind == words.HELLO:
                self._welcome(node, word[1])
            elif kind == words.BACK:
                self._take_back(node, word[1])
            elif kind == words.ANSWER:
                self._answered(*word[1:])
            elif kind == words.FAILED:
                self._node_failed(node, freight.unpack_error(word[1]))
            elif kind == words.GONE:
                self._node_gone(node)
            elif kind == words.EVENT:
                self.relayed.event(node, *word[1:])
            elif kind == words.MADE:
                self.rounds.told(node, *word[1:])
            elif kind == words.RESIZED:
                self._resized(node, word[1])

    def _take_ends(
        self,
        node: RemoteNode,
        buffers: Sequence[Any],
        ids: list[int],
        kinds: list[int],
        bodies: list[Any],
        keys: list[int],
        begun: list[int],
        ended: list[int],
    ) -> None:
        held = node.held
        if held is None:
            return
        if {*map(len, (kinds, bodies, keys, begun, ended))} != {len(ids)}:
            raise ValueError("ends of tasks that are not complete")  # before any of them counts
        node.tasks_done += len(ids)
        node.keeps_all = False
        if node.recalled:
            node.recalled.difference_update(ids)
        if max(kinds) <= wire.OK:
            self._settle_done(node, held, ids, kinds, bodies, keys, begun, ended)
        else:
            for one in zip(ids, kinds, bodies, keys, begun, ended, strict=True):
                self._settle_one(node, held, buffers, *one)
        if self._cancelling:
            self._cancelling.difference_update(ids)

    def _take_outputs(self, node: RemoteNode, ids: list[int], told: list[Any]) -> None:
        held, outputs = node.held, self._engine.outputs
        if held is not None and outputs is not None:
            outputs.take([held.tasks.get(one) for one in ids], told)

    def _settle_done(
        self,
        node: RemoteNode,
        held: Held,
        ids: list[int],
        kinds: list[int],
        bodies: list[Any],
        keys: list[int],
        begun: list[int],
        ended: list[int],
    ) -> None:
        """Settle tasks that are done; the loop runs once for each task of the pool's."""
        workers, offset, plain = node.workers, node.clock.offset_ns, wire.OK_PLAIN
        tasks = self.ledger.end_row(held, ids, DONE)
        if self.journal is not None:
            self.journal.done_there(node, tasks, kinds, bodies, keys, begun, ended)
        self.endings.add(node, DONE, tasks, keys, begun, ended)
        owner: Any = None
        alike: list[Task] = []
        rows = zip(tasks, kinds, bodies, keys, begun, ended, strict=True)
        for task, kind, body, key, begun_ns, ended_ns in rows:
            if task is None:
                continue
            task.worker = workers.get(key)
            task.begun_ns = begun_ns + offset
            task.ended_ns = ended_ns + offset
            task.outcome = body if kind == plain else (kind, body)
            task.ended_as = kind
            node.bytes_held -= task.weight
            if not task.kind & wire.PLAIN:
                task.payload = None
            if task.owner is None:
                task.notify()
            elif task.owner is owner:
                alike.append(task)
            else:
                if owner is not None:
                    owner.settle_row(alike)
                owner, alike = task.owner, [task]
        if owner is not None:
            owner.settle_row(alike)
        last = next((task for task in reversed(tasks) if task is not None), None)
        if last is not None:
            self._note_pace(last.call, sum(ended) - sum(begun), len(ids))

    def _settle_one(
        self,
        node: RemoteNode,
        held: Held,
        buffers: Sequence[Any],
        task_id: int,
        kind: int,
        form: Any,
        key: int,
        begun_ns: int,
        ended_ns: int,
    ) -> None:
        task = held.tasks.get(task_id)
        if task is None:
            node.coming.clear()  # it was ended here, and nobody wants what came
            return
        node.bytes_held -= task.weight
        try:
            body: Any = form
            if kind != wire.OK_PLAIN:
                body = freight.unpack_outcome(form, buffers, node.coming)
        except MemoryError as error:
            kind, body = RAISED, freight.pack_error(error)
        how = DONE if kind <= wire.OK_SEGMENT else FAILED
        tried = task.attempts
        if kind == RAISED:
            body = freight.unpack_error(body)
            how = self._end_of(node, task, body)
            if how not in (CANCELLED, FAILED) and self._may_go_on(task, type(body)):
                self._retry(held, task)
                return
        elif how == FAILED and self._is_wanted(task) and self.tries_anew(task, kind, body):
            self._retry(held, task)
            return
        here, worker = node.clock.here, node.workers.get(key)
        begun, ended = here(begun_ns), here(ended_ns)
        if self.journal is not None:
            is_counted = task.attempts > tried
            self.journal.ended_there(
                worker, task, how, begun, ended, kind, body, is_counted=is_counted
            )
        self.ledger.end(held, task_id, how)
        if begun_ns and ended_ns:  # else it has not begun there
            self.endings.add(node, how, (task,), (key,), (begun_ns,), (ended_ns,))
        settle(task, kind, body, worker, begun, ended)
        self._note_pace(task.call, ended_ns - begun_ns, 1)
        if kind == wire.OK_SEGMENT and task.call:
            self.bulk[task.call] = (self.bulk.get(task.call, len(body)) + len(body)) / 2

    def _retry(self, held: Held, task: Task) -> None:
        self.ledger.retry(held, task, time.monotonic_ns())
        events.task_event(self._engine, events.INFO, "task.retried", "is tried again", task, None)

    def _end_of(self, node: RemoteNode, task: Task, error: BaseException) -> str:
        """Return how a task ended by a decision of its node, and count the attempt."""
        if isinstance(error, WorkerDied):
            task.attempts += 1
            allowed = 1 if task.policy is None else 1 + task.policy.retries
            error.certificate = replace(
                error.certificate,
                pool=self._engine.name,
                node=node.name,
                task=_as_known_here(error.certificate.task, task),
                attempts=task.attempts,
                attempts_allowed=allowed,
            )
            error.args = (error.certificate,)
            self._engine.died(error.certificate)
            return LOST_END
        if isinstance(error, TaskTimeout):
            task.attempts += 1
            error.add_note(f"On the node {node.name}.")
            return TIMEOUT
        if isinstance(error, TaskCancelled):
            if self.by_hand and (said := self.by_hand.pop(task.id, "")):
                error.add_note(said)
            return CANCELLED
        return FAILED

    def _may_go_on(self, task: Task, error: type[BaseException]) -> bool:
        return self._is_wanted(task) and self.may_retry(task, error)

    def _is_wanted(self, task: Task) -> bool:
        return task.id not in self._cancelling

    def _note_pace(self, call: int, taken_ns: int, count: int) -> None:
        if not count or (call and self._engine.callables.find(call) is None):
            return
        measured, known = max(0, taken_ns) / count, self.pace.get(call)
        if known is not None and measured < known:
            # The way down is short: the first task of a worker imports, and few ahead make it wait.
            self.pace[call] = 0.3 * known + 0.7 * measured
        else:
            self.pace[call] = batching.new_pace(known, measured)

    def _take_back(self, node: RemoteNode, ids: list[int]) -> None:
        held = node.held
        if held is None:
            return
        node.recalled.clear()
        node.keeps_all = not ids
        tasks = [task for one in ids if (task := held.tasks.get(one)) is not None]
        for task in tasks:
            node.bytes_held -= task.weight
        self.ledger.take_back(held, tasks)
        for task in tasks:
            if task.id in self._cancelling:  # the two have crossed
                self._end_waiting(task)

    def ask(self, node: RemoteNode, question: dict[str, Any], take: Callable[[Any], None]) -> None:
        """Ask an agent something; ``take`` gets the reply, or None if the node is lost (an item)."""
        if node.is_over:
            take(None)
            return
        number = self._engine.next_id()
        self.asked[number] = take
        node.asked.add(number)
        node.say(words.ASK, number, question)

    def _answered(self, number: int, reply: Any) -> None:
        take = self.asked.pop(number, None)
        if take is not None:
            take(reply)

    # Life and death of nodes ------------------------------------------------------------------------

    def join(self, node: RemoteNode) -> None:
        """Take a node in whose agent is about to start (an item)."""
        self.nodes[node.key] = node
        limit_s = self._engine.start_limit_s
        self.timers.later(limit_s, lambda: self._look_at_start(node, limit_s))
        if self.stopped:
            self._end_unready(node)

    def _look_at_start(self, node: RemoteNode, limit_s: float) -> None:
        if node.state == STARTING:
            self.lost(node, f"its workers did not start within {limit_s:.0f} s")

    def _end_unready(self, node: RemoteNode) -> None:
        """End an agent that has no workers yet. It may be long in making them: nobody waits for it."""
        node.state = GONE
        self._leave(node)

    def _welcome(self, node: RemoteNode, about: dict[str, Any]) -> None:
        """Take note that the agent's pool is there."""
        node.about = about
        node.places = int(about["places"])
        node.staffed = int(about["size"])
        node.held = self.ledger.join()
        if node.state == STARTING:
            node.state = READY
            self.rounds.welcome(node)
            if node.staffed != node.processes:
                self.resize(node, node.processes)
        self._ping(node)
        events.node_joined(self._engine, node.name, node.staffed)
        self._engine.node_ready(node)
        self._see_changes()

    def _ping(self, node: RemoteNode, due: float = 0.0) -> None:
        """Ask for the clock of a node, now and from time to time: also to see that it is alive."""
        if node.is_over:
            return
        count = node.pings = node.pings + 1
        if self._silence.look(node, due):
            self.lost(node, f"its agent has not answered for {self._silence.limit_s:.0f} s")
            return
        node.say(words.PING, time.monotonic_ns())
        pause_s = PING_SOON_S if count < PINGS_SOON else self._silence.ping_s
        due = time.monotonic() + pause_s
        self.timers.later(pause_s, lambda: self._ping(node, due))

    def _node_failed(self, node: RemoteNode, error: BaseException) -> None:
        """An agent could not make its pool, or its pool has failed: so has this one, as a local one has.

        But a node that comes later and is not fit for the pool is left out.
        """
        error.add_note(f"On the node {node.name}.")
        if self._engine.start_failed(node, error):
            return
        if node.places:
            self.fail(error)
        else:
            self.lost(node, f"{type(error).__name__}: {error}")

    def _node_gone(self, node: RemoteNode) -> None:
        """An agent's pool has ended, as it was told to."""
        if node.state not in (LEAVING, LOST) or node.held:
            self.lost(node, "its pool ended without being told to")
            return
        node.state = GONE
        events.node_left(self._engine, node.name)
        self._drop_held(node)
        self._leave(node)

    def _drop_held(self, node: RemoteNode) -> None:
        held, node.held = node.held, None
        if held is not None:
            self.ledger.bury(held, lambda task: True)  # there is none

    def lost(self, node: RemoteNode, why: str) -> None:
        """Take a node out: what it held may have begun, and ends or is tried anew elsewhere (an item)."""
        if node.is_over:
            return
        was_leaving = node.state == LEAVING
        node.state, node.why = LOST, why
        held, node.held = node.held, None
        node.recalled.clear()
        self._leave(node)
        if not was_leaving:
            self._engine.node_lost(node, 0 if held is None else len(held))
        if held is not None:
            for task in self.ledger.bury(held, lambda task: True):
                self._lose(node, held, task)

    def _lose(self, node: RemoteNode, held: Held, task: Task) -> None:
        is_wanted = self._is_wanted(task)
        self._cancelling.discard(task.id)
        if is_wanted and self.may_retry(task, WorkerDied):
            self._retry(held, task)
            return
        certificate = self._engine.certify(node, task)
        self.settle_here(task, WorkerDied(certificate), LOST_END)

    def _leave(self, node: RemoteNode) -> None:
        self.nodes.pop(node.key, None)
        self.gone.append(node)
        self.rounds.lost(node)
        self._see_changes()
        for number in node.asked:
            self._answered(number, None)
        node.asked.clear()
        self._engine.node_left(node)
        if self.stopped and not self.nodes:
            self._engine.stopping()

    def resize(self, node: RemoteNode, processes: int) -> None:
        """Change the number of workers of a node (an item)."""
        if node.state == READY:
            node.places = processes * self._engine.options.threads
            node.staffed = min(node.staffed, processes)
            node.say(words.RESIZE, processes, self._engine.variables.of_slots(processes))

    def _resized(self, node: RemoteNode, processes: int) -> None:
        """Take note that the workers of a node have processes."""
        if processes == node.processes:
            node.staffed = processes
        self._see_changes()

    def await_workers(self, change: Change) -> None:
        """Tell when all workers have a process that nodes are to have now (an item)."""
        if self.stopped or self.failure is not None:
            change.give_up(self.failure or ValueError("Pool not running"))
            return
        self.changes.append(change)
        self._see_changes()

    def _see_changes(self) -> None:
        if not self.changes:
            return  # the rule; a thousand nodes that join would be looked through a thousand times
        lacking = (STARTING, READY)
        if any(n.state in lacking and n.staffed < n.processes for n in self.nodes.values()):
            return
        changes, self.changes = self.changes, []
        for change in changes:
            change.arranged.set()

    def _give_up_changes(self, error: BaseException) -> None:
        changes, self.changes = self.changes, []
        for change in changes:
            change.give_up(error)
        self.rounds.give_up(error)

    def cluster_lost(self, error: BaseException) -> None:
        """End everything: nobody can tell any more which nodes there are (an item)."""
        self.fail(error)
        self._stop(hard=True)

    def dismiss(self, node: RemoteNode) -> None:
        """Have a node leave that is not wanted any more: what it has not begun goes elsewhere (an item)."""
        if node.state == STARTING:
            self._end_unready(node)
        elif node.state == READY:
            node.state = LEAVING
            self._recall(node)
            node.say(words.CLOSE)

    def _recall(self, node: RemoteNode) -> None:
        if node.held:
            node.recalled.update(node.held.tasks)
            node.say(words.RECALL, list(node.held.tasks))

    # Ends by decision -------------------------------------------------------------------------------

    def _holder(self, task: Task) -> RemoteNode | None:
        held = task.holder
        if held is None:
            return None
        return next((node for node in self.nodes.values() if node.held is held), None)

    def cancel(self, task: Task) -> None:
        """End a task that waits, and have one that a node holds interrupted (an item)."""
        if task.state == ENDED:
            return
        node = self._holder(task)
        if node is not None:
            self._cancelling.add(task.id)
            node.say(words.CANCEL, [task.id], "")
            return
        self._end_waiting(task)

    def _end_waiting(self, task: Task) -> None:
        self._cancelling.discard(task.id)
        what = f"task {task.id} ({task.job.function_name(task)})"
        error = TaskCancelled(f"{what} was cancelled before it began.")
        self.settle_here(task, error, CANCELLED)

    def withdraw(self, task: Task) -> bool:
        """End a task that waits here; False if a node has it, where it may have begun (an item)."""
        if task.state != WAITING:
            return False
        self.cancel(task)
        return True

    def close(self) -> None:
        """End the pool once there is nothing left to do (an item)."""
        self.closing = True
        for job in list(self.feeds.values()):
            job.wake_feed()  # no reader bounds it any more

    def drain(self) -> None:
        """Begin no more tasks, and end the pool once those that run have ended (an item)."""
        if self.stopped:
            return
        self.closing = self.draining = True
        for job in list(self.feeds.values()):
            job.abort(TaskCancelled(DRAINED))
        for node in self.nodes.values():
            self._recall(node)
        self._put_aside()

    def _is_finished(self) -> bool:
        if self.ledger.open or self.feeds or self.mailbox.items:
            return False
        return not self.rounds.is_under_way

    def terminate(self, error: BaseException) -> None:
        """End everything that has not ended, with an error, and the pool (an item)."""
        self._end_all(error, CANCELLED)
        self._stop(hard=True)

    def fail(self, error: BaseException) -> None:
        """End everything that has not ended, and all that will be submitted, with an error."""
        if self.failure is None:
            self.failure = error
            self._engine.failed(error)
            events.pool_failed(self._engine, error)
        self._give_up_changes(error)
        self._end_all(error, FAILED)

    def _stop(self, hard: bool) -> None:
        was_stopped, self.stopped = self.stopped, True
        self._give_up_changes(ValueError("Pool not running"))
        if not was_stopped:
            self._engine.look_for_the_last_time()
        for node in list(self.nodes.values()):
            if node.state == STARTING:
                self._end_unready(node)
                continue
            if hard:
                node.say(words.TERMINATE, "the pool was terminated")
            elif node.state != LEAVING:
                node.say(words.CLOSE)
            node.state = LEAVING
        if hard:
            self.timers.later(LEAVE_S, self._give_up_nodes)
        if not self.nodes:
            self._engine.stopping()

    def _give_up_nodes(self) -> None:
        for node in list(self.nodes.values()):
            self.lost(node, "its agent did not end in time")

    def end(self) -> None:
        """Leave the loop for good (an item)."""
        self._end_all(TaskCancelled("the pool has ended"), CANCELLED)
        self._ended = self.stopped = True
        self.sharing.clear()

    def dispose(self) -> None:
        """Close what the loop waited on; after its end."""
        self.mailbox.close()


def _as_known_here(told: TaskInfo | None, task: Task) -> TaskInfo | None:
    """Return what a node tells of a task, with what only the driver knows: its place in the user's call."""
    if told is None:
        return None
    job = task.job
    return replace(told, job=job.job_id, index=task.index, function=job.function_name(task))


_Place = tuple[float, int, RemoteNode]
"""A node in line for tasks: first the one that has the least for its places."""


def _load(node: RemoteNode) -> float:
    """Return how much a node holds for its places."""
    return len(node.held or ()) / max(1, node.places)
