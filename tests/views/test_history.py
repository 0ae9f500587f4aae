"""What a watch remembers, and what the server makes of it: pure, with pictures and times made by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import openapi_spec_validator

from glasspool.observe import history, pace
from glasspool.observe.history import Flame, History
from glasspool.observe.pace import Pace, Pacer
from glasspool.observe.records import TaskRecord
from glasspool.observe.watch import View
from glasspool.snapshot import (
    DeathCertificate,
    Frame,
    InitializerInfo,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
    ThreadRef,
    WorkerTime,
)
from glasspool.views.web import answers, openapi, plain

S = 1_000_000_000
NASTY = "<script>alert('\x1b[31m\ud800')</script>\"&"


def record(task: int, begun_ns: int, ended_ns: int, pool: str = "p") -> TaskRecord:
    return TaskRecord(pool, 0, 11, 0, task, "f", "done", begun_ns, ended_ns, result_bytes=5)


def pool_info(name: str = "p", **fields: Any) -> PoolInfo:
    return PoolInfo(
        name=name,
        kind=fields.pop("kind", "glasspool.Pool"),
        pid=fields.pop("pid", 10),
        processes=fields.pop("processes", ()),
        stats=fields.pop("stats", {}),
        **fields,
    )


def picture(*pools: PoolInfo, taken_at: float = 1000.0) -> Snapshot:
    return Snapshot(pools, taken_at=taken_at)


def counted(done: int, failed: int = 0, waiting: int = 0, running: int = 0) -> dict[str, int]:
    return {"done": done, "failed": failed, "waiting": waiting, "running": running}


# Counters by second -----------------------------------------------------------------------------


def test_series_tell_what_was_done_in_each_second() -> None:
    """Totals become tasks per second; the last picture of a second counts; a gap gets its average."""
    kept = History()
    for at_s, done in ((100.1, 5), (100.9, 10), (101.5, 30), (104.2, 90)):
        shown = picture(pool_info(stats=counted(done, failed=done // 10, waiting=3, running=2)))
        kept.note(shown, {"p": Pace(busy_share=0.5)}, int(at_s * S))
    series = kept.series(105 * S)["p"]
    assert series["done"] == [None, 20, None, None, 20, None]
    assert series["failed"] == [None, 2, None, None, 2, None]
    assert series["waiting"] == [3, 3, None, None, 3, None]
    assert series["busy_share"] == [0.5, 0.5, None, None, 0.5, None]


def test_series_of_several_pools_have_one_length() -> None:
    """All pools have a value for each second, so that they can be drawn over one axis."""
    kept = History(seconds=10)
    for second in range(100, 130):
        pools = [pool_info("a", stats=counted(second))]
        if second >= 125:
            pools.append(pool_info("b", stats=counted(2 * second)))
        kept.note(picture(*pools), {}, second * S)
    told = kept.series(129 * S)
    assert {len(values) for one in told.values() for values in one.values()} == {10}
    assert told["a"]["done"] == [1] * 10
    assert told["b"]["done"] == [None] * 6 + [2] * 4


def test_another_pool_of_the_same_name_begins_anew() -> None:
    """Counters that go back are those of another pool: no rate is told, least of all a negative one."""
    kept = History()
    for second, done in ((1, 50), (2, 60), (3, 1), (4, 3)):
        kept.note(picture(pool_info(stats=counted(done))), {}, second * S)
    assert kept.series(4 * S)["p"]["done"] == [None, 10, None, 2]


def test_series_are_bounded() -> None:
    """Pools that ended long ago are forgotten, and there are never more than some."""
    kept = History(seconds=5)
    for second in range(3 * history.POOLS):
        kept.note(picture(pool_info(f"pool {second}", stats=counted(1))), {}, second // 100 * S)
    assert len(kept.series(0)) <= history.POOLS
    kept.note(picture(pool_info("last", stats=counted(1))), {}, 1000 * S)
    assert list(kept.series(1000 * S)) == ["last"]


def test_a_pool_that_counts_nothing() -> None:
    """A pool of another library has no counters: its series say that nothing is known."""
    kept = History()
    for second in (1, 2):
        kept.note(picture(pool_info(kind="multiprocessing.Pool")), {}, second * S)
    assert kept.series(2 * S)["p"]["done"] == [None, None]


# Records ----------------------------------------------------------------------------------------


def test_records_are_the_newest_in_order() -> None:
    """The newest are kept, told oldest first, and from a time on if wanted; what is lost is counted."""
    kept = History(records=100)
    kept.add([record(i, i, i + 1) for i in range(250)], lost=7)
    assert (kept.seen, kept.lost) == (250, 7)
    assert [r.task for r in kept.records(limit=3)] == [247, 248, 249]
    assert [r.task for r in kept.records(limit=10, since_ns=248)] == [248, 249]
    assert len(kept.records(limit=1000)) == 100
    assert kept.records(limit=0) == []


def test_the_slowest_of_all() -> None:
    """The slowest are known though their records are gone, slowest first; of equals the earlier."""
    kept = History(records=10, slowest=3)
    kept.add([record(i, 0, (i * 7) % 101) for i in range(101)], lost=0)
    slowest = kept.slowest()
    assert [r.ended_ns for r in slowest] == [100, 99, 98]
    kept.add([record(1000, 0, 50), record(1001, 0, 99)], lost=0)
    assert [r.ended_ns for r in kept.slowest()] == [100, 99, 99]


# Pace -------------------------------------------------------------------------------------------


def worker(busy_s: float, run_s: float | None = None, **fields: Any) -> ProcessInfo:
    task = TaskInfo(1, 1, "f", "running", run_s=run_s) if run_s is not None else None
    thread = ThreadInfo(11, "w", "MainThread", 11, ("task",), "", is_main=True, task=task)
    state = "idle" if run_s is None else "busy"
    return ProcessInfo(
        11, "w", "worker", (thread,), state, slot=0, busy_s=busy_s, started_at=990.0, **fields
    )


def test_pace_is_of_the_last_seconds() -> None:
    """Rates are over the last five seconds; what is left is divided by them."""
    pacer = Pacer()
    told = Pace()
    for second in range(20):
        rate = 10 if second < 10 else 2
        done = 10 * min(second, 10) + rate * max(0, second - 10)
        stats = counted(done, failed=second, waiting=27, running=3)
        told = pacer.pace(pool_info(stats=stats), float(second), 1000.0 + second)
        assert (told.done_per_s is None) == (second == 0)
    assert told == Pace(2.0, 1.0, 10.0, None)


def test_work_in_progress_is_busy() -> None:
    """A task that runs on and on keeps its worker busy, though the worker has counted nothing yet."""
    pacer = Pacer()
    pacer.pace(pool_info(processes=(worker(1.0, 3.0),), stats=counted(0)), 0.0, 1000.0)
    for at in (1.0, 2.0):
        shown = pool_info(processes=(worker(1.0, 3.0 + at),), stats=counted(0))
        told = pacer.pace(shown, at, 1000.0 + at)
        assert told.busy_share == 1.0
        assert told.done_per_s == 0
        assert told.left_s == 0.0
    ended = pool_info(processes=(worker(6.0),), stats=counted(1))
    assert pacer.pace(ended, 4.0, 1004.0).busy_share == 0.5


def test_pace_begins_anew_with_other_counters() -> None:
    """A picture from outside counts other things: its numbers are not compared with the pool's own."""
    pacer = Pacer()
    pacer.pace(pool_info(stats=counted(1000)), 0.0, 1000.0)
    told = pacer.pace(pool_info(stats={"done": 10, "running": 1}), 1.0, 1001.0)
    assert told == Pace()
    told = pacer.pace(pool_info(stats={"done": 20, "running": 1}), 2.0, 1002.0)
    assert (told.done_per_s, told.failed_per_s, told.left_s) == (10.0, None, None)
    assert pace.WINDOW_S == 5.0


# Flame graph ------------------------------------------------------------------------------------


def with_stack(tid: int, role: str, *calls: str) -> ProcessInfo:
    stack = tuple(Frame(f"{call}.py", 1, call) for call in calls)
    thread = ThreadInfo(tid, "w", "MainThread", tid, (role,), "", stack=stack)
    return ProcessInfo(tid, f"w{tid}", "worker", (thread,))


def test_stacks_are_folded() -> None:
    """Workers are counted together, each thread once; a node counts what lies below it and its own."""
    flame = Flame()
    processes = (with_stack(1, "task", "main", "f"), with_stack(2, "task", "main", "f", "g"))
    for _ in range(3):
        flame.add(picture(pool_info("a", processes=processes), pool_info("b", processes=processes)))
    tree = flame.tree()
    assert (flame.samples, tree["name"], tree["value"]) == (3, "all", 6)
    (pool,) = tree["children"]
    (role,) = pool["children"]
    assert (pool["name"], role["name"]) == ("a", "worker: task")
    (main,) = role["children"]
    (f,) = main["children"]
    assert (f["name"], f["value"]) == ("f (f.py)", 6)
    assert [(g["name"], g["value"]) for g in f["children"]] == [("g (g.py)", 3)]


def test_flame_is_bounded() -> None:
    """A tree that is full counts what is deeper for its caller, and no stack is too deep."""
    flame = Flame(nodes=10)
    for number in range(100):
        calls = (f"call {number}", *("deep" for _ in range(1000)))
        flame.add(picture(pool_info(processes=(with_stack(1, "task", *calls),))))
    tree = flame.tree()
    assert tree["value"] == 100
    assert json.dumps(tree).count('"name"') == 11
    whole = Flame()
    whole.add(picture(pool_info(processes=(with_stack(1, "task", *["r"] * 1000),))))
    json.dumps(whole.tree())


# Answers ----------------------------------------------------------------------------------------


def everything() -> View:
    """Return a view in which every field of every value is set, with names as nasty as can be."""
    ref = ThreadRef(NASTY, 1, 2, True)
    frames = (Frame(NASTY, 1, NASTY),)
    task = TaskInfo(
        1, 2, NASTY, "running", arguments=f"({NASTY!r})", thread=ref, progress=(math.nan, math.inf)
    )
    whole = TaskInfo(2, 2, NASTY, "waiting", tasks=(task,), progress=(1, None), items=3)
    thread = ThreadInfo(3, NASTY, NASTY, 4, ("task",), NASTY, task=task, stack=frames, pool=NASTY)
    process = ProcessInfo(
        3, NASTY, "worker", (thread,), "busy", slot=0, rss_bytes=1, cpu_s=math.nan,
        initializer=InitializerInfo(NASTY, "done", ref, 1.0, 2.0), time=WorkerTime(1.0),
    )  # fmt: skip
    death = DeathCertificate(
        3, 0, f"was {NASTY}", task, stack=frames, last_log=(NASTY,), pool=NASTY
    )
    pool = pool_info(
        NASTY, processes=(process,), tasks=(task, whole), stats=counted(1), deaths=(death,),
        ended=(process,), notes=(NASTY,), made_at=NASTY, initializer=NASTY, start_method="fork",
    )  # fmt: skip
    return View(picture(pool), 1001.0, text=NASTY, paces={NASTY: Pace(1.0, 2.0, 3.0, 0.5)})


def test_the_basic_page_holds_no_markup_of_others() -> None:
    """Whatever names hold, the page has the server's tags only, no control character, and its numbers."""
    for stacks in (False, True):
        html = plain.document(everything(), "to'k<en", stacks=stacks)
        assert "<script" not in html
        assert "\x1b" not in html
        assert "\ud800" not in html
        assert "to&#x27;k" not in html  # quoted for a URL first
        assert "&lt;script&gt;alert(&#x27;" in html
        html.encode()
        assert html.count("<tr>") == html.count("</tr>")
    assert "1.0 tasks/s" in html
    assert "Nothing has been seen" in plain.document(View(None, 0.0), "t")


def test_json_has_no_number_that_is_none() -> None:
    """Not a number and infinity, which JSON does not know, become null."""
    text = answers.text(answers.state(everything()))
    told = json.loads(text, parse_constant=lambda word: pytest_fail(word))
    assert told["pools"][0]["tasks"][0]["progress"] == [None, None]


def pytest_fail(word: str) -> None:
    raise AssertionError(f"{word} in JSON")


def test_events_are_brief() -> None:
    """An event names the running tasks and some others, and the last of the workers that were replaced."""
    tasks = tuple(TaskInfo(i, 1, "f", "waiting") for i in range(900))
    running = tuple(TaskInfo(i, 1, "f", "running") for i in range(900, 910))
    ended = tuple(ProcessInfo(i, "w", "worker") for i in range(1000))
    view = View(picture(pool_info(tasks=tasks + running, ended=ended)), 1.0)
    (pool,) = answers.state(view, brief=True)["pools"]
    assert sum(task["state"] == "running" for task in pool["tasks"]) == 10
    assert len(pool["tasks"]) == 10 + answers.OPEN_IN_EVENTS
    assert [one["pid"] for one in pool["ended"]] == list(range(900, 1000))
    (pool,) = answers.state(view)["pools"]
    assert (len(pool["tasks"]), len(pool["ended"])) == (910, 1000)


def test_the_api_is_described() -> None:
    """The description is OpenAPI 3.1, and a state in which everything is set is as it says."""
    described = openapi.document()
    openapi_spec_validator.validate(json.loads(json.dumps(described)))
    schema = {"$ref": "#/components/schemas/State", "components": described["components"]}
    state = json.loads(answers.text(answers.state(everything())))
    for process in (*state["pools"][0]["processes"], *state["pools"][0]["ended"]):
        process["cpu_s"] = 1.0
    for task in _tasks(state):
        task["progress"] = [1.0, None]
    jsonschema.validate(state, schema)
    rows = {"$ref": "#/components/schemas/Records", "components": described["components"]}
    jsonschema.validate({"records": json.loads(answers.rows([record(1, 2, 3)]))}, rows)


def _tasks(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [task for one in value for task in _tasks(one)]
    if not isinstance(value, dict):
        return []
    own = [value] if "progress" in value else []
    return own + [task for one in value.values() for task in _tasks(one)]
