"""What the driver of a pool on a cluster remembers of tasks that ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from glasspool.engines.cluster.clocks import Clock
from glasspool.engines.cluster.endings import Endings


def node(offset_ns: int = 0) -> Any:
    """Return what is needed of a node: its name, its worker 7 and its clock."""
    clock = Clock()
    clock.answered(offset_ns, 0, offset_ns)
    worker = SimpleNamespace(slot=1, pid=2, generation=3, lane=4)
    return SimpleNamespace(name="n", workers={7: worker}, clock=clock)


def task(number: int, owner: Any = None) -> Any:
    """Return what is needed of a task of a job, or of one that is a job by itself."""
    made = SimpleNamespace(id=number, submitted_ns=number, owner=owner, call=0)
    made.job = owner or made
    made.function_name = lambda task: f"f{task.id}"
    return made


def job() -> Any:
    """Return a job whose tasks call the same."""
    return SimpleNamespace(function_name=lambda task: "f")


def add(endings: Endings, *numbers: int) -> None:
    """Have some tasks end."""
    owner, row = job(), list(numbers)
    tasks = [task(number, owner) for number in numbers]
    endings.add(node(), "done", tasks, [7] * len(row), row, row)


def test_each_is_told_once_to_each_reader() -> None:
    """Who comes back with the number of the next one gets what ended since, oldest first."""
    endings = Endings()
    assert endings.since(0, 10) == ([], 0)
    add(endings, 1, 2, 3)
    add(endings, 4)
    found, lost = endings.since(0, 10)
    assert ([one.task for one in found], lost) == ([1, 2, 3, 4], 0)
    assert [one.task for one in endings.since(2, 10)[0]] == [3, 4]
    assert endings.since(4, 10) == ([], 0)


def test_what_is_not_told_is_counted() -> None:
    """What was forgotten, or is more than who asks can take."""
    endings = Endings(most=3)
    for number in range(1, 7):
        add(endings, number)
    found, lost = endings.since(0, 10)
    assert ([one.task for one in found], lost) == ([4, 5, 6], 3)
    found, lost = endings.since(3, 1)
    assert ([one.task for one in found], lost) == ([6], 2)


def test_one_message_may_have_tasks_of_several_calls() -> None:
    """Each has its own function; those that had ended before are left out; times are this machine's."""
    endings = Endings()
    tasks = [task(1), None, task(3)]
    endings.add(node(1000), "failed", tasks, [7, 7, 8], [10, 20, 30], [11, 21, 31])
    found, lost = endings.since(0, 10)
    assert lost == 0
    assert [(one.function, one.begun_ns, one.ended_ns) for one in found] == [
        ("f1", 1010, 1011),
        ("f3", 1030, 1031),
    ]
    assert [(one.slot, one.pid, one.generation, one.lane) for one in found] == [
        (1, 2, 3, 4),
        (None, None, 0, 0),
    ]
