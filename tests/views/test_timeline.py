"""Timelines: a recording becomes tracks, slices, numbers and arrows that say what the recording says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasspool.observe.records import Recording, Span, TaskRecord, WorkerLife
from glasspool.snapshot import (
    DeathCertificate,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
)
from glasspool.views import timeline
from glasspool.views.timeline import series
from glasspool.views.timeline.lanes import MOST_LANES, Lanes
from perfetto_reading import Read, read

MS = 1_000_000
BEGUN = 1_000_000 * MS
WALL = 1_700_000_000_000 * MS
PROGRAM, CALLER, HANDLER, CALLBACKS = 100, 100, 101, 102


def _at(ms: float) -> int:
    return BEGUN + int(ms * MS)


def _of_day(ms: float) -> float:
    """The time of day of a moment of the recording."""
    return (_at(ms) + WALL) / 1e9


def _task(number: int, begun: float, ended: float, **more: Any) -> TaskRecord:
    values: dict[str, Any] = {
        "pool": "p", "slot": 0, "pid": 200, "generation": 0, "task": number, "function": "work",
        "status": "done", "begun_ns": _at(begun), "ended_ns": _at(ended),
    }  # fmt: skip
    return TaskRecord(**{**values, **more})


def _whole_task(number: int, submitted: float, **more: Any) -> TaskRecord:
    """A task of which everything is known: it takes 20 ms from its submission to its result."""
    values: dict[str, Any] = {
        "submitted_ns": _at(submitted), "submitter": CALLER, "sent_ns": _at(submitted + 4),
        "called_ns": _at(submitted + 6), "boxed_ns": _at(submitted + 17),
        "received_ns": _at(submitted + 20), "job": number, "arguments": "(17,)",
        "argument_bytes": 40, "result_bytes": 300,
    }  # fmt: skip
    return _task(number, submitted + 5, submitted + 15, **{**values, **more})


def _thread(native_id: int, name: str, *roles: str) -> ThreadInfo:
    return ThreadInfo(PROGRAM, "MainProcess", name, native_id, roles, "waiting")


def _picture(**more: Any) -> PoolInfo:
    threads = (
        _thread(CALLER, "MainThread", "main", "caller"),
        _thread(HANDLER, "p task-handler+result-handler", "task-handler", "result-handler"),
    )
    parent = ProcessInfo(PROGRAM, "MainProcess", "parent", threads, command="python x.py")
    return PoolInfo("p", "glasspool.Pool", PROGRAM, (parent,), size=2, made_at="x.py:3", **more)


def _recording(*tasks: TaskRecord, **more: Any) -> Recording:
    values: dict[str, Any] = {
        "pool": "p", "pid": PROGRAM, "begun_ns": BEGUN, "ended_ns": _at(1000), "wall_ns": WALL,
        "source": "journal", "tasks": tasks, "picture": _picture(),
    }  # fmt: skip
    return Recording(**{**values, **more})


def _read(*recordings: Recording) -> Read:
    return read(timeline.chunks(recordings))


def test_nothing_recorded_is_nothing_written() -> None:
    """Without a recording there is no trace; a recording without a task is one, of its pool."""
    assert list(timeline.chunks(())) == []
    found = _read(_recording())
    assert [one.name for one in found.slices] == ["recording of p"]
    assert found.slices[0].told["tasks"] == 0


def test_a_task_is_a_slice_of_its_worker() -> None:
    """It spans the time in the worker, and tells within it what was not the function itself."""
    found = _read(_recording(_whole_task(7, 100)))
    (task,) = [one for one in found.named("work") if one.category == "task"]
    assert (task.process, task.track) == ("slot 0", "slot 0 (200)")
    assert (task.begin, task.end) == (_at(105), _at(117))
    (receiving,) = found.named("receiving")
    (pickling,) = found.named("pickling the result")
    assert (receiving.begin, receiving.end, receiving.depth) == (_at(105), _at(106), 1)
    assert (pickling.begin, pickling.end, pickling.depth) == (_at(115), _at(117), 1)
    assert task.told == {
        "task": 7, "status": "done", "job": 7, "place": 0, "arguments": "(17,)",
        "argument_bytes": 40, "result_bytes": 300, "queue_wait_ms": 5.0,
    }  # fmt: skip


def test_arrows_lead_from_submission_to_run_to_result() -> None:
    """The same arrow goes through all three, on the threads that did it, and ends at the last."""
    found = _read(_recording(_whole_task(7, 100), _whole_task(8, 150)))
    submit, _ = found.named("submit work")
    run = next(one for one in found.named("work") if one.category == "task")
    result, other = found.named("result of work")
    assert (submit.track, submit.begin) == ("MainThread", _at(100))
    assert (result.track, result.begin) == ("p task-handler+result-handler", _at(120))
    assert submit.flows == run.flows == result.last_flows != other.last_flows
    assert not submit.last_flows
    assert not run.last_flows


def test_arrows_go_on_to_the_callback() -> None:
    """A result that is called back ends its arrow there; of a map, the last result's does."""
    spans = (
        Span("callback", CALLBACKS, "p callback", _at(121), _at(130), "note", task=7),
        Span("callback", CALLBACKS, "p callback", _at(180), _at(181), "sum", job=50),
    )
    tasks = [_whole_task(7, 100), _whole_task(8, 130, job=50), _whole_task(9, 150, job=50)]
    found = _read(_recording(*tasks, spans=spans))
    by_task = {one.told["task"]: one for one in found.named("result of work")}
    assert not by_task[7].last_flows
    assert found.named("callback note")[0].last_flows == by_task[7].flows
    assert by_task[8].last_flows
    assert found.named("callback sum")[0].last_flows == by_task[9].flows
    assert found.named("callback sum")[0].track == "p callback"


def test_an_arrow_begins_at_the_pickling_of_the_arguments() -> None:
    """Where that was recorded, there is no other mark for the submission."""
    span = Span("pickling", CALLER, "MainThread", _at(99), _at(100), "work", task=7)
    found = _read(_recording(_whole_task(7, 100), spans=(span,)))
    run = next(one for one in found.named("work") if one.category == "task")
    assert found.named("pickling work")[0].flows == run.flows
    assert not found.named("submit work")


def test_what_waited_and_what_travelled_stands_below_the_pool() -> None:
    """A task waits from its submission to its begin, part of it at its worker; then its result travels."""
    found = _read(_recording(_whole_task(7, 100)))
    by_category = {one.category: one for one in found.slices}
    waiting = by_category["waiting"]
    assert (waiting.track, waiting.process) == ("waiting", "MainProcess: python x.py")
    assert (waiting.begin, waiting.end) == (_at(100), _at(105))
    (sent,) = found.named("sent to slot 0")
    assert (sent.begin, sent.end, sent.depth) == (_at(104), _at(105), 1)
    (travels,) = [one for one in found.slices if one.track == "results travel"]
    assert (travels.begin, travels.end, travels.told["bytes"]) == (_at(117), _at(120), 300)


def test_a_map_is_one_slice() -> None:
    """A call that made several tasks is told from its submission to its last result."""
    tasks = [_whole_task(n, 100 + n, job=5, items=10) for n in range(3)]
    found = _read(_recording(*tasks))
    (job,) = [one for one in found.slices if one.category == "map"]
    assert (job.track, job.begin, job.end) == ("maps", _at(100), _at(122))
    assert job.told == {"job": 5, "tasks": 3, "items": 30, "not done": 0}


def test_what_finds_no_lane_is_counted_in_the_name() -> None:
    """A thousand tasks that wait are not a thousand rows; the number beside it counts them all."""
    tasks = [_whole_task(n, 100, begun_ns=_at(500 + n), called_ns=None) for n in range(100)]
    found = _read(_recording(*tasks))
    names = {one.track for one in found.slices if one.category == "waiting"}
    assert names == {
        f"waiting ({MOST_LANES} drawn, {100 - MOST_LANES} more at the same time are not)"
    }
    assert max(value for _, value in found.numbers["tasks waiting"]) == 100


def test_the_life_of_a_worker() -> None:
    """Start, initializer and end stand on the worker's own thread, with the reason of its end."""
    life = WorkerLife(
        pid=200, slot=3, generation=1, name="ForkPoolWorker-4", native_id=200, started_ns=_at(10),
        initializer_begun_ns=_at(12), initializer_ended_ns=_at(40), ended_ns=_at(500),
        ended_as="recycled", reason="maxtasksperchild",
    )  # fmt: skip
    found = _read(_recording(_task(1, 50, 60, slot=3), workers=(life,)))
    on_worker = [one for one in found.slices if one.track == "slot 3 (200)"]
    assert [(o.name, o.begin, o.end) for o in on_worker] == [
        ("start", _at(10), _at(12)),
        ("initializer", _at(12), _at(40)),
        ("work", _at(50), _at(60)),
        ("recycled", _at(500), _at(500)),
    ]
    assert on_worker[0].process == "slot 3 ForkPoolWorker-4"
    assert on_worker[-1].told == {"reason": "maxtasksperchild"}
    assert found.numbers["workers alive"] == [(_at(10), 1), (_at(500), 0)]


def test_what_was_over_before_the_recording_is_left_out() -> None:
    """A worker that started hours ago does not make the picture hours long; a start on the way is whole."""
    old = WorkerLife(200, 0, 0, "W-1", 200, _at(-900), _at(-800), _at(-10))
    young = WorkerLife(201, 1, 0, "W-2", 201, _at(-20), _at(-10), _at(30))
    found = _read(_recording(_task(1, 50, 60), workers=(old, young)))
    assert [one.begin for one in found.named("initializer")] == [_at(-10)]
    assert not found.named("start")
    assert found.numbers["workers alive"] == [(BEGUN, 2)]


def test_a_death_is_marked_with_its_certificate() -> None:
    """On the worker's thread and on the pool's track; the lost task ends there and says so."""
    death = DeathCertificate(
        200, 0, "was killed by SIGKILL", task=TaskInfo(7, 7, "work", "lost"), signal=9,
        exitcode=-9, died_at=_of_day(300),
    )  # fmt: skip
    life = WorkerLife(200, 0, 0, "W-1", 200, _at(1), ended_ns=_at(300), ended_as="dead")
    task = _task(7, 50, 0, status="lost", ended_ns=None, received_ns=_at(300))
    found = _read(_recording(task, workers=(life,), deaths=(death,)))
    (lost,) = found.named("work (lost)")
    assert (lost.begin, lost.end) == (_at(50), _at(300))
    (mark,) = found.named("was killed by SIGKILL")
    assert (mark.track, mark.begin, mark.depth) == ("slot 0 (200)", _at(300), 0)
    assert mark.told["certificate"] == death.text()
    assert (mark.told["signal"], mark.told["exitcode"], mark.told["task"]) == (9, -9, 7)
    (other,) = found.named("worker 0 (200) was killed by SIGKILL")
    assert other.track == "p"


def test_a_task_that_still_runs_has_no_end() -> None:
    """The viewer draws such a slice to the end of the picture; it is not told to be done."""
    running = TaskInfo(8, 8, "long", "running", arguments="(1,)", begun_at=_of_day(70))
    ended = TaskInfo(7, 7, "work", "running", begun_at=_of_day(50))
    workers = tuple(
        ProcessInfo(
            pid, "W", "worker", (ThreadInfo(pid, "W", "MainThread", pid, ("task",), "", task=task),)
        )
        for pid, task in ((200, running), (201, ended))
    )
    picture = _picture()
    picture = replace(picture, processes=(*picture.processes, *workers))
    lives = tuple(WorkerLife(pid, 0, 0, "W", pid, BEGUN) for pid in (200, 201))
    found = _read(_recording(_task(7, 50, 60, pid=201), picture=picture, workers=lives))
    assert len(found.named("work")) == 1  # it had ended when the picture was taken, or just after
    (one,) = found.named("long")
    assert (one.end, one.told["status"], one.told["arguments"]) == (None, "running", "(1,)")
    assert abs(one.begin - _at(70)) < 1_000  # the time of day has fewer digits
    assert found.numbers["tasks running"][-1][1] == 1


def test_lost_records_are_told() -> None:
    """Three times: to the viewer, as a mark on the pool's track, and in its annotations, with the notes."""
    found = _read(_recording(_task(1, 5, 6), lost=1234, notes=("one", "two")))
    assert found.lost == 1234
    (mark,) = found.named("1,234 more tasks ended and are not shown")
    assert mark.track == "p"
    (whole,) = found.named("recording of p")
    assert (whole.told["lost"], whole.told["note 1"], whole.told["note 2"]) == (1234, "one", "two")
    assert (whole.begin, whole.end) == (BEGUN, _at(1000))


def test_numbers_follow_the_tasks() -> None:
    """Waiting, running and done are what the records say at every moment."""
    tasks = [_whole_task(1, 0), _whole_task(2, 2), _whole_task(3, 500)]
    found = _read(_recording(*tasks))
    assert found.numbers["tasks waiting"] == [
        (_at(0), 1), (_at(2), 2), (_at(5), 1), (_at(7), 0), (_at(500), 1), (_at(505), 0),
    ]  # fmt: skip
    assert [value for _, value in found.numbers["tasks running"]] == [1, 2, 1, 0, 1, 0]
    assert found.numbers["done per second"] == [
        (_at(0), 0.0), (_at(10), 200.0), (_at(20), 0.0), (_at(510), 100.0), (_at(520), 0.0),
    ]  # fmt: skip
    assert sum(value for _, value in found.numbers["result bytes per second"]) * 0.01 == (
        pytest.approx(900)
    )


def test_what_nobody_knows_has_no_track() -> None:
    """From outside it is not known when tasks were submitted: no number, no lane and no arrow says so."""
    found = _read(_recording(_task(1, 5, 6), source="ring"))
    assert set(found.numbers) == {"tasks running", "done per second"}
    assert {one.category for one in found.slices} == {"pool", "task"}


def test_pools_of_one_program_share_its_threads() -> None:
    """Two pools in one trace have a track each below one process; their arrows are apart."""
    first = _recording(_whole_task(1, 100))
    second = _recording(_whole_task(1, 100, pool="q", pid=300), pool="q")
    found = _read(first, second)
    pids = [t.process.pid for t in found.tracks.values() if t.HasField("process")]
    assert sorted(pids) == [PROGRAM, 200, 300]
    one, other = found.named("submit work")
    assert one.track == other.track == "MainThread"
    assert one.flows != other.flows
    assert {s.track for s in found.slices if s.name.startswith("recording of")} == {"p", "q"}


def test_lanes_of_a_worker_are_tracks_of_their_own() -> None:
    """Tasks of several threads of a worker may overlap."""
    tasks = [_task(1, 10, 50), _task(2, 20, 40, lane=1)]
    found = _read(_recording(*tasks))
    spans = {one.track: (one.begin, one.end) for one in found.named("work")}
    assert spans == {"slot 0 (200)": (_at(10), _at(50)), "lane 1": (_at(20), _at(40))}


def test_a_task_that_never_began_is_on_no_worker() -> None:
    """A cancelled task is seen waiting until it was ended, and nowhere else."""
    task = _whole_task(1, 10, begun_ns=None, ended_ns=None, called_ns=None, boxed_ns=None, pid=None,
                       slot=None, status="cancelled", sent_ns=None)  # fmt: skip
    found = _read(_recording(task))
    (waiting,) = [one for one in found.slices if one.category == "waiting"]
    assert (waiting.begin, waiting.end) == (_at(10), _at(30))
    assert not [one for one in found.slices if one.category == "task"]


def test_spans_of_a_thread_are_nested() -> None:
    """One within the other stays so; one that leaves the other is cut, as no thread does two things."""
    spans = (
        Span("iterable", 103, "p iterable", _at(10), _at(50), "lines"),
        Span("pickling", 103, "p iterable", _at(20), _at(30), "work"),
        Span("pickling", 103, "p iterable", _at(40), _at(60), "work"),
        Span("iterable", 103, "p iterable", _at(60), _at(70), "lines"),
    )
    found = _read(_recording(spans=spans))
    on_thread = [(s.name, s.begin, s.end) for s in found.slices if s.track == "p iterable"]
    assert on_thread == [
        ("iterable lines", _at(10), _at(50)),
        ("pickling work", _at(20), _at(30)),
        ("pickling work", _at(40), _at(50)),
        ("iterable lines", _at(60), _at(70)),
    ]


_MOMENTS = st.one_of(st.none(), st.integers(0, 60))


@st.composite
def _damaged(draw: st.DrawFn) -> TaskRecord:
    def moment() -> int | None:
        ms = draw(_MOMENTS)
        return None if ms is None else _at(ms)

    return TaskRecord(
        pool="p",
        slot=draw(st.sampled_from([None, 0, 1])),
        pid=draw(st.sampled_from([None, 200, 201])),
        generation=0,
        task=draw(st.integers(0, 9)),
        function=draw(st.text(max_size=3)),
        status=draw(st.sampled_from(["done", "failed", "lost", "cancelled", "timeout"])),
        begun_ns=moment(),
        ended_ns=moment(),
        called_ns=moment(),
        boxed_ns=moment(),
        submitted_ns=moment(),
        submitter=draw(st.sampled_from([None, 7])),
        sent_ns=moment(),
        received_ns=moment(),
        job=draw(st.sampled_from([None, 1])),
        lane=draw(st.integers(0, 1)),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(_damaged(), max_size=12))
def test_records_in_any_state_make_a_trace_that_can_be_read(tasks: list[TaskRecord]) -> None:
    """Whatever the times are, slices of one track never cross, none is left open, each begins once."""
    found = _read(_recording(*tasks))
    assert all(one.end is not None and one.end >= one.begin for one in found.slices)
    ran = [t for t in tasks if t.pid is not None and t.begun_ns is not None]
    assert sum(one.category == "task" for one in found.slices) == len(ran)
    assert all(value >= 0 for _, value in found.numbers.get("tasks running", ()))


def test_many_tasks_have_no_more_points_than_a_screen_can_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers of a long recording are told at a bounded number of moments; the slices are all there."""
    monkeypatch.setattr(series, "EXACT_TASKS", 100)
    tasks = tuple(_task(n, n / 100, n / 100 + 0.005) for n in range(3_000))
    found = _read(_recording(*tasks, ended_ns=_at(30.01)))
    assert len(found.numbers["tasks running"]) <= 2 * 100
    assert len(found.named("work")) == 3_000


def test_lanes_are_used_again() -> None:
    """An interval gets the first lane that is free by then; one too many is counted."""
    lanes = Lanes(2)
    given_out = [lanes.place(*one) for one in [(0, 10), (1, 4), (2, 3), (4, 6), (10, 11)]]
    assert given_out == [0, 1, None, 1, 0]
    assert lanes.left_out == 1
