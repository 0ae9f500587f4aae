"""Values as HTML for notebooks: everything is shown, nothing of a name is taken for markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from glasspool import progress
from glasspool.progress import Pace, Running, Slow, Tally
from glasspool.snapshot import (
    DeathCertificate,
    Frame,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
)
from glasspool.views import html

EVIL = "<script>alert('x')</script>&\"\x1b[31m\n[bold]"


class Reader(HTMLParser):
    """Reads HTML, and checks that tags are closed in order."""

    VOID = frozenset({"br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and its attributes."""
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it is the innermost one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self.text += data


def read(drawn: str) -> str:
    """Return the text of a piece of HTML that is whole, and has no script or style sheet."""
    reader = Reader()
    reader.feed(drawn)
    reader.close()
    assert not reader.open
    assert not {"script", "style", "link", "img"} & reader.tags
    assert reader.attributes <= {"style", "open"}
    assert "\x1b" not in drawn
    return reader.text


def a_pool(workers: int = 3, name: str = "gp") -> PoolInfo:
    """Return a pool in which everything has the same name."""
    task = TaskInfo(7, 7, name, "running", items=4, item=1, arguments=f"({name})", progress=(4, 10))
    stack = (Frame(name, 3, name), Frame(f"{name}/b.py", 4, "inner"))
    roles = ("main", "task")
    thread = ThreadInfo(1, name, name, 1, roles, "running", task=task, since_s=3.0, stack=stack)
    processes = tuple(
        ProcessInfo(
            100 + slot,
            name,
            "worker",
            (thread,),
            "busy",
            slot,
            tasks_done=1234,
            rss_bytes=5_000_000,
        )
        for slot in range(workers)
    )
    death = DeathCertificate(
        9,
        1,
        f"was killed by {name}",
        task=task,
        stack=stack,
        last_log=(name, name),
        last_output=(name,),
        oom_likely=True,
        oom_evidence=name,
        advice=name,
        pool=name,
    )
    return PoolInfo(
        name,
        "glasspool.Pool",
        1,
        (ProcessInfo(1, name, "parent", (thread,)), *processes),
        tasks=(task,),
        stats={"done": 4321, "waiting": 0, "running": 3, "failed": 2, "deaths": 1},
        made_at=f"{name}:3",
        deaths=(death,),
        notes=(name,),
        start_method="fork",
    )


def a_state(**values: Any) -> progress.State:
    """Return the state of a job."""
    tally = Tally(10)
    tally.done, tally.failed = 3, 1
    slow = Slow(1, 10.0, EVIL)
    made = progress.state("label", tally, Pace(0.0), Running(2, 0.5, slow), 0.0, 10.0)
    return made._replace(**values)


EVERYTHING = {
    "snapshot": lambda name: html.snapshot(Snapshot((a_pool(name=name),), 0.0)),
    "pool": lambda name: html.pool(a_pool(name=name)),
    "thread": lambda name: html.thread(a_pool(name=name).threads[0]),
    "task": lambda name: html.task(
        replace(a_pool(name=name).tasks[0], tasks=a_pool(name=name).tasks)
    ),
    "certificate": lambda name: html.certificate(a_pool(name=name).deaths[0]),
    "iterator": lambda name: html.iterator(name, 3, None, False),
    "no pool": lambda name: html.no_pool(name, "was terminated"),
    "progress": lambda name: html.progress(a_state(label=name, note=name)),
}


@pytest.mark.parametrize("what", EVERYTHING)
def test_a_name_can_be_anything(what: str) -> None:
    """It is shown as it is, and is never markup; escape codes and newlines are harmless."""
    text = read(EVERYTHING[what](EVIL))
    assert "<script>alert('x')</script>&\"?[31m?[bold]" in text


def test_a_pool_tells_its_figures() -> None:
    """Counters, workers, threads with stacks, open tasks and deaths."""
    text = read(html.pool(a_pool()))
    for words in ("4,321", "worker 0", "1,234", "5 MB", "4 threads", "1 open task", "1 death"):
        assert words in text
    assert "item 2 of 4" in text
    assert "40 %" in text


def test_two_hundred_workers_fit_and_many_more_are_counted() -> None:
    """A table scrolls; beyond so many rows it says how many there are more."""
    drawn = html.pool(a_pool(workers=html.MOST_ROWS + 20))
    assert "and 21 more" in read(drawn)
    assert "overflow:auto" in drawn


def test_no_pools_are_said_to_be_none() -> None:
    """An empty picture is not an empty cell."""
    assert read(html.snapshot(Snapshot((), 0.0))) == "no pools"


def test_a_bar_is_as_long_as_the_job_is_far() -> None:
    """4 of 10 items have ended, and half an item more."""
    drawn = html.progress(a_state())
    assert "width:45.0%" in drawn
    text = read(drawn)
    for words in ("45 %", "4/10", "2 running", "1 failed", "left", "slowest: worker 1 for 0:10"):
        assert words in text


def test_without_a_length_there_is_no_bar() -> None:
    """Counts and time say all that is known."""
    drawn = html.progress(a_state(total=None, left_s=None))
    assert "width:180px" not in drawn
    assert "4 done" in read(drawn)


@pytest.mark.parametrize("make", [Snapshot, PoolInfo, TaskInfo, ThreadInfo, DeathCertificate])
def test_values_draw_themselves(make: type) -> None:
    """Notebooks ask each of them."""
    pool = a_pool()
    values = (Snapshot((pool,), 0.0), pool, pool.tasks[0], pool.threads[0], pool.deaths[0])
    [value] = [value for value in values if type(value) is make]
    assert read(value._repr_html_())
