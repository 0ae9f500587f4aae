"""The engine of a pool on a cluster: the driver's parts, put together.

Owns: the link to the cluster, the order by which agents are made, the list of nodes that are wanted, and the
order in which all of it ends. Threads, beside the library's own:

* ``NAME worker-handler`` (this module) asks the link once a second which nodes there are, puts agents on
  them and takes them off: all that may block in the library;
* ``NAME task-handler+result-handler`` (``dispatcher``) owns the ledger;
* ``NAME callback`` runs the user's callbacks, one after the other.

Shutdown order: the dispatcher ends or cancels every task and tells the agents to end their pools; when the
last one is gone, the worker-handler ends the seats, stops the dispatcher, lets go of the cluster, and turns
``done``.

It has the attributes that the pool, results, feeds and views need of an engine, under the names of
``LocalEngine``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pickle
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool import registry
from glasspool.engines.base import CAPABILITIES, Capabilities
from glasspool.engines.cluster import agent, placing, words
from glasspool.engines.cluster.asking import Asking
from glasspool.engines.cluster.dispatcher import Dispatcher
from glasspool.engines.cluster.link import Link, LinkLost, Node, NoSeat
from glasspool.engines.cluster.nodes import LOST, READY, STARTING, Ear, RemoteNode
from glasspool.engines.cluster.reception import Reception
from glasspool.engines.cluster.relaying import NodeOutputs
from glasspool.engines.cluster.rounds import ClusterRound
from glasspool.engines.cluster.variables import SlotVariables
from glasspool.engines.local import events, interactive, kernel, payload
from glasspool.engines.local.callables import Callables, Known
from glasspool.engines.local.forwarding import Levels
from glasspool.engines.local.logs import Logs
from glasspool.engines.local.payload import callable_name
from glasspool.engines.local.slots import Change
from glasspool.engines.local.workers import new_thread, report_thread_error
from glasspool.engines.threads.callbacks import Callbacks
from glasspool.errors import EngineUnavailable, GlasspoolError, InitializerFailed, TaskCancelled
from glasspool.latch import Latch
from glasspool.ledger import Task
from glasspool.options import PoolOptions

if TYPE_CHECKING:
    from glasspool.engines.cluster.journal import NodesJournal
    from glasspool.engines.local.showing import Showing
    from glasspool.feeding import Feed
    from glasspool.observe.node_pictures import Reply
    from glasspool.snapshot import DeathCertificate

START_LIMIT_S = 120.0
"""So long the first agents may take to start: a node may have to load all that its workers import."""

NO_NODE_S = 120.0
"""Tasks wait no longer for a node when there is none."""

MOST_STARTS = 3
"""So often an agent is started on a node on which it is lost before it has workers."""

LOOK_S = 1.0
"""So often the link is asked which nodes there are."""

END_GRACE_S = 3.0

RESIZE_LIMIT_S = 60.0

REFUSED_S = 60.0
"""Nodes on which there was no place for workers are tried again so often."""

HANDLER, COLLECTOR = "worker-handler", "task-handler+result-handler"


class ClusterPlan(NamedTuple):
    """What a pool on a cluster is to be, as its constructor was told."""

    name: str
    number: int
    engine: str
    total: int | None
    per_node: int | None
    start_method: str
    maxtasksperchild: int | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    made_at: str
    options: PoolOptions
    kind: str = "glasspool.Pool"


class ClusterEngine:
    """A pool on a cluster without its user interface."""

    is_threads = False
    is_cluster = True
    cells = None

    def __init__(self, plan: ClusterPlan, link: Link) -> None:
        self.link: Link = link
        self.can: Capabilities = CAPABILITIES[plan.engine]
        self.plan: ClusterPlan = plan
        self.name: str = plan.name
        self.number: int = plan.number
        self.pid: int = os.getpid()
        self.made_at: str = plan.made_at
        self.kind: str = plan.kind
        self.options: PoolOptions = plan.options
        self.start_method: str = plan.start_method
        self.maxtasksperchild: int | None = plan.maxtasksperchild
        self.initializer: str | None = (
            None if plan.initializer is None else callable_name(plan.initializer)
        )
        self.done: Latch = Latch()
        self.is_usable: bool = True
        self.cut_short: bool = False
        self.callers: dict[int, tuple[str, float]] = {}
        self.feeders: dict[threading.Thread, Feed] = {}
        self.deaths: deque[DeathCertificate] = deque(maxlen=100)
        self.died_in_all: int = 0
        self.on_shutdown: Callable[[Any], None] | None = None
        self.on_disposed: Callable[[Any], None] | None = None
        self.notes: list[str] = []
        self.next_id: Callable[[], int] = itertools.count(1).__next__
        self.callables: Callables = FarCallables(lambda number, name: None)
        self.callbacks: Callbacks = Callbacks(
            self.name, self.os_name("callback"), self._run_callback
        )
        self.outputs: NodeOutputs | None = NodeOutputs() if plan.options.capture_output else None
        self.logs: Logs = Logs(self, False)  # type: ignore[arg-type]  # under the same names
        self.variables: SlotVariables = SlotVariables(plan.options)
        self.total: int | None = plan.total
        self.per_node: int | None = plan.per_node
        self.state: str = "connecting"
        self._showing: dict[str, Showing] = {}
        self._order: bytes = b""
        self._seated: dict[str, RemoteNode] = {}  # by the id of the node; the worker-handler's
        self._refused: dict[str, str] = {}  # nodes on which there is no place, and why
        self._leaving: dict[
            str, RemoteNode
        ] = {}  # dismissed: until they have left, they get no other
        self._starts: dict[
            str, int
        ] = {}  # how often an agent was lost on a node before it had workers
        self._alone_since: float | None = None  # there is no node, and tasks wait
        self._started: Latch = Latch()
        self._start_error: BaseException | None = None
        self._finishing: bool = False
        self._are_left_behind = False  # nodes that are wanted again, and have not left yet
        self._changes: set[Change] = set()  # that somebody waits for
        # Of these, what nodes have not been told; the worker-handler's.
        self._changing: list[Change] = []
        self._known: list[Node] = []  # the nodes that may have workers, when it looked last
        self._refused_at = 0.0
        interactive.begin(plan.number, interactive.ELSEWHERE)
        self.collector: Dispatcher = Dispatcher(self)
        self.threads: dict[str, threading.Thread] = {}
        self.reception: Reception = Reception(self)

    # Starting -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Put an agent on each node; returns when all of them have their workers, or one failed.

        Raises:
            Exception: The pool cannot be had there. The engine has ended then.
        """
        self._order = self._packed_order()
        if self.variables.differ:  # here, as it runs the user's code
            self.variables.prepare(self._most_slots(self.total, self.per_node))
        self.reception.open()
        for role, loop in ((HANDLER, self._run), (COLLECTOR, self.collector.run)):
            self.threads[role] = new_thread(loop, f"{self.name} {role}")
            self.threads[role].start()
        limit = self.options.start_timeout_s or START_LIMIT_S
        if not self._started.wait(limit) and self._seated and limit < START_LIMIT_S:
            # The limit is for workers; before them their agents have to start, too.
            limit = START_LIMIT_S
            self._started.wait(limit)
        if not self._started.is_set():
            self._start_error = EngineUnavailable(
                f"{self.name} has no worker after {limit:.0f} s. {self._what_is_missing()}"
            )
        if self._start_error is not None:
            self.terminate("the pool was not made")
            self.done.wait(10.0)
            raise self._start_error
        events.pool_started(self)

    def _most_slots(self, total: int | None, per_node: int | None) -> int:
        """Return how many slots the node has that has most of them; the cluster is asked for its nodes.

        Raises:
            LinkLost: It does not answer.
        """
        return max(placing.shares(self.link.nodes(), total, per_node).values(), default=0)

    @property
    def start_limit_s(self) -> float:
        """So long an agent may take to start, with its workers."""
        return START_LIMIT_S + (self.options.start_timeout_s or 0.0)

    def _what_is_missing(self) -> str:
        said = [f"{node.name}: {node.state}" for node in list(self._seated.values())]
        said += [f"{name}: {why}" for name, why in self._refused.items()]
        return "Its nodes: " + ("; ".join(said) if said else f"none ({self.link.address})") + "."

    def _packed_order(self) -> bytes:
        """Return what agents are made of.

        Raises:
            Exception: The initializer, its arguments or the finalizer cannot be pickled.
        """
        plan, told = self.plan, self.options
        order: tuple[Any, ...] = (
            words.VERSION,
            tuple(sys.version_info[:2]),
            agent.own_versions(),
            plan.name,
            0,  # processes: told for each node
            plan.start_method,
            plan.maxtasksperchild,
            _delivered("the initializer", plan.initializer, plan.initargs),
            _delivered("the finalizer", told.finalizer, ()),
            {},  # variables: told for each node
            tuple(folder or os.getcwd() for folder in sys.path),
            {
                "timeout_grace": told.timeout_grace_s,
                "start_timeout": told.start_timeout_s,
                "max_memory": told.max_memory,
                "max_memory_hard": told.max_memory_hard,
                "stall_after": None,
                "threads": told.threads,
                "seed": told.seed,
                "native_threads": told.native_threads,
                "capture_output": told.capture_output,
                "forward_logs": told.forward_logs,
            },
            None if (levels := Levels.here()) is None else tuple(levels),
            1,  # processors: told for each node
            (socket.gethostname(), self.pid),
        )
        return pickle.dumps(order, words.PROTOCOL)

    def _order_for(self, node: Node, processes: int) -> bytes:
        self.variables.prepare(processes)  # for nodes that join later: runs the user's code
        order = agent.Order(*pickle.loads(self._order))._replace(
            processes=processes,
            variables=self.variables.of_slots(processes),
            processors=node.processors,
        )
        return pickle.dumps(tuple(order), words.PROTOCOL)

    # The worker-handler: nodes come and go -----------------------------------------------------------

    def _run(self) -> None:
        """Look after the nodes until the pool ends."""
        kernel.name_this_thread(self.os_name("workers"))
        self.state = "waiting for nodes to come or go"
        while not self._finishing:
            try:
                self._look()
            except LinkLost as error:
                self._link_lost(error)
            except (
                Exception
            ) as error:  # a fault of ours, or of the library: nobody may wait for ever
                report_thread_error()
                self._link_lost(error)
            self.reception.show_size(self.size)
            if not self._are_left_behind:
                changing, self._changing = self._changing, []
                for change in changing:
                    self._tell(functools.partial(self.collector.await_workers, change))
            # Woken by what it is asked to do; the link tells nobody of nodes that come.
            self.reception.wait(LOOK_S)
        self._finish()

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # of the library, mostly: what was to be ended may be gone
            report_thread_error()

    def _look(self) -> None:
        """Compare the nodes that there are with those that have an agent."""
        if self.collector.stopped or self.collector.failure is not None:
            return
        nodes = {node.id: node for node in self.link.nodes()}
        if self._refused and time.monotonic() - self._refused_at > REFUSED_S:
            self._refused_at = time.monotonic()
            if self._started.is_set():  # there may be room now
                self._refused.clear()
                self._starts.clear()
        places = [node for node in nodes.values() if node.id not in self._refused]
        self._known, self._are_left_behind = places, False
        for node_id, remote in list(self._seated.items()):
            if node_id not in nodes:
                self._forget(remote)
                self._tell(functools.partial(self.collector.lost, remote, "the node is gone"))
        self._look_at_loneliness(bool(nodes))
        wanted = placing.shares(places, self.total, self.per_node)
        for node_id, count in wanted.items():
            seated = self._seated.get(node_id)
            if seated is not None:
                self._change(seated, count)
            elif count and self._has_left(node_id):
                self._seat(nodes[node_id], count)
            elif count:
                self._are_left_behind = True  # its end is told, and looked at then
        self._look_at_start(bool(nodes))

    def _has_left(self, node_id: str) -> bool:
        leaving = self._leaving.get(node_id)
        if leaving is not None and not leaving.is_over:
            return False
        self._leaving.pop(node_id, None)
        return True

    def _look_at_loneliness(self, is_any: bool) -> None:
        """End the tasks that wait if there has been no node for them for long."""
        if self._seated or not self._started.is_set() or not self.collector.ledger.open:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > NO_NODE_S:
            raise LinkLost(
                f"there has been no node for {NO_NODE_S:.0f} s. {self._what_is_missing()}"
            )

    def _seat(self, node: Node, count: int) -> None:
        remote = RemoteNode(node, count, self.collector.talking)
        try:
            setup = self._order_for(node, count)
        except Exception as error:  # the user's function of the slot raised
            self._refuse(node, f"env raised {type(error).__name__}: {error}")
            return
        try:
            remote.seat = self.link.seat(
                node, setup, min(count, max(1, node.processors)), Ear(self.collector, remote)
            )
        except NoSeat as error:
            self._refuse(node, str(error))
            return
        self._seated[node.id] = remote
        self._tell(lambda: self.collector.join(remote))

    def _refuse(self, node: Node, why: str) -> None:
        self._refused[node.id] = why
        self.notes.append(f"no workers on {node.name}: {why}")
        del self.notes[:-20]
        self._act(lambda: None)  # others are to have them: look again

    def _change(self, remote: RemoteNode, count: int) -> None:
        if remote.processes == count:
            return
        try:
            self.variables.prepare(count)
        except Exception as error:  # the user's function of the slot raised
            self._refuse(remote.node, f"env raised {type(error).__name__}: {error}")
            return
        remote.processes = count
        if count:
            self._tell(lambda: self.collector.resize(remote, count))
        else:
            self._forget(remote)
            self._leaving[remote.node.id] = remote
            self._tell(lambda: self.collector.dismiss(remote))

    def _look_at_start(self, is_any: bool) -> None:
        """See whether all first agents have their workers, or cannot have them."""
        if self._started.is_set():
            return
        if not self._seated and self._refused:
            self._start_error = EngineUnavailable(
                f"no node of {self.link.address} takes workers of {self.name}: "
                + "; ".join(self._refused.values())
            )
            self._started.set()
        elif self._seated and all(remote.state != STARTING for remote in self._seated.values()):
            self._started.set()

    def _link_lost(self, error: Exception) -> None:
        told = EngineUnavailable(f"{self.name} has lost its cluster: {error}")
        told.__cause__ = error
        if not self._started.is_set():
            self._start_error = told
            self._started.set()
        self._tell(lambda: self.collector.cluster_lost(told))

    def _tell(self, item: Callable[[], None]) -> None:
        self.collector.mailbox.put(item)

    def _act(self, action: Callable[[], None]) -> None:
        self.reception.put(functools.partial(self._do, action))

    def _forget(self, remote: RemoteNode) -> None:
        if self._seated.get(remote.node.id) is remote:
            del self._seated[remote.node.id]

    # Told by the dispatcher ---------------------------------------------------------------------------

    def node_ready(self, node: RemoteNode) -> None:
        """An agent has its workers (dispatcher)."""
        self._act(lambda: None)

    def start_failed(self, node: RemoteNode, error: BaseException) -> bool:
        """An agent could not make its pool (dispatcher); tell whether the constructor raises it."""
        if self._started.is_set():
            return False
        self._start_error = error
        self._started.set()
        return True

    def node_lost(self, node: RemoteNode, tasks: int) -> None:
        """A node is gone that was wanted (dispatcher)."""
        if not node.places:
            starts = self._starts[node.node.id] = self._starts.get(node.node.id, 0) + 1
            if starts >= MOST_STARTS:
                self._refused[node.node.id] = f"{node.name}: {node.why}"
        self.notes.append(f"the node {node.name} was lost: {node.why}")
        events.node_lost(self, node.name, node.why, tasks)
        del self.notes[:-20]

    def node_left(self, node: RemoteNode) -> None:
        """Nothing more comes from a node (dispatcher)."""
        seat = node.seat

        def leave() -> None:
            self._forget(node)
            if seat is not None:
                seat.end(0.0 if node.state == LOST else END_GRACE_S)

        self._act(leave)

    def certify(self, node: RemoteNode, task: Task | None) -> DeathCertificate:
        """Say what is known of a node that was lost with a task (dispatcher)."""
        from glasspool.engines.cluster import telling

        certificate = telling.certificate(self, node, task)
        self.died(certificate)
        return certificate

    def died(self, certificate: DeathCertificate) -> None:
        """Keep a certificate (dispatcher)."""
        self.deaths.append(certificate)
        self.died_in_all += 1

    def failed(self, error: BaseException) -> None:
        """The pool has failed (dispatcher)."""
        if not self._started.is_set():
            # A worker's failure is told by the tasks, as nobody waits for initializers on one machine.
            if not isinstance(error, InitializerFailed):
                self._start_error = error
            self._started.set()

    def stopping(self) -> None:
        """The last node has left (dispatcher)."""
        self.run_shutdown_hook()
        self._finishing = True
        self._act(lambda: None)

    def _finish(self) -> None:
        """Close everything. The last acts of the worker-handler."""
        self.state = "ending"
        for remote in list(self._seated.values()):
            if remote.seat is not None:
                self._do(functools.partial(remote.seat.end, 0.0))
        self._tell(self.collector.end)
        self.threads[COLLECTOR].join(5.0)
        with contextlib.suppress(Exception):  # the cluster may be gone; ours ends all the same
            self.link.close()
        self.dispose()

    def dispose(self) -> None:
        """Close what is left; then whoever waits for the end is told."""
        self.callbacks.end()
        events.pool_ended(self)
        self.logs.finish()
        interactive.end(self.number)
        self.reception.close()
        if self.on_disposed is not None:
            self.on_disposed(self)
        self.is_usable = False
        self.collector.dispose()
        self._started.set()
        self.done.set()
        for change in list(self._changes):
            change.give_up(ValueError("Pool not running"))
        self.collector.mailbox.late = self.collector.take_late
        self.collector.take_late()
        if self.cut_short:
            for job in list(self.callbacks.owed):
                job.set()  # whoever waits is told, also if a callback blocks

    # As results and feeds know it ----------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many workers there are, or will be."""
        nodes = list(self.collector.nodes.values())
        return sum(node.processes for node in nodes if node.state in (STARTING, READY))

    @property
    def places(self) -> int:
        """How many tasks run at a time."""
        return max(1, self.size) * self.options.threads

    @property
    def calling_back(self) -> Any:
        """The job whose callback runs."""
        return self.callbacks.running

    def call_back(self, job: Any) -> None:
        """Run a job's callback on the callback thread."""
        self.callbacks.add(job)

    def is_callback_thread(self) -> bool:
        """Tell whether the calling thread is the one that runs callbacks."""
        return self.callbacks.is_here()

    def new_journal(self) -> NodesJournal:
        """Return an empty journal for this pool."""
        from glasspool.engines.cluster.journal import NodesJournal  # not before somebody records

        return NodesJournal()

    def _run_callback(self, job: Any) -> None:
        journal = self.collector.journal
        if journal is None:
            job.run_callback()
        else:
            journal.calling_back(job)

    def submit(self, task: Task) -> None:
        """Hand a task in, from any thread."""
        if self.collector.journal is not None:
            self.collector.journal.submitted((task,))
        self.collector.mailbox.put(task)

    def submit_all(self, tasks: Sequence[Task]) -> None:
        """Hand a row of tasks in."""
        if self.collector.journal is not None:
            self.collector.journal.submitted(tasks)
        self.collector.mailbox.put(tasks)

    def submit_failed(self, task: Task, error: BaseException) -> None:
        """Hand in a task that has failed already: it could not be pickled."""
        if self.collector.journal is not None:
            self.collector.journal.submitted((task,))
        self.collector.mailbox.put(lambda: self.collector.refuse(task, error))

    def forget_callable(self, number: int) -> None:
        """Drop a callable whose job has ended (dispatcher)."""
        if self.collector.journal is not None:
            self.collector.journal.forgotten(number)
        self.callables.forget(number)
        self.collector.pace.pop(number, None)
        self.collector.forget(number)

    def nudge(self) -> None:
        """Make sure that nothing lies unseen in the mailbox."""
        self.collector.mailbox.nudge()

    def before_waiting(self) -> None:
        """See to it that the pool can go on while the calling thread waits for it."""
        self.nudge()

    def where(self, task: Task) -> RemoteNode | None:
        """Return the node that holds a task."""
        held = task.holder
        nodes = list(self.collector.nodes.values())
        return next((node for node in nodes if held is not None and node.held is held), None)

    # Life -------------------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Change the number of workers in all; returns when the new ones have a process. Any thread.

        Raises:
            ValueError: A node has no room for so many, or the pool has ended meanwhile.
            GlasspoolError: The pool has failed, or the processes take too long to start.
        """
        wanted = placing.shares(self._known, size)
        self._check_room(size, wanted)
        self.variables.prepare(max(wanted.values(), default=0))
        change = Change()
        # First noted, then looked whether the pool has ended; at its end it is the other way round.
        self._changes.add(change)
        try:
            if self.done.is_set():
                raise ValueError("Pool not running")
            self._act(lambda: self._begin_change(size, change))
            events.pool_resized(self, size)
            # Woken by the dispatcher: by the last start, by a failed pool, or at its end.
            if not change.arranged.wait(RESIZE_LIMIT_S):
                raise GlasspoolError(
                    f"the new workers of {self.name} have no process after {RESIZE_LIMIT_S:.0f} s; "
                    "they are still being started."
                )
        finally:
            self._changes.discard(change)
        if change.error is not None:
            raise change.error

    def _check_room(self, size: int, wanted: dict[str, int]) -> None:
        for remote in list(self._seated.values()):
            most, count = remote.about.get("most"), wanted.get(remote.node.id, 0)
            if most is not None and count > most:
                raise ValueError(
                    f"{self.name} can have {most} workers at most on {remote.name}, where {count} of {size} "
                    "would be: the memory that they share cannot grow beyond that."
                )

    def _begin_change(self, size: int, change: Change) -> None:
        self.total, self.per_node = size, None
        self._changing.append(change)

    def run_on_all(self, function: Callable[[], object]) -> ClusterRound:
        """Have every worker call a function once, those that come later, too. Any thread.

        Raises:
            Exception: The function cannot be pickled.
        """
        made = ClusterRound(self.next_id(), self.callables.for_job(function))
        self.collector.mailbox.put(lambda: self.collector.rounds.begin(made))
        return made

    def close(self) -> None:
        """Let the pool end when all its work is done. Never blocks."""
        self.collector.mailbox.put(self.collector.close)
        events.pool_closed(self, "closed")

    def terminate(self, why: str = "the pool was terminated") -> None:
        """Let the pool end now; what has not ended is cancelled. Never blocks."""
        is_first = not self.cut_short and self.is_usable
        self.cut_short = True
        self.collector.mailbox.put(lambda: self.collector.terminate(TaskCancelled(why)))
        if is_first:
            events.pool_closed(self, "terminated")

    def give_up(self) -> None:
        """End an engine whose start was interrupted, with what there is of it."""
        if self.threads:
            self.terminate("the pool was not made")
        else:
            self.link.close()
            self.dispose()

    def drain(self) -> None:
        """Let the pool end when what runs has ended; begin nothing more. Never blocks."""
        self.collector.mailbox.put(self.collector.drain)
        events.pool_closed(self, "drained")

    def look_for_the_last_time(self) -> None:
        """Ask the nodes for their pictures before they end, if somebody is to see them (dispatcher)."""
        if self.on_shutdown is None or not registry.has_shutdown_hooks():
            return
        from glasspool.observe import node_pictures, on_node

        question = {"ask": on_node.INSPECT, "tasks": 0, "last": True}
        for node in list(self.collector.nodes.values()):
            keep = functools.partial(node_pictures.keep, node, self.name)
            self.collector.ask(node, question, keep)

    def run_shutdown_hook(self) -> None:
        """Show the pool for a last time, as its nodes told it before they ended (dispatcher)."""
        hook, self.on_shutdown = self.on_shutdown, None
        if hook is not None:
            with contextlib.suppress(Exception):  # a picture that fails must not keep the pool
                hook(self)

    def join_threads(self) -> None:
        """Wait for the last steps of the threads of an engine that is done."""
        for thread in list(self.threads.values()):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(1.0)
        self.join_words()

    def join_callbacks(self) -> None:
        """Wait until the last callback has run; returns at once on the callback thread itself."""
        self.callbacks.join(self.cut_short)

    def join_words(self) -> None:
        """Wait until the last words of jobs with progress, and of logs, are out."""
        for showing in self._showing.values():
            showing.join()
        self.logs.join()

    def abandon_in_child(self) -> None:
        """Be of no use in a fork of the user's."""
        self.is_usable = False
        self.reception.close_in_child()

    # Being seen -------------------------------------------------------------------------------------

    @property
    def owed(self) -> dict[Any, None]:
        """The jobs whose callbacks have not returned."""
        return self.callbacks.owed

    @property
    def showing(self) -> Showing:
        """What shows how far jobs are; made when it is first asked for."""
        from glasspool.engines.local.showing import Showing

        return self._showing.setdefault("", Showing(self))  # type: ignore[arg-type]

    def os_name(self, role: str) -> str:
        """Return the name of one of our threads for the operating system."""
        return f"gp{self.number} {role}"

    def own_threads(self) -> dict[threading.Thread, tuple[tuple[str, ...], str]]:
        """Return our threads with their roles and states."""
        from glasspool.engines.cluster import telling

        return telling.own_threads(self)

    def processes(self) -> list[Any]:
        """Return no process handles: the workers are no children of this process."""
        return []

    def is_dispatching(self) -> bool:
        """Tell whether the calling thread is the dispatcher's, which cannot wait for what comes to it."""
        return threading.current_thread() is self.threads.get(COLLECTOR)

    def ask_all(
        self, nodes: Sequence[RemoteNode], question: Mapping[str, Any]
    ) -> Callable[[float], dict[str, Reply]]:
        """Ask agents, all at the same time, as one asks the socket of a local pool.

        Args:
            nodes: Those to be asked.
            question: What; or, for each by its id, a question of its own.

        Returns:
            A function that waits for the answers, so many seconds at most, and returns them by the id of
            the node; any thread but the dispatcher's may call it.
        """
        asking = Asking(nodes)
        is_one = "ask" in question
        for node in nodes:
            asked = dict(question if is_one else question[node.key])
            take = functools.partial(asking.take, node)
            self._tell(functools.partial(self.collector.ask, node, asked, take))
        return asking.wait


class FarCallables(Callables):
    """The callables of a pool on a cluster: a module may be registered to go by value at any time."""

    def by_reference(self, function: Callable[..., Any]) -> Known | None:
        """Return the number of a callable that travels by name; None if it does not.

        Raises:
            Exception: It looks as if it did, and cannot be pickled at all.
        """
        if interactive.goes_by_value(getattr(function, "__module__", None)):
            return None
        return super().by_reference(function)

    def number(self, function: Callable[..., Any]) -> int:
        """Return the number of a callable that was told by ``by_reference`` before; else 0."""
        if interactive.goes_by_value(getattr(function, "__module__", None)):
            return 0
        return super().number(function)


def _delivered(
    what: str, function: Callable[..., object] | None, args: tuple[Any, ...]
) -> tuple[str, bytes] | None:
    if function is None:
        return None
    try:
        return callable_name(function), payload.dump_in_one_piece((function, args), by_value=True)
    except Exception as error:
        from glasspool import unpicklable  # not before something cannot be pickled

        named = [(what, function)]
        named += [(f"argument {n} of initargs", value) for n, value in enumerate(args, 1)]
        raise unpicklable.explained(error, named) from None
