"""Spans of OpenTelemetry for the tasks of this process's pools (extra ``otel``; the API alone is needed).

::

    import glasspool.otel

    glasspool.otel.instrument()

From then on each task gets a span, child of the one that was current where it was submitted. It is made in
this process from the worker's times, so a task whose worker was killed has one as well. The submitter's
context travels with the task: spans that the task makes have the same parent, in the same trace, if the
worker has a tracer provider (under fork it inherits that of the program; else the pool's initializer sets it
up).

Owns: what each pool's tasks are still to be told of (``_Teller``). Threads: none of its own. Spans are made,
and given to the program's span processors, on the pool's callback thread: a processor may take its time, or
raise, without harm to the pool. ``uninstrument``, and the end of the program, wait for those that are due.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from glasspool import extras, registry
from glasspool._version import __version__
from glasspool.engines.local import journal
from glasspool.engines.local.carried import Carried
from glasspool.engines.local.outcome import RAISED, Outcome, rebuild
from glasspool.engines.local.workers import report_thread_error
from glasspool.latch import Latch

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer, TracerProvider

    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.journal import Noted

FLUSH_S = 5.0
"""So long the end of the instrumentation waits for spans that are due, per pool."""

_NEEDED = ("context", "propagate", "trace", "trace.status")

_switching = threading.Lock()
_current: Instrumentation | None = None


def instrument(tracer_provider: TracerProvider | None = None) -> Instrumentation:
    """Give each task of this process's pools a span from now on; also of pools that are made later.

    A second call changes nothing but the tracer provider. The value is a context manager that takes the
    instrumentation away.

    Args:
        tracer_provider: Who makes the spans. None: the program's own (``trace.get_tracer_provider``).

    Raises:
        MissingExtra: OpenTelemetry's API is not installed.
    """
    global _current
    trace = [extras.load(f"opentelemetry.{part}", "otel") for part in _NEEDED][2]
    tracer = trace.get_tracer("glasspool", __version__, tracer_provider)
    with _switching:
        if _current is None:
            _current = Instrumentation(tracer)
            atexit.register(_flush)
        else:
            _current.tracer = tracer
        return _current


def uninstrument() -> None:
    """Make no more spans. Those of tasks that have ended are made before this returns; safe to call twice."""
    global _current
    with _switching:
        ending, _current = _current, None
    if ending is not None:
        atexit.unregister(_flush)
        ending.end()


def _flush() -> None:
    """Make the spans that are due: the program ends (before span processors that were made earlier do)."""
    if _current is not None:
        _current.flush()


class Instrumentation:
    """That tasks get spans, until it is taken away. What ``instrument`` returns."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer: Tracer = tracer
        self._tellers: dict[int, _Teller] = {}
        self._unhook = registry.on_made(self._add)
        for engine in registry.live_engines():
            self._add(engine)

    def _add(self, engine: LocalEngine) -> None:
        ended = [n for n, teller in self._tellers.copy().items() if teller.is_over()]
        for number in ended:
            self._tellers.pop(number, None)
        self._tellers[engine.number] = teller = _Teller(self, engine)
        journal.listen(engine, teller)
        engine.callables.surround("otel", _carry)

    def flush(self) -> None:
        """Wait until the spans of all tasks that have ended are made, at most ``FLUSH_S`` for each pool."""
        for teller in list(self._tellers.values()):
            teller.flush()

    def end(self) -> None:
        """Make no more spans (``uninstrument``)."""
        self._unhook()
        for teller in list(self._tellers.values()):
            teller.engine.callables.surround("otel", None)
            journal.listen(teller.engine, None)
        self.flush()

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        uninstrument()


class _Teller:
    """Makes the spans of one pool's tasks: a listener of its journal, and a job of its callback thread.

    Tasks are told by any thread, and lie here until the callback thread comes to it. First a task is added,
    then it is looked whether that is on its way; there it is the other way round.
    """

    job_id = 0
    task_id = None
    callback_names = ("", "")

    def __init__(self, owner: Instrumentation, engine: LocalEngine) -> None:
        self.engine: LocalEngine = engine
        self._owner = owner
        self._due: deque[tuple[Noted, Context | None, Outcome | None] | Latch] = deque()
        self._is_called = False

    def _has_value(self) -> bool:
        return True

    # The listener's -------------------------------------------------------------------------------

    def context(self) -> Any:
        """Return the context that is current where a call is made."""
        from opentelemetry import context

        return context.get_current()

    def ended(self, row: Noted, context: Context | None, failure: Outcome | None) -> None:
        """Note a task whose span is to be made."""
        self._due.append((row, context, failure))
        self._call()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            self.engine.call_back(self)

    # The callback thread's ------------------------------------------------------------------------

    def run_callback(self) -> None:
        """Make the spans that are due."""
        self._is_called = False
        wall_ns = time.time_ns() - time.monotonic_ns()
        while self._due:
            due = self._due.popleft()
            if isinstance(due, Latch):
                due.set()
                continue
            try:
                _make_span(self._owner.tracer, self.engine.name, wall_ns, *due)
            except Exception:  # a span processor of the program's may do anything
                report_thread_error()

    def callback_returned(self) -> None:
        """Do nothing: nobody waits for it."""

    def callback_failed(self, error: Exception) -> None:
        """Drop the spans: there is no thread to make them."""
        self._is_called = False
        self.set()
        self._due.clear()

    def set(self) -> None:
        """Let nobody wait any more: the pool has ended."""
        for due in list(self._due):
            if isinstance(due, Latch):
                due.set()

    def label(self) -> str:
        """Return a word for views: what the callback thread runs."""
        return "OpenTelemetry's spans"

    # The user's -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until what is due now has been made."""
        if not self._due and not self._is_called and self.engine.calling_back is not self:
            return
        if self.engine.is_callback_thread():
            return  # it is done when this thread comes to it
        made = Latch()
        self._due.append(made)
        self._call()
        made.wait(FLUSH_S)

    def is_over(self) -> bool:
        """Tell whether the pool has ended and no span is due."""
        return self.engine.done.is_set() and not self._due


def _make_span(
    tracer: Tracer,
    pool: str,
    wall_ns: int,
    row: Noted,
    context: Context | None,
    failure: Outcome | None,
) -> None:
    """Make the span of a task that has ended; one that never began lasts from its submission to its end."""
    from opentelemetry.context import Context
    from opentelemetry.trace.status import Status, StatusCode

    begun, ended = row.begun_ns or row.submitted_ns, row.ended_ns or row.received_ns
    span = tracer.start_span(
        row.function,
        context=Context() if context is None else context,
        attributes=_attributes(pool, row),
        start_time=begun + wall_ns,
    )
    if failure is not None and span.is_recording():
        raised = failure[1] if failure[0] == RAISED else rebuild(failure)[1]
        span.record_exception(raised, timestamp=ended + wall_ns)
        span.set_status(Status(StatusCode.ERROR, f"{row.how}: {type(raised).__name__}"))
    span.end(end_time=ended + wall_ns)


def _attributes(pool: str, row: Noted) -> Mapping[str, Any]:
    """Name what is known of a task as OpenTelemetry does, and what is ours after the package."""
    known = {
        "code.function.name": row.function,
        "process.pid": row.pid,
        "glasspool.pool": pool,
        "glasspool.slot": row.slot,
        "glasspool.generation": row.generation if row.pid else None,
        "glasspool.task": row.task,
        "glasspool.job": row.job,
        "glasspool.index": row.place,
        "glasspool.items": row.items,
        "glasspool.attempt": row.attempts,
        "glasspool.status": row.how,
        "glasspool.queue_wait_s": (row.begun_ns - row.submitted_ns) / 1e9 if row.begun_ns else None,
        "glasspool.argument_bytes": row.argument_bytes,
        "glasspool.result_bytes": row.result_bytes if row.how == "done" else None,
    }
    return {name: value for name, value in known.items() if value is not None}


# The context on its way -------------------------------------------------------------------------------


def _carry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function called in the context of who submits it (the caller's thread)."""
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return Carried(function, _Inside, carrier)


class _Inside:
    """The submitter's context, in the worker."""

    def __init__(self, carrier: Mapping[str, str]) -> None:
        from opentelemetry import context, propagate

        # Not on top of what a forked worker inherited: that is the context in which the pool was made.
        self._context = propagate.extract(carrier, context=context.Context())

    def run(self, function: Callable[..., Any], args: Any, kwds: Any) -> Any:
        """Call a function in it."""
        from opentelemetry import context

        token = context.attach(self._context)
        try:
            return function(*args, **kwds)
        finally:
            context.detach(token)
