"""OpenTelemetry: a span for each task, child of the submitter's, and the submitter's context in the task."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import otel_tasks as tasks
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import glasspool
from glasspool import otel, registry
from glasspool.extras import MissingExtra

LIMIT_S = 20


class Traces:
    """The spans that were made, and a tracer for the program's own."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("program")

    def spans(self) -> list[ReadableSpan]:
        """Take the spans that glasspool has made, in the order in which the tasks ended."""
        otel.instrument(self.provider).flush()
        made = self._exporter.get_finished_spans()
        self._exporter.clear()
        return [span for span in made if span.instrumentation_scope.name == "glasspool"]


@pytest.fixture
def traces(ledger_check: None) -> Iterator[Traces]:
    """Instrument the process while the test runs."""
    made = Traces()
    with otel.instrument(made.provider):
        yield made
    assert otel._current is None
    assert not registry._made_hooks


def parent_of(span: ReadableSpan) -> int | None:
    """Return the number of a span's parent."""
    return None if span.parent is None else span.parent.span_id


def test_each_task_has_a_span(make, traces):
    """Child of the submitter's, with the worker's times and what is known of the task."""
    pool = make(1)
    with traces.tracer.start_as_current_span("the program") as mine:
        begun = time.time_ns()
        result = pool.apply_async(tasks.work, (0.05,))
        result.get(LIMIT_S)
        ended = time.time_ns()
    (span,) = traces.spans()
    assert span.name == "otel_tasks.work"
    assert parent_of(span) == mine.get_span_context().span_id
    assert span.context.trace_id == mine.get_span_context().trace_id
    assert begun <= span.start_time < span.end_time <= ended
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(result.info.run_s, abs=1e-4)
    assert span.status.status_code is StatusCode.UNSET
    told = dict(span.attributes)
    assert told.pop("glasspool.queue_wait_s") >= 0
    assert told.pop("glasspool.argument_bytes") > 0
    assert told.pop("glasspool.result_bytes") > 0
    assert told == {
        "code.function.name": "otel_tasks.work",
        "process.pid": result.info.pid,
        "glasspool.pool": pool.name,
        "glasspool.slot": 0,
        "glasspool.generation": 0,
        "glasspool.task": result.info.id,
        "glasspool.job": result.info.job,
        "glasspool.index": 0,
        "glasspool.items": 1,
        "glasspool.attempt": 1,
        "glasspool.status": "done",
    }


def test_the_context_is_in_the_task(make, traces):
    """However it is submitted: what is current there is the submitter's span, and his baggage."""
    pool = make(2)
    token = context.attach(baggage.set_baggage("who", "me"))
    with traces.tracer.start_as_current_span("the program") as mine:
        ours = mine.get_span_context()
        found = [pool.apply(tasks.where), pool.apply_async(tasks.where, (1,)).get(LIMIT_S)]
        found += pool.map(tasks.where, range(7)) + pool.map(tasks.where, range(5), 1)
        found += pool.starmap(tasks.where, [(1,), (2,)])
        drawn = pool.imap(tasks.where, range(5), 2)
        method = pool.map_async(tasks.Method().where, range(3))
    context.detach(token)
    found += [*drawn, *method.get(LIMIT_S)]
    assert {one[:3] for one in found} == {(ours.trace_id, ours.span_id, "me")}
    assert len({one[3] for one in found}) <= 2
    assert {parent_of(span) for span in traces.spans()} == {ours.span_id}
    # Where nothing is current there is nothing in the task, whatever a worker inherited.
    assert pool.apply(tasks.where)[:3] == (0, 0, None)
    (root,) = traces.spans()
    assert root.parent is None


def test_a_map_has_a_span_for_each_chunk(make_forked, traces):
    """With the number of items; and the user's names for what is called."""
    pool = make_forked(2)
    pool.map(tasks.where, range(10), 4)
    spans = sorted(traces.spans(), key=lambda span: span.attributes["glasspool.index"])
    assert [span.attributes["glasspool.items"] for span in spans] == [4, 4, 2]
    pool.apply(lambda: 1)
    pool.map(tasks.Method().where, range(2), 1)
    names = [span.name for span in traces.spans()]
    assert names[0].endswith("<lambda>")
    assert names[1:] == ["otel_tasks.Method.where"] * 2
    result = pool.apply_async(tasks.work, (0.0,))
    result.get(LIMIT_S)
    assert result.info.function == "otel_tasks.work"
    assert "_where" not in pool.inspect().to_json()


@pytest.mark.parametrize("wanted", ["failed", "lost", "timeout", "cancelled"])
def test_what_went_wrong_is_on_the_span(make_forked, traces, wanted):
    """The status says so, and the exception is there with its traceback."""
    pool = make_forked(1)
    calls: dict[str, Any] = {
        "failed": lambda: pool.apply_async(tasks.fail, (7,)),
        "lost": lambda: pool.apply_async(tasks.die),
        "timeout": lambda: pool.apply_async(tasks.work, (30,), timeout=0.05),
        "cancelled": lambda: pool.apply_async(tasks.work, (30,)),
    }
    names = {"failed": "LookupError", "lost": "WorkerDied", "timeout": "TaskTimeout"}
    name = names.get(wanted, "TaskCancelled")
    result = calls[wanted]()
    if wanted == "cancelled":
        result.cancel()
    with pytest.raises((LookupError, glasspool.GlasspoolError)) as caught:
        result.get(LIMIT_S)
    (span,) = traces.spans()
    assert span.attributes["glasspool.status"] == wanted
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == f"{wanted}: {name}"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.type"].endswith(name)
    assert event.attributes["exception.message"] == str(caught.value)
    if wanted == "failed":
        assert "otel_tasks.py" in event.attributes["exception.stacktrace"]
        assert "glasspool/otel.py" not in str(caught.value.__cause__)
    assert span.end_time >= span.start_time


def test_a_span_processor_that_raises_does_no_harm(make_forked, traces, capsys):
    """It is reported, and neither tasks nor callbacks are the worse for it."""

    class Bad(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("on purpose")

    traces.provider.add_span_processor(Bad(InMemorySpanExporter()))
    reported: list[Any] = []
    hook, otel.report_thread_error = otel.report_thread_error, lambda: reported.append(1)
    try:
        pool = make_forked(1)
        called: list[int] = []
        assert pool.map(abs, range(5), 1) == [0, 1, 2, 3, 4]
        pool.apply_async(abs, (-3,), callback=called.append).get(LIMIT_S)
        traces.spans()
    finally:
        otel.report_thread_error = hook
    assert called == [3]
    assert len(reported) == 6


def test_off_again(make_forked):
    """Before and after there are no spans, and the short ways are taken again; twice is as once."""
    pool = make_forked(1)
    made = Traces()
    pool.apply(abs, (1,))
    with otel.instrument(made.provider):
        assert otel.instrument(made.provider) is otel._current
        pool.apply(abs, (2,))
        later = make_forked(1)
        later.apply(abs, (3,))
    assert len(made._exporter.get_finished_spans()) == 2  # made before uninstrument() returns
    otel.uninstrument()
    for one in (pool, later):
        one.apply(abs, (4,))
        assert one._engine.callables.carry is None
        assert one._engine.collector.journal is None
    assert len(made._exporter.get_finished_spans()) == 2


def test_spans_of_a_pool_that_ends(make_forked, traces):
    """They are made before join() returns, those of tasks that were cancelled too."""
    pool = make_forked(1)
    pool.map(abs, range(10), 1)
    pool.apply_async(tasks.work, (30,))
    pool.terminate()
    pool.join()
    assert len(traces._exporter.get_finished_spans()) == 11


def test_without_the_package(monkeypatch):
    """The error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(MissingExtra, match=r"pip install 'glasspool\[otel\]'"):
        otel.instrument()


API_ALONE = """
import sys

class NoSdk:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError("not here", name=name)

sys.meta_path.insert(0, NoSdk())
import glasspool, glasspool.otel
assert "opentelemetry" not in sys.modules
with glasspool.otel.instrument(), glasspool.Pool(1) as pool:
    print(pool.map(abs, [-1, -2]))
assert "opentelemetry.sdk" not in sys.modules
"""


def test_the_api_alone_is_enough():
    """Without an SDK there are no spans, and no harm."""
    command = [sys.executable, "-c", API_ALONE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")


AT_EXIT = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
import glasspool, glasspool.otel

trace.set_tracer_provider(TracerProvider())
glasspool.otel.instrument()
with glasspool.Pool(1) as pool:
    exporter = ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")
    trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(exporter))
    pool.map(abs, range(3), 1)
"""


def test_spans_are_made_before_the_program_ends():
    """Also of tasks that ended a moment before."""
    command = [sys.executable, "-c", AT_EXIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(), done.stderr) == (["abs"] * 3, "")


def test_the_current_span_is_nobody_elses(make_forked, traces):
    """Tasks of two submitters in the same worker do not mix."""
    pool = make_forked(1)
    results = []
    for name in ("one", "two", "three"):
        with traces.tracer.start_as_current_span(name) as mine:
            results.append((mine.get_span_context().span_id, pool.apply_async(tasks.where)))
    for number, result in results:
        assert result.get(LIMIT_S)[1] == number
    assert trace.get_current_span().get_span_context().span_id == 0
