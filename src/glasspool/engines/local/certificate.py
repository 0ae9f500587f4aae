"""The coroner: finds out what a worker died of, and writes its death certificate.

Owns: the watch over the OOM killer's counters. Threads: none; the collector's thread calls it. It reads
the worker's black box, its record of the scoreboard and the operating system's counters, and runs nothing
of the user's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import blackbox, events, kernel, plain
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.oom import OomWatch, Verdict
from glasspool.engines.local.workers import in_lane, runner_of

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task
    from glasspool.snapshot import DeathCertificate, Frame, TaskInfo

STDERR_BYTES = 64 * 1024
_PIECE = 512
"""POSIX's least PIPE_BUF: a pipe that is ready to be written takes so much without blocking."""

CLOSED_CHANNEL = "was stopped, because its channel to the pool had been closed in it,"

_CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")


class Coroner:
    """Writes the certificates of one pool's workers."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._oom: OomWatch | None = None
        self._groups: dict[int, str | None] = {}
        self._passed_on: set[int] = set()

    def begin(self, watch: OomWatch) -> None:
        """Take what the counters said when the pool began."""
        if self._oom is None:
            self._oom = watch

    def welcome(self, worker: Worker) -> None:
        """Note in which cgroup a worker is that has just become ready, and what is counted there."""
        if self._oom is None:
            self._oom = OomWatch()
        if not worker.buried:
            self._groups[worker.token] = self._oom.group_of(worker.pid)

    def cut_off(self, worker: Worker) -> None:
        """Note why a worker is to be stopped whose channel has ended: unless it is dying already."""
        if worker.end_reason is None and not worker.dead and not kernel.is_exiting(worker.pid):
            worker.end_reason = CLOSED_CHANNEL

    def certify(self, worker: Worker, task: Task | None) -> DeathCertificate:
        """Write the death certificate of a worker, for one of the tasks that it had begun, if any."""
        certificate = self.examine(worker, task)
        self._engine.deaths.append(certificate)
        if not worker.certified:  # one for each task that was lost with it
            self._engine.died_in_all += 1
        worker.certified = True
        events.worker_died(self._engine, certificate)
        return certificate

    def examine(self, worker: Worker, task: Task | None) -> DeathCertificate:
        """Say what is known of the end of a worker, which need not count as a death."""
        from glasspool.snapshot import DeathCertificate

        try:
            return self._look_closely(worker, task)
        except OSError:  # no descriptor is left, no memory: what is known without looking must do
            return DeathCertificate(
                pid=worker.pid,
                slot=worker.slot,
                cause=cause(worker.exitcode, worker.end_reason),
                exitcode=worker.exitcode,
                attempts=task.attempts if task is not None else 0,
                died_at=time.time(),
                pool=self._engine.name,
            )

    def _look_closely(self, worker: Worker, task: Task | None) -> DeathCertificate:
        from glasspool.snapshot import DeathCertificate

        self._pass_on(worker)  # before anybody is told of the death
        code = worker.exitcode
        number = -code if code is not None and code < 0 else None
        verdict = self._judge(worker, number)
        boxes, record = self._engine.black, worker.record
        stack, age_s, source = self.last_stack(self._runner(worker, task))
        return DeathCertificate(
            pid=worker.pid,
            slot=worker.slot,
            cause=cause(code, worker.end_reason),
            task=None if task is None else self._task(worker, task),
            signal=number,
            exitcode=code,
            attempts=task.attempts if task is not None else 0,
            died_at=time.time(),
            pool=self._engine.name,
            others_lost=max(0, worker.lost - 1),
            advice=self._advice(worker, verdict, stack),
            attempts_allowed=1 + (task.policy.retries if task is not None and task.policy else 0),
            peak_memory_bytes=self._peak(worker),
            oom_likely=verdict.likely,
            oom_evidence=verdict.evidence or None,
            stack=stack,
            stack_age_s=age_s,
            stack_source=source,
            last_log=boxes.last_log(record),
            last_output=self._last_output(task) or boxes.last_output(record),
        )

    def _last_output(self, task: Task | None) -> tuple[str, ...]:
        outputs = self._engine.outputs
        return () if outputs is None else outputs.last_lines(task)

    def see_off(self, worker: Worker) -> None:
        """Let go of a worker that has been buried."""
        self._pass_on(worker)
        self._passed_on.discard(worker.token)
        self._groups.pop(worker.token, None)
        if self._oom is not None and not worker.stopping:
            self._oom.renew()

    def _pass_on(self, worker: Worker) -> None:
        """Write what ``faulthandler`` would have written to stderr there, once."""
        if worker.token in self._passed_on:
            return
        self._passed_on.add(worker.token)
        boxes, record = self._engine.black, worker.record
        if boxes.flags(record) & blackbox.FLAG_USUAL:
            trace = boxes.trace(record)
            if "Fatal Python error" in trace:
                _write_without_waiting(2, trace[:STDERR_BYTES].encode("utf-8", "replace"))

    def _judge(self, worker: Worker, number: int | None) -> Verdict:
        if worker.oom is None:
            worker.oom = Verdict(None, "")
            if number == signal.SIGKILL and worker.end_reason is None and self._oom is not None:
                worker.oom = self._oom.judge(self._groups.get(worker.token))
        return worker.oom

    def _advice(
        self, worker: Worker, verdict: Verdict, stack: tuple[Frame, ...] | None
    ) -> str | None:
        if worker.end_reason is None:
            return advice(worker.exitcode, verdict.likely, stack)
        return _ADVICE_CLOSED if worker.end_reason == CLOSED_CHANNEL else None

    def _peak(self, worker: Worker) -> int | None:
        """Return the peak memory, unless it is that of the process which started the worker.

        Linux lets the figure of a process survive ``exec``: a spawned worker begins with the peak of
        its parent, and only what is beyond that is known to be its own.
        """
        peak = worker.peak_memory_bytes
        if peak is None or self._engine.start_method == "fork":
            return peak
        return peak if peak > self._engine.black.peak_at_start(worker.record) else None

    def last_stack(
        self, worker: Worker
    ) -> tuple[tuple[Frame, ...] | None, float | None, str | None]:
        """Return the last stack known of a worker's task, how old it is (in seconds), and its source."""
        from glasspool.engines.local import traces

        boxes = self._engine.black
        for trace in reversed(traces.parse(boxes.trace(worker.record))):
            stack = trace.stack_of(worker.ident)
            if stack:
                asked_ns = None if trace.reason else boxes.asked_ns(worker.record)
                age_s = 0.0 if asked_ns is None else (time.monotonic_ns() - asked_ns) / 1e9
                return traces.of_task(stack), age_s, "faulthandler"
        if worker.told_stacks is None:
            return None, None, None
        from glasspool.snapshot import Frame

        told_ns, told = worker.told_stacks
        for ident, _native, _name, _daemon, is_main, frames in told:
            if is_main if worker.runs_in_main else ident == worker.ident:
                stack = tuple(Frame(*frame) for frame in frames)
                return traces.of_task(stack), (time.monotonic_ns() - told_ns) / 1e9, "self"
        return None, None, None

    def _runner(self, worker: Worker, task: Task | None) -> Worker:
        """Return what stands for the lane of a task, if the worker has any."""
        if task is None or not worker.lanes:
            return worker
        entry = self._engine.board.entry(worker.record, task.seq)
        return worker if entry is None else in_lane(worker, entry.lane)

    def _task(self, worker: Worker, task: Task) -> TaskInfo:
        from glasspool.engines.local import arguments
        from glasspool.snapshot import TaskInfo

        board = self._engine.board
        item, grain = None, "task"
        if task.items > 1:
            word = board.words[board.place(worker.record, task.seq) + sb.W_ITEM]
            item, grain = word & sb.ITEM_MASK, "item" if word & sb.GRAIN_ITEM else "task"
        entry = board.entry(worker.record, task.seq)
        ran_s = None if entry is None else (time.monotonic_ns() - entry.begun_ns) / 1e9
        return TaskInfo(
            id=task.id,
            job=task.job.job_id,
            function=task.job.function_name(task),
            state="lost",
            index=task.index,
            items=task.items,
            item=item,
            grain=grain,
            arguments=arguments.of_task(task, item),
            attempts=task.attempts,
            slot=worker.slot,
            pid=worker.pid,
            thread=runner_of(self._runner(worker, task)),
            begun_at=None if ran_s is None else time.time() - ran_s,
            run_s=ran_s,
            argument_bytes=plain.argument_bytes(task),
        )


def load() -> None:
    """Load the modules that a certificate and an answer need, while there are descriptors for it."""
    with contextlib.suppress(OSError):  # too late: there is none left even now
        import copy  # noqa: F401

        from glasspool import snapshot  # noqa: F401
        from glasspool.engines.local import arguments, desk, traces  # noqa: F401


def cause(exitcode: int | None, reason: str | None) -> str:
    """Say how a worker ended; what the pool itself did to it comes first."""
    from glasspool.snapshot import describe_exit

    return reason or describe_exit(exitcode)


def advice(exitcode: int | None, oom_likely: bool | None, stack: Any = None) -> str | None:
    """Say what to try after a death of that kind."""
    if exitcode is None:
        return None
    if exitcode >= 0:
        return (
            f"Something in the task called os._exit({exitcode}), or C code called exit(); "
            "raise an exception instead."
        )
    if -exitcode == signal.SIGKILL:
        return _ADVICE_KILLED[oom_likely]
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    if name in _CRASHES:
        where = f"a C extension called from {stack[-1].function}" if stack else "a C extension"
        return f"Suspect {where}: run the call alone under python -X faulthandler, or under gdb."
    if name == "SIGXCPU":
        return (
            "It had used up its processor time: see ulimit -t, or the limits of the batch system."
        )
    return f"Somebody sent {name}: a person, a supervisor, a batch system, or the task itself."


_ADVICE_CLOSED = (
    "Look for code in the task that closes descriptors which are not its own (os.closerange, a "
    "library that makes the process a daemon), or that replaces the process (os.exec*)."
)
_ADVICE_KILLED = {
    True: "Try fewer workers, smaller chunks, or max_memory=, so that less is in memory at a time.",
    False: "Somebody sent SIGKILL, and not the OOM killer: a person, a supervisor, or the limits of "
    "a batch system.",
    None: "Somebody sent SIGKILL: the OOM killer (ask dmesg), a person, a supervisor, or the limits "
    "of a batch system.",
}


def _write_without_waiting(fd: int, text: bytes) -> None:
    """Write as much as is taken at once: a full pipe at stderr must not stop the pool."""
    while text:
        try:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            ready = poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return
            written = os.write(fd, text[:_PIECE])
        except OSError:  # closed, or nobody reads it
            return
        text = text[written:]
