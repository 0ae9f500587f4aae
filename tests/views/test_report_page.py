"""The report as HTML: complete, harmless, small, and equal to what it was made of. Nothing runs here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from glasspool.observe.accounts import accounts, sum_of
from glasspool.observe.records import Recording, WorkerLife
from glasspool.observe.tally import Bins, by_function, percentile
from glasspool.snapshot import TaskInfo, WorkerTime
from glasspool.views.report_page import document
from glasspool.views.report_page.scales import moments, round_step
from recordings import (
    BEGUN,
    MS,
    US,
    S,
    certificate,
    even_time,
    recording,
    row_of_tasks,
    span,
    story,
    task,
    worker,
)

WEIRD = "<script>alert(1)</script>\"&'`{}[b] \u202e\x1b[31m\n\ud800 onload=x javascript:"
VOID = {"meta", "br", "link", "img", "input", "hr"}
BYTES_MOST = 2_000_000


class _Checked(HTMLParser):
    """Reads a page strictly: every element is closed in its turn; notes elements and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, list[dict[str, str | None]]] = {}
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.setdefault(tag, []).append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.setdefault(tag, []).append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _read(page: str) -> _Checked:
    checked = _Checked()
    checked.feed(page)
    checked.close()
    assert checked.open == []
    return checked


def _figures(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    assert found is not None
    return json.loads(found.group(1))


def _page(*recordings: Recording, **more: Any) -> str:
    page = document(story(*recordings, **more))
    _read(page)
    return page


def _weird() -> Recording:
    tasks = [
        task(at, at % 4, at * MS, MS, function=WEIRD, arguments=WEIRD, status=WEIRD)
        for at in range(20)
    ]
    seen = recording(
        tasks,
        pool=WEIRD,
        spans=[span("callback", 0, S, function=WEIRD)],
        deaths=(certificate(cause=WEIRD, last_output=(WEIRD,), advice=WEIRD, pool=WEIRD),),
        notes=(WEIRD,),
        picture={
            "name": WEIRD,
            "made_at": WEIRD,
            "initializer": WEIRD,
            "notes": (WEIRD,),
            "forked_beside": (WEIRD,),
            "tasks": (TaskInfo(1, 1, WEIRD, WEIRD, arguments=WEIRD),),
            "ended": (worker(9, state=WEIRD, reason=WEIRD),),
        },
    )
    lives = tuple(life._replace(ended_as="dead", reason=WEIRD, name=WEIRD) for life in seen.workers)
    return replace(seen, workers=lives)


# Harmless ------------------------------------------------------------------------------------------


def test_nothing_of_the_program_becomes_markup() -> None:
    """Names, arguments, causes and notes may hold anything: none of it is an element or an attribute."""
    plain = _read(_page(recording(row_of_tasks(4, 20, MS), deaths=(certificate(),))))
    told = {"command": (WEIRD, WEIRD), "ended": WEIRD, "reason": WEIRD, "notes": (WEIRD,)}
    page = _page(_weird(), _weird(), **told)
    seen = _read(page)
    assert len(seen.seen["script"]) == len(plain.seen["script"]) == 2
    for elements in seen.seen.values():
        for attributes in elements:
            assert not [name for name in attributes if name.startswith("on")]
    assert "<script>alert" not in page
    page.encode("utf-8")  # no lone surrogate has come through
    assert not [sign for sign in page if not sign.isprintable() and sign not in "\n\u00a0"]


def test_it_asks_nobody_for_anything() -> None:
    """No address but places in the page itself, and a policy that allows nothing else."""
    page = _page(recording(row_of_tasks(4, 20, MS)), recording(row_of_tasks(4, 20, MS)))
    seen = _read(page)
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(seen.seen)
    for elements in seen.seen.values():
        for attributes in elements:
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", page)
    policy = seen.seen["meta"][1]["content"] or ""
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


# Sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "count"), [(4, 20_000), (200, 20_000)])
def test_many_tasks_make_no_large_page(workers: int, count: int) -> None:
    """Tasks below a pixel are drawn together: what is drawn is bounded, whatever their number."""
    arguments = "(" + "x" * 198 + ")"
    tasks = row_of_tasks(workers, count, 30 * US, 10 * US, function="f" * 60, arguments=arguments)
    assert len(_page(recording(tasks, workers))) < BYTES_MOST / 2


def test_as_many_titles_as_there_is_room_for() -> None:
    """Of tasks that could all be drawn alone, only the longest ones are."""
    tasks = row_of_tasks(8, 8_000, MS, arguments="(" + "x" * 198 + ")")
    page = _page(recording(tasks, 8))
    assert len(page) < BYTES_MOST
    assert page.count("<title>") < 5000


def test_many_pools_and_many_workers() -> None:
    """What comes after the first twenty pools, or workers by the thousand, is told in short."""
    short = recording(row_of_tasks(4, 8, MS))
    page = _page(*[replace(short, pool=f"pool-{at}") for at in range(60)])
    assert "40 more pools, in short" in page
    assert len(page) < BYTES_MOST
    ended = tuple(
        worker(at % 4, even_time(0.1), pid=5000 + at, state="recycled") for at in range(999)
    )
    page = _page(recording(row_of_tasks(4, 8, MS), picture={"ended": ended}))
    assert "250 longest of 1003 workers" in page
    assert len(page) < BYTES_MOST


# What it tells -------------------------------------------------------------------------------------


def test_figures_are_those_of_the_recording() -> None:
    """What programs read from the page is what the recording holds."""
    tasks = [*row_of_tasks(4, 39, 10 * MS, items=3), task(40, 0, S, MS, status="failed")]
    page = _page(recording(tasks))
    pool = _figures(page)["pools"][0]
    assert pool["tasks"] == 40
    assert pool["functions"] == {
        "work": {"tasks": 40, "items": 39 * 3 + 1, "ends": {"done": 39, "failed": 1}}
    }
    assert pool["explained_s"] == pytest.approx(pool["wall_s"])
    assert [one["tasks"] for one in pool["workers"]] == [11, 10, 10, 9]
    assert "1 failed" in page


def test_what_the_accounts_do_not_explain_is_told() -> None:
    """Wall time that is in no part of the account is shown as such, and not spread over the parts."""
    time = WorkerTime(waiting_s=1.0, running_s=2.0)
    seen = recording(row_of_tasks(2, 2, S), 2, times=[time] * 2, lasted_ns=4 * S)
    whole = sum_of(accounts(seen))
    assert (whole.wall_s, whole.unexplained_s) == pytest.approx((8.0, 2.0))
    assert "not explained: <b>2.0\u00a0s (25.0 %)</b>" in _page(seen)


def test_a_worker_that_left_no_account() -> None:
    """Its parts are taken from its tasks, and marked."""
    seen = recording(row_of_tasks(1, 10, 100 * MS), 1, times=[None])  # type: ignore[list-item]
    account = accounts(seen)[0]
    assert account.inferred
    assert account.time.running_s == pytest.approx(1.0)
    assert account.unexplained_s == pytest.approx(0.0, abs=0.01)
    assert "left no account" in _page(seen)


def test_a_program_without_a_pool() -> None:
    """The page says so, and how the program ended."""
    page = _page(notes=("The standard library's pools were used",), ended="exited with code 3")
    assert "made no multiprocessing.Pool" in page
    assert "exited with code 3" in page


def test_nothing_to_improve_is_said_with_figures() -> None:
    """A healthy pool gets the figures that were looked at."""
    page = _page(recording(row_of_tasks(4, 400, 20 * MS, 100 * US)))
    assert "Nothing to improve was found" in page
    assert "workers in tasks, while there was work" in page
    assert _figures(page)["advice"] == []


def test_lost_records_are_told() -> None:
    """A journal that was full, and a ring: the page says which part of the tasks it has."""
    tasks = row_of_tasks(4, 20, MS)
    assert "980 tasks ended that are not in here" in _page(recording(tasks, lost=980))
    page = _page(recording(tasks, lost=980, source="ring"))
    assert "20 finished tasks are in here, 980 more are not in here" in page


def test_deaths_and_bad_ends() -> None:
    """A worker that died has its certificate, and what did not end well is listed with its end."""
    tasks = [*row_of_tasks(4, 20, MS), task(99, 1, 30 * MS, 0, status="lost", ended_ns=None)]
    seen = recording(tasks, deaths=(certificate(),))
    dead = seen.workers[1]._replace(ended_ns=BEGUN + 31 * MS, ended_as="dead")
    page = _page(replace(seen, workers=(seen.workers[0], dead, *seen.workers[2:])))
    assert "worker 1 (pid 1001) was killed by SIGKILL while it ran task 7" in page
    assert '<span class="bad">lost</span>' in page
    assert 'class=g-dead d="' in page


def test_every_thread_with_its_role() -> None:
    """The roster has each thread of each process, with all of its roles."""
    page = _page(recording(row_of_tasks(4, 20, MS)))
    for role in ("worker-handler", "task-handler", "result-handler", "initializer", "task"):
        assert f"<span class=role>{role}</span>" in page
    assert "5 processes with 7 threads" in page


def test_a_recording_that_lacks_everything() -> None:
    """Tasks that never began, no picture, no workers: the page is there all the same."""
    never = task(
        1, 0, 0, 0, status="cancelled", begun_ns=None, ended_ns=None, received_ns=BEGUN + S
    )
    seen = recording([never._replace(slot=None, pid=None)], lasted_ns=S)
    page = _page(replace(seen, picture=None, workers=()))
    assert "1 cancelled" in page
    empty = replace(recording([]), picture=None, workers=(), ended_ns=BEGUN)
    assert "Nothing is known of any worker" in _page(empty)


def test_a_life_that_began_before_the_recording() -> None:
    """The journal is switched on after the first workers: the page begins with these."""
    seen = recording(row_of_tasks(1, 10, MS), 1)
    life = WorkerLife(1000, 0, 0, "w", 1000, BEGUN - S)
    page = _page(replace(seen, workers=(life,)))
    assert "<div><dt>recorded</dt><dd>1.0 s</dd></div>" in page


def test_a_task_that_still_runs() -> None:
    """It is drawn up to the end, and listed with its arguments; what has ended meanwhile is not."""
    at_s = (BEGUN + 1_700_000_000 * S - BEGUN) / 1e9
    open_task = TaskInfo(
        99, 99, "stuck", "running", arguments="('here',)", begun_at=at_s, run_s=1.0
    )
    seen = recording(row_of_tasks(2, 20, 100 * MS), 2)
    assert seen.picture is not None
    busy = worker(1, even_time(1.0))
    busy = replace(busy, threads=(replace(busy.threads[0], task=open_task),))
    picture = replace(seen.picture, processes=(busy,), tasks=(replace(open_task, arguments=None),))
    page = _page(replace(seen, picture=picture))
    assert "stuck(&#x27;here&#x27;,), task 99, still running" in page
    assert "Tasks that have not ended" in page
    ended = replace(seen, picture=picture, tasks=(*seen.tasks, task(99, 1, 0, S, function="stuck")))
    assert "still running</title>" not in _page(ended)


# Scales --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span_s", [1e-6, 0.003, 0.77, 1.0, 9.99, 59.0, 3600.0, 1e6])
def test_an_axis_has_a_few_round_marks(span_s: float) -> None:
    """Two to seven marks, within the axis, the first at its begin."""
    marks = moments(span_s)
    assert 2 <= len(marks) <= 7
    assert marks[0] == (0.0, "0 s")
    assert all(0 <= at <= 1 for at, _ in marks)
    assert len({words for _, words in marks}) == len(marks)


def test_round_steps() -> None:
    """Steps are 1, 2 or 5 times a power of ten."""
    assert [round_step(span_s, 6) for span_s in (1.0, 6.0, 7.0, 31.0)] == [0.2, 1.0, 2.0, 10.0]


def test_percentiles_are_values() -> None:
    """The nearest rank: always one of the values, the largest for small numbers of them."""
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile([1, 2, 3], 0.99) == 3
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile([], 0.5) is None


def test_bins_keep_what_was_added() -> None:
    """However an interval lies, the means add up to its length; what is outside is left out."""
    for begun, ended in [
        (0, 100),
        (3, 4),
        (7, 53),
        (10, 20),
        (99, 100),
        (-50, 30),
        (90, 500),
        (5, 5),
    ]:
        bins = Bins(0, 100, 10)
        bins.add(begun, ended)
        inside = max(0, min(100, ended) - max(0, begun))
        assert sum(bins.means()) * 10 == pytest.approx(inside)
        assert max(bins.means()) <= 1 + 1e-9


def test_functions_are_sorted_by_their_time() -> None:
    """The function that took most time comes first, whatever the number of its tasks."""
    tasks = [task(1, 0, 0, S, function="long"), *row_of_tasks(4, 50, MS, function="short")]
    assert [one.function for one in by_function(tasks)] == ["long", "short"]
