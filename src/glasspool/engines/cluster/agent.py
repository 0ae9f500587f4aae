"""The agent: a local pool on a node of a cluster, which works for a pool on another machine.

Owns: the local pool, and what the driver has told it to share. It has no thread of its own. ``receive`` and
``collect`` are called by what holds it (``host``); ends of tasks come on the local pool's collector
thread, which puts them into ``_news`` and rings. All that is done to the local pool goes through its mailbox.

A task keeps its number: the pool on the node has no other tasks, so rosters, certificates and
``glasspool.worker()`` there say the same as the driver's.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import platform
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from glasspool import unpicklable
from glasspool._version import __version__
from glasspool.engines.cluster import freight, words
from glasspool.engines.cluster.going import RUNNING
from glasspool.engines.cluster.link import Missing
from glasspool.engines.cluster.relaying import Relay, written
from glasspool.engines.cluster.variables import Told, unset
from glasspool.engines.local import outfit, payload, running, wire
from glasspool.engines.local.callables import Known
from glasspool.engines.local.engine import LocalEngine, Setting
from glasspool.engines.local.forwarding import Levels
from glasspool.engines.local.outcome import RAISED
from glasspool.engines.local.rounds import Round
from glasspool.engines.local.segments import Hold
from glasspool.engines.local.slots import Change
from glasspool.engines.local.workers import Worker
from glasspool.errors import GlasspoolError
from glasspool.latch import Latch
from glasspool.ledger import CANCELLED, WAITING, Part, Task
from glasspool.options import Policy
from glasspool.pool import Pool

_AFTER_ENDS = (words.BACK, words.GONE)


class Order(NamedTuple):
    """What the driver wants an agent to be. It travels as a pickle; what is the user's is pickled in it."""

    version: int
    python: tuple[int, int]
    made_by: tuple[str, str]  # the versions of glasspool, and of cloudpickle
    name: str
    processes: int
    start_method: str
    maxtasksperchild: int | None
    initializer: tuple[str, bytes] | None  # its name, and a pickle of it and its arguments
    finalizer: tuple[str, bytes] | None
    variables: Told
    path: tuple[str, ...]
    options: dict[str, Any]
    levels: tuple[int, dict[str, int]] | None
    processors: int
    driver: tuple[str, int]  # the name of its machine, and its pid


class Delivered:
    """A function of the program's that is unpickled where it is called: in a worker."""

    def __init__(self, name: str, body: bytes) -> None:
        module, _, self.__qualname__ = name.rpartition(".")
        self.__module__ = module or "builtins"
        self._body = body

    def __call__(self) -> object:
        try:
            function, args = payload.load(self._body)
        except ImportError as error:
            error.add_note(unpicklable.advice(str(error), outfit.whereabouts()))
            raise
        return function(*args)

    def __reduce__(self) -> Any:
        return Delivered, (f"{self.__module__}.{self.__qualname__}", self._body)


class NodePool(Pool):
    """The local pool of an agent."""

    _kind = "glasspool.Agent"

    def __init__(self, order: Order, node: str, relay: Relay) -> None:
        told = self.variables = order.variables
        self._setting = Setting(
            path=order.path,
            imports_main=False,
            node=node,
            processors=order.processors,
            elsewhere=relay,
            levels=None if order.levels is None else Levels(*order.levels),
            unset=unset(order.options["native_threads"], told),
            pool=order.name,
        )
        self._place = (f"agent of {order.name} on {order.driver[0]}", order.driver[1])
        super().__init__(
            order.processes,
            None if order.initializer is None else Delivered(*order.initializer),
            maxtasksperchild=order.maxtasksperchild,
            context=multiprocessing.get_context(order.start_method),
            name=order.name,
            finalizer=None if order.finalizer is None else Delivered(*order.finalizer),
            env=told if isinstance(told, dict) else self._variables_of,
            **order.options,
        )

    def _variables_of(self, slot: int) -> dict[str, str]:
        told = self.variables
        return told if isinstance(told, dict) else told[slot]


class _Telling(Latch):
    """A switch that tells when it is turned, once."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def set(self) -> None:
        if not self.is_set():
            super().set()
            self._tell()


class _Asked(Round):
    """A round of the driver's, which is told what became of it."""

    __slots__ = ("_tell",)

    def __init__(self, number: int, known: Known, tell: Callable[[_Asked], None]) -> None:
        super().__init__(number, known)
        self._tell = tell

    def set(self) -> None:
        if not self.is_set():
            super().set()
            self._tell(self)


class _Relay:
    """What stands for the driver's jobs on a node: it is told of the ends of all tasks."""

    _aborted = False
    _pool = None
    job_id = 0

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def settle_row(self, tasks: Sequence[Task]) -> None:
        """Take the ends of some tasks (collector)."""
        self._agent.ended(tasks)

    def abort(self, error: BaseException) -> None:
        """Do nothing: the driver knows what is to become of its jobs."""

    def function_name(self, task: Task) -> str:
        """Return the name of what a task calls."""
        agent = self._agent
        return (
            agent.engine.callables.name(task.call) if task.call else agent.names.get(task.id, "?")
        )

    def label(self) -> str:
        """Return a word for the job, for views."""
        return "the driver's job"


class Agent:
    """A local pool, as the driver's orders and words make it."""

    def __init__(self, setup: bytes, node: str, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._node = node
        self._news: deque[tuple[Any, ...]] = deque()
        self._ends: deque[Task] = deque()
        self._tasks: dict[int, Task] = {}
        self._calls: dict[int, int] = {}  # numbers of callables, here by there
        self.names: dict[int, str] = {}  # of what tasks call that bring it along
        self._broken: dict[int, BaseException] = {}  # callables that did not arrive, and why
        self._going = freight.Going()
        self._shared: dict[int, Hold | Missing] = {}
        self._workers: dict[int, tuple[Any, int]] = {}  # by id: the worker, and its key
        self._keys = 0
        self._relay = _Relay(self)
        self._pool: NodePool | None = None
        try:
            told = pickle.loads(setup)
            # First: to another version the rest may mean something else.
            _check(*told[:3])
            order = Order(*told)
            self._pool = NodePool(order, node, Relay(order.name, self._say, self._failed))
        except Exception as error:
            self._say((words.FAILED, freight.pack_error(error)))
            return
        engine, forget = self.engine, self.engine.on_disposed

        def gone(ended: LocalEngine) -> None:
            if forget is not None:
                forget(ended)
            self._say((words.GONE,))

        engine.on_disposed = gone
        self._say((words.HELLO, self._about()))

    @property
    def engine(self) -> LocalEngine:
        """The local pool's engine."""
        if self._pool is None:
            raise GlasspoolError("this agent has no pool")
        return self._pool._engine

    def _about(self) -> dict[str, Any]:
        return {
            "version": words.VERSION,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "size": self.engine.size,
            "most": self.engine.most,
            "places": self.engine.places,
            "start_method": self.engine.start_method,
            "scoreboard": self.engine.board.file,
        }

    # What the driver says --------------------------------------------------------------------------

    def receive(self, body: bytes, buffers: Sequence[Any]) -> None:
        """Do what a message of the driver's says. Does not wait."""
        if self._pool is None:
            return
        for word in pickle.loads(body):
            try:
                _ON[word[0]](self, buffers, *word[1:])
            except (
                Exception
            ) as error:  # a fault of ours, or no memory: nobody may wait because of it
                if word[0] == words.TASKS:
                    self._refuse(word[4], error)
                else:
                    self._say((words.FAILED, freight.pack_error(error)))

    def _callable(
        self, buffers: Sequence[Any], number: int, name: str, flags: int, form: Any
    ) -> None:
        try:
            body = freight.unpack(form, buffers, self._shared)
        except (GlasspoolError, OSError) as error:  # the tasks that need it tell
            self._broken[number] = error
            return
        self._calls[number] = self.engine.callables.take_over(name, flags, body).number

    def _forget(self, buffers: Sequence[Any], number: int) -> None:
        self._broken.pop(number, None)
        here, engine = self._calls.pop(number, None), self.engine
        if here is not None:
            engine.collector.mailbox.put(lambda: engine.forget_callable(here))

    def _name(self, buffers: Sequence[Any], ids: list[int], names: list[str]) -> None:
        self.names.update(zip(ids, names, strict=True))

    def _take_tasks(
        self,
        buffers: Sequence[Any],
        call: int,
        kind: int,
        timeout: float | None,
        ids: list[int],
        attempts: list[int],
        items: list[int],
        forms: list[Any],
    ) -> None:
        if call in self._broken:
            self._refuse(ids, self._broken[call])
            return
        number = self._calls[call] if call else 0
        policy = None if timeout is None else Policy(timeout)
        now, relay = time.monotonic_ns(), self._relay
        row: list[Task] = []
        for task_id, tried, count, body in zip(ids, attempts, items, forms, strict=True):
            if kind & wire.SEGMENT:
                try:
                    body = freight.unpack(body, buffers, self._shared)
                except (GlasspoolError, OSError) as error:
                    self._refuse([task_id], error)
                    continue
            weight = len(body) if isinstance(body, bytes | payload.Parcel) else 0
            task = Part(task_id, relay, 0, count, number, kind, body, weight, now, policy)
            task.attempts = tried
            row.append(task)
        self._tasks.update((task.id, task) for task in row)
        if row:
            self.engine.submit_all(row)

    def _refuse(self, ids: list[int], error: BaseException) -> None:
        """End tasks whose arguments, or whose function, did not arrive."""
        count, packed = len(ids), freight.pack_error(error)
        nothing = [0] * count
        self._say((words.ENDS, ids, [RAISED] * count, [packed] * count, nothing, nothing, nothing))

    def _share(self, buffers: Sequence[Any], number: int, at: int) -> None:
        self._shared[number] = freight.hold(buffers[at])

    def _unshare(self, buffers: Sequence[Any], number: int) -> None:
        self._shared.pop(number, None)

    def _cancel(self, buffers: Sequence[Any], ids: list[int], said: str) -> None:
        collector = self.engine.collector
        for task_id in ids:
            task = self._tasks.get(task_id)
            if task is None:
                continue
            if said:
                collector.by_hand[task_id] = said
            collector.mailbox.put(functools.partial(collector.cancel, task))

    def _recall(self, buffers: Sequence[Any], ids: list[int]) -> None:
        self.engine.collector.mailbox.put(lambda: self._give_back(ids))

    def _give_back(self, ids: list[int]) -> None:
        """Give tasks back that no worker has begun (collector)."""
        collector = self.engine.collector
        wanted = [task for task_id in ids if (task := self._tasks.get(task_id)) is not None]
        for holder in {id(task.holder): task.holder for task in wanted}.values():
            worker = next((w for w in collector.workers.values() if w.held is holder), None)
            if worker is not None and holder is not None:
                collector.take_back(worker, holder)
        back = [task.id for task in wanted if task.state == WAITING]
        for task in wanted:
            if task.state == WAITING and collector.ledger.end_here(task, CANCELLED):
                del self._tasks[task.id]
                self.names.pop(task.id, None)
        self._say((words.BACK, back))

    def _resize(self, buffers: Sequence[Any], processes: int, variables: Told) -> None:
        engine = self.engine
        if self._pool is not None:
            self._pool.variables = variables
        engine.environment.prepare(processes)
        change = Change()
        change.arranged = _Telling(lambda: self._say((words.RESIZED, processes)))
        engine.collector.mailbox.put(lambda: engine.collector.staff.resize(processes, change))

    def _round(self, buffers: Sequence[Any], number: int, call: int) -> None:
        collector = self.engine.collector
        if not call:
            collector.mailbox.put(lambda: collector.rounds.spare(number))
            return
        if call in self._broken:
            error = freight.pack_error(self._broken[call])
            self._say((words.MADE, number, [(-1, RAISED, error)]))
            return
        asked = _Asked(number, self.engine.callables.get(self._calls[call]), self._made)
        collector.mailbox.put(lambda: collector.rounds.begin(asked, self.engine.size))

    def _made(self, asked: _Asked) -> None:
        """Tell what became of a round (collector)."""
        told = [
            (slot, kind, freight.pack_error(body) if kind == RAISED else body)
            for slot, (kind, body) in asked.outcomes.items()
        ]
        self._say((words.MADE, asked.number, told))

    def _logged(self, buffers: Sequence[Any], size: int) -> None:
        self.engine.logs.handled(size)

    def _ask(self, buffers: Sequence[Any], number: int, question: dict[str, Any]) -> None:
        engine = self.engine

        def answer(_: object = None) -> None:
            from glasspool.observe import on_node  # not before somebody looks

            if question.get("ask") == RUNNING:
                reply: Any = running.rows(engine)
            else:
                reply = on_node.answer(engine, self._tasks, question)
            self._say((words.ANSWER, number, reply))

        if question.get("last"):
            engine.on_shutdown = answer  # just before its workers are stopped
            return

        engine.handler.mailbox.put(answer)

    def _ping(self, buffers: Sequence[Any], clock: int) -> None:
        self._say((words.PONG, clock, time.monotonic_ns(), time.time_ns()))

    def _close(self, buffers: Sequence[Any]) -> None:
        self.engine.close()

    def _terminate(self, buffers: Sequence[Any], why: str) -> None:
        self.engine.terminate(why)

    # What it says -----------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether there is something to be collected."""
        return bool(self._news or self._ends)

    def ended(self, tasks: Sequence[Task]) -> None:
        """Take note of the ends of some tasks (collector)."""
        self._ends.extend(tasks)
        self._ring()

    def _failed(self, error: BaseException) -> None:
        """Tell that the pool cannot go on (collector)."""
        self._say((words.FAILED, freight.pack_error(error)))

    def _say(self, word: tuple[Any, ...]) -> None:
        self._news.append(word)
        self._ring()

    def collect(self) -> tuple[bytes, list[Any]] | None:
        """Take all that there is to say, as one message; None if there is nothing. One thread at a time."""
        said: list[tuple[Any, ...]] = []
        buffers: list[Any] = []
        # Counted first: an end that came before a piece of news (GONE, BACK) is told before it.
        news = [self._news.popleft() for _ in range(len(self._news))]
        if self._ends:
            self._tell_ends(said, buffers)
        if (
            self._ends
        ):  # more than one message takes: what follows from ends comes after the last of them
            self._news.extendleft(word for word in reversed(news) if word[0] in _AFTER_ENDS)
            news = [word for word in news if word[0] not in _AFTER_ENDS]
        said += news
        if not said:
            return None
        return pickle.dumps(said, words.PROTOCOL), buffers

    def _tell_ends(self, said: list[tuple[Any, ...]], buffers: list[Any]) -> None:
        ended, pieces = self._going.take(self._ends, buffers)
        said += [(words.PIECE, *piece) for piece in pieces]
        if not ended:
            return
        ids: list[int] = []
        kinds: list[int] = []
        bodies: list[Any] = []
        for task in ended:
            self._tasks.pop(task.id, None)
            if not task.call:
                self.names.pop(task.id, None)
            kind, body = task.ended_as, task.outcome
            if kind != wire.OK_PLAIN:
                kind, body = self._packed(body[0], body[1], buffers)
            ids.append(task.id)
            kinds.append(kind)
            bodies.append(body)
        if self.engine.outputs is not None:
            said.append((words.OUTPUTS, ids, written(ended)))
        keys = [self._key(task.worker, said) for task in ended]
        begun = [task.begun_ns for task in ended]
        said.append(
            (words.ENDS, ids, kinds, bodies, keys, begun, [task.ended_ns for task in ended])
        )

    def _packed(self, kind: int, body: Any, buffers: list[Any]) -> tuple[int, Any]:
        """Return how a task ended, and the form of that; an error if there is no room to send it."""
        try:
            return kind, freight.pack_outcome(body, buffers)
        except OSError as error:
            return RAISED, freight.pack_error(error)

    def _key(self, worker: Worker | None, said: list[tuple[Any, ...]]) -> int:
        """Return the number of a worker, which the driver is told of when it is new; 0: nobody ran it."""
        if worker is None:
            return 0
        known = self._workers.get(id(worker))
        if known is not None:
            return known[1]
        self._keys += 1
        self._workers[id(worker)] = (worker, self._keys)
        about: tuple[Any, ...] = (
            worker.slot,
            worker.generation,
            worker.pid,
            worker.ident,
            worker.native_id,
        )
        about += (worker.thread_name, worker.runs_in_main, worker.lane)
        said.append((words.WORKER, self._keys, *about))
        return self._keys

    def end(self) -> None:
        """End the pool at once. Blocks for some seconds at most."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


_ON: dict[int, Callable[..., None]] = {
    words.CALLABLE: Agent._callable,
    words.FORGET: Agent._forget,
    words.TASKS: Agent._take_tasks,
    words.NAMES: Agent._name,
    words.SHARE: Agent._share,
    words.UNSHARE: Agent._unshare,
    words.CANCEL: Agent._cancel,
    words.RECALL: Agent._recall,
    words.RESIZE: Agent._resize,
    words.ROUND: Agent._round,
    words.LOGGED: Agent._logged,
    words.ASK: Agent._ask,
    words.PING: Agent._ping,
    words.CLOSE: Agent._close,
    words.TERMINATE: Agent._terminate,
}


def _check(speaks: int, python: tuple[int, int], made_by: tuple[str, str]) -> None:
    """Refuse an order of a driver that is not like this agent.

    Raises:
        GlasspoolError: The Pythons differ, or what the two speak.
    """
    here = sys.version_info[:2]
    if tuple(python) != tuple(here):
        there = ".".join(map(str, python))
        raise GlasspoolError(
            f"the program runs on Python {there} and this node on {here[0]}.{here[1]}: functions and "
            "results cannot travel between the two. Give both the same Python."
        )
    theirs, ours = made_by, own_versions()
    if speaks != words.VERSION or theirs[0] != ours[0]:
        raise GlasspoolError(
            f"the program has glasspool {theirs[0]} and this node {ours[0]}, which may not understand each "
            "other: install the same version on both."
        )
    if theirs[1].partition(".")[0] != ours[1].partition(".")[0]:
        raise GlasspoolError(
            f"the program has cloudpickle {theirs[1]} and this node {ours[1]}, which do not understand each "
            "other's functions: install the same version on both."
        )


def own_versions() -> tuple[str, str]:
    """Return what must be alike on the driver and on nodes: the versions of glasspool and of cloudpickle."""
    import cloudpickle

    return __version__, cloudpickle.__version__
