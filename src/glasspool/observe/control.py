"""Control by hand, from another process of the same user: cancel a task, restart a worker.

The asking side (``cancel``, ``restart``) finds the pool's socket and asks; the pool's side (``answer``) runs
on the worker-handler's thread, hands the act to the collector's, which owns tasks and workers, and waits
a moment for its word. Only the same user is answered: the desk looks who asks. What was done is told by the
pool itself: a note in its pictures, the reason of a worker's end, a note on the error of a task.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task

ASKED = ("cancel", "restart")
"""The questions that this module answers."""

NOTES_KEPT = 5
"""A picture tells of so many acts, the last ones."""

_ANSWER_S = 3.0
_NODE_S = 1.0
_DONE_S = 0.4
"""So long the pool's side waits for the collector: less than an asker may hold the desk."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it was done, and what is to be said of it."""

    done: bool
    text: str


# The asking side ----------------------------------------------------------------------------------


def cancel(pid: int, pool: str, task: int) -> Outcome:
    """Cancel a task of a pool of another process, or of this one.

    Blocks for at most about 3 s. Never raises for what the pool is or becomes.

    Args:
        pid: The program that made the pool.
        pool: The pool's name.
        task: The task's number in the pool.
    """
    return _ask(pid, pool, {"ask": "cancel", "task": task})


def restart(pid: int, pool: str, worker: int, *, at_once: bool, node: str | None = None) -> Outcome:
    """Have a worker replaced by a new process.

    Blocks as ``cancel`` does, and does not wait for the new process.

    Args:
        pid: The program that made the pool.
        pool: The pool's name.
        worker: The worker's pid.
        at_once: Whether the worker is ended now, and the task that it runs is lost (or tried anew if it has
            retries left); else it leaves after that task, and nothing is lost.
        node: The worker's node on a cluster: two of them may have processes of the same number.
    """
    question = {"ask": "restart", "worker": worker, "at_once": at_once}
    return _ask(pid, pool, question if node is None else {**question, "node": node})


def _ask(pid: int, pool: str, question: dict[str, Any]) -> Outcome:
    from glasspool.engines.local import desk

    path = _socket_of(pid, pool)
    if path is None:
        return Outcome(False, f"process {pid} has no pool {pool} of glasspool any more")
    try:
        told = desk.ask(str(path), {**question, "by": os.getpid()}, _ANSWER_S)
    except TimeoutError:
        return Outcome(False, f"the program {pid} did not answer within {_ANSWER_S:g} s")
    except (OSError, ValueError) as error:
        return Outcome(False, f"the program {pid} could not be asked: {error}")
    if "text" not in told:
        return Outcome(False, str(told.get("error", "the answer could not be used")))
    return Outcome(bool(told.get("done")), str(told["text"]))


def _socket_of(pid: int, pool: str) -> Path | None:
    from glasspool.engines.local import scoreboard

    # A watch calls the second of two pools of one name "NAME (PID)".
    names = (pool, pool.removesuffix(f" ({pid})"))
    found: dict[str, Path] = {}
    for path in scoreboard.boards():
        try:
            board = scoreboard.Board.open(path)
        except scoreboard.BadBoard:
            continue  # a foreign file: whoever lists pools tells of it
        if board.header.pid == pid and board.header.name in names and not board.is_stale():
            found[board.header.name] = board.socket_path
        board.close()
    return next((found[name] for name in names if name in found), None)


# The pool's side ----------------------------------------------------------------------------------


def answer(engine: LocalEngine | ClusterEngine, question: Mapping[str, Any]) -> dict[str, Any]:
    """Do what was asked for, and say what came of it (worker-handler)."""
    from glasspool.latch import Latch

    if engine.is_cluster and question.get("ask") == "restart":
        return _restart_on_node(engine, question)  # type: ignore[arg-type]
    said: list[Outcome] = []
    is_said = Latch()
    act = _act(engine, question)

    def item() -> None:
        try:
            said.append(act())
        except Exception as error:  # a fault of ours must not end the pool: the asker is told
            said.append(Outcome(False, f"{type(error).__name__}: {error}"))
        is_said.set()

    engine.collector.mailbox.put(item)
    # Woken by the collector; if that stands aside for a fork, its answer is not waited for.
    if not is_said.wait(_DONE_S):
        return {"done": False, "text": "asked; the pool is busy and has not confirmed it yet"}
    return {"done": said[0].done, "text": said[0].text}


def _restart_on_node(engine: ClusterEngine, question: Mapping[str, Any]) -> dict[str, Any]:
    """Have the node of a worker restart it (worker-handler of the driver)."""
    pid, wanted = question.get("worker"), question.get("node")
    nodes = [
        node
        for node in list(engine.collector.nodes.values())
        if wanted in (None, node.name) and pid in _workers_of(node)
    ]
    if len(nodes) != 1:
        several = f"several nodes of {engine.name} have a worker with the pid {pid}: say which"
        none = f"no node of {engine.name} has told of a worker with the pid {pid}"
        return {"done": False, "text": several if nodes else none}
    plain = {"ask": "restart", "worker": pid, "at_once": question.get("at_once") is True}
    asked = {**plain, "by": question.get("by")}
    for reply in engine.ask_all(nodes, asked)(_NODE_S).values():
        told = {} if reply.body is None else json.loads(reply.body)
        if "text" not in told:
            return {"done": False, "text": f"{reply.node.name}: {told.get('error', reply.why)}"}
        text = f"{told['text']} on {reply.node.name}"
        if told.get("done"):
            engine.notes.append(f"{text} {_who(question.get('by'))}")
        return {"done": bool(told.get("done")), "text": text}
    return {"done": False, "text": "it was not asked"}


def _workers_of(node: RemoteNode) -> set[int]:
    """Return the pids of a node's workers, as far as it has told."""
    told = {worker.pid for worker in node.workers.values()}
    return told if node.seen is None else {w.pid for w in node.seen[1].workers}


def _act(engine: LocalEngine | ClusterEngine, question: Mapping[str, Any]) -> Callable[[], Outcome]:
    by = _who(question.get("by"))
    number = question.get("task" if question.get("ask") == "cancel" else "worker")
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{question.get('ask')} needs a number")
    if question.get("ask") == "cancel":
        return lambda: _cancel(engine, number, by)
    at_once = question.get("at_once") is True
    return lambda: _restart(engine, number, by, at_once)  # type: ignore[arg-type]


def _who(pid: Any) -> str:
    at = time.strftime("%H:%M:%S")
    return f"by hand at {at} (from process {pid})" if isinstance(pid, int) else f"by hand at {at}"


def _cancel(engine: Any, number: int, by: str) -> Outcome:
    """Cancel a task (collector)."""
    collector = engine.collector
    task = next((task for task in collector.ledger.unended() if task.id == number), None)
    if task is not None:
        words = _words(task)
        said = collector.by_hand
        said[number] = f"It was cancelled {by}."
        if len(said) > NOTES_KEPT * 20:
            del said[next(iter(said))]  # that task ended before it could be cancelled
        collector.cancel(task)
    elif engine.is_cluster:
        return Outcome(False, f"task {number} has ended already")
    else:
        lent = next((w for w in collector.workers.values() if _runs_directly(w, number)), None)
        if lent is None or lent.direct is None:
            return Outcome(False, f"task {number} has ended already")
        words = _words(lent.direct)
        collector.cancel_direct(lent, lent.direct, f"It was cancelled {by}.")
    _note(engine, f"{words} was cancelled {by}")
    return Outcome(True, f"{words} is being cancelled")


def _runs_directly(worker: Worker, number: int) -> bool:
    task = worker.direct
    return task is not None and task.id == number


def _words(task: Task) -> str:
    return f"task {task.id} ({task.job.function_name(task)})"


def _restart(engine: LocalEngine, pid: int, by: str, at_once: bool) -> Outcome:
    """Restart a worker (collector)."""
    collector = engine.collector
    worker = next((w for w in collector.workers.values() if w.pid == pid), None)
    if worker is None or worker.dead:
        return Outcome(False, f"no worker of {engine.name} has the pid {pid} any more")
    if collector.stopped:
        return Outcome(False, f"{engine.name} is ending: its workers leave anyway")
    words = f"worker {worker.slot} (pid {pid})"
    is_idle = not worker.held and worker.direct is None
    if at_once and not is_idle:
        if worker.end_reason is not None:
            return Outcome(False, f"{words} is being ended already: it {worker.end_reason}")
        worker.end_reason = f"was restarted {by}"
        engine.stop_worker(worker, hard=True)
        how = "is being restarted now"
    elif collector.staff.restart(worker, f"was restarted {by}"):
        how = "is being restarted" if is_idle else "will be restarted after its task"
    else:
        return Outcome(False, f"{words} is leaving already, or has not come up yet")
    _note(engine, f"{words} {how.replace('is being', 'was')} {by}")
    return Outcome(True, f"{words} {how}")


def _note(engine: Any, text: str) -> None:
    """Say in the pool's pictures what was done to it, so that its owner can see it."""
    if engine.is_cluster:
        engine.notes.append(text)
        return
    notes = engine.shortage.notes
    number = engine.acts_by_hand = engine.acts_by_hand + 1
    engine.shortage.note(f"by hand {number}", text)
    with contextlib.suppress(KeyError):
        del notes[f"by hand {number - NOTES_KEPT}"]
