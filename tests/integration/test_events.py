"""Events: what happens to a pool is told to the logger ``glasspool``, if somebody listens."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import log_tasks as tasks
import pytest

import glasspool
from glasspool.engines.local import events
from pools import MakePool

LIMIT_S = 30


class Told(logging.Handler):
    """Keeps the events that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an event."""
        self.events.append({**vars(record), "text": record.getMessage()})

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name."""
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def told() -> Iterator[Told]:
    """Return a listener."""
    handler = Told()
    logger = logging.getLogger("glasspool")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_the_life_of_a_pool_is_told(make: MakePool, told: Told) -> None:
    """From its start to its end, in order; a death with the words of its certificate."""
    pool = make(1, maxtasksperchild=2)
    pool.map(abs, range(3), 1)
    result = pool.apply_async(tasks.burst_and_die, (0,), retries=1)
    with pytest.raises(glasspool.WorkerDied) as caught:
        result.get(LIMIT_S)
    late = pool.apply_async(tasks.print_and_hang, timeout=0.2)
    late.wait(LIMIT_S)
    pool.resize(2)
    pool.close()
    pool.join()
    names = [event["event"] for event in told.events]
    assert "pool.started" in names[:2]  # the worker may be ready before the constructor is told
    assert names[-1] == "pool.ended"
    assert {event["pool"] for event in told.events} == {pool.name}
    for name in (
        "worker.started",
        "worker.recycled",
        "worker.ended",
        "pool.closed",
        "pool.resized",
    ):
        assert told.named(name), name
    first, second = told.named("worker.died")
    assert str(caught.value).splitlines()[0] in second["text"]
    assert second["certificate"].pid == second["pid"]
    assert second["levelno"] == logging.WARNING
    [retried] = told.named("task.retried")
    assert retried["task"] == first["task"] == second["task"]
    [timeout] = told.named("task.timeout")
    assert timeout["task"] == late.info.id
    assert timeout["name"] == "glasspool.task"


def test_a_pool_that_nobody_listens_to_has_no_thread_for_it(make_forked: MakePool) -> None:
    """An event that no handler would have costs no thread and no record."""
    pool = make_forked(1)
    pool.apply(os.getpid)
    assert pool._engine.logs.thread is None
    pool.close()
    pool.join()
    assert pool._engine.logs.thread is None


@pytest.mark.parametrize(
    ("name", "level", "set_up", "heard"),
    [
        ("glasspool.pool", logging.WARNING, {}, False),
        ("glasspool.pool", logging.WARNING, {"": logging.StreamHandler()}, True),
        ("glasspool.pool", logging.DEBUG, {"": logging.StreamHandler()}, False),
        ("glasspool.pool", logging.WARNING, {"glasspool": logging.NullHandler()}, False),
        ("glasspool.pool", logging.ERROR, {"glasspool.pool": logging.StreamHandler()}, True),
    ],
)
def test_who_listens(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    level: int,
    set_up: dict[str, logging.Handler],
    heard: bool,
) -> None:
    """As the loggers would decide it, without asking them."""
    root = logging.RootLogger(logging.WARNING)
    root.manager = logging.Manager(root)  # type: ignore[misc]
    monkeypatch.setattr(logging, "root", root)
    for at, handler in set_up.items():
        (root.manager.getLogger(at) if at else root).addHandler(handler)
    assert events.is_heard(name, level) is heard
