"""The errors: what they are, what they say, and that they travel."""

from __future__ import annotations

import copy
import multiprocessing
import multiprocessing.pool
import pickle
from typing import Any

import pytest

import glasspool
from glasspool import errors
from glasspool.snapshot import DeathCertificate, TaskInfo, describe_exit

CERTIFICATE = DeathCertificate(
    pid=4711,
    slot=3,
    cause=describe_exit(-9),
    task=TaskInfo(id=17, job=5, function="module.work", state="lost", index=2, items=10),
    signal=9,
    exitcode=-9,
    died_at=1e9,
    pool="glasspool-1",
)

ALL = [
    errors.GlasspoolError("what", 1),
    errors.WorkerDied(CERTIFICATE),
    errors.TaskTimeout("task 3 took more than 2 s"),
    errors.TaskCancelled("the pool was terminated"),
    errors.TaskExit("the task raised SystemExit(3)"),
    errors.InitializerFailed("the initializer raised"),
    errors.SerializationError(ValueError("no"), [1, 2]),
    errors.SerializationError(ValueError("no"), "the task", "a longer\nstory"),
    errors.EngineUnavailable("there is no engine 'moon'"),
    errors.EngineCannot("engine='moon' cannot fork"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_travel(error: errors.GlasspoolError, protocol: int) -> None:
    """Each error arrives with its type, its text and all that it carries, also the second time."""
    back: Any = error
    for _ in range(2):
        back = pickle.loads(pickle.dumps(back, protocol))
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert vars(back) == vars(error)


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_errors_can_be_copied(error: errors.GlasspoolError) -> None:
    """``copy`` gives the same again."""
    for back in (copy.copy(error), copy.deepcopy(error)):
        assert str(back) == str(error)
        assert vars(back) == vars(error)


def test_the_certificate_travels_whole() -> None:
    """Task, pid, signal and cause of a death reach another process."""
    back = pickle.loads(pickle.dumps(errors.WorkerDied(CERTIFICATE)))
    assert back.certificate == CERTIFICATE
    assert back.certificate.task.function == "module.work"


def test_the_text_of_a_death_names_what_one_needs() -> None:
    """Task, function, pid and signal are in the text, in three lines at most."""
    text = str(errors.WorkerDied(CERTIFICATE))
    for word in ("17", "module.work", "4711", "SIGKILL"):
        assert word in text
    assert len(text.splitlines()) <= 3


def test_the_relations_that_programs_rely_on() -> None:
    """One base for all; the builtin ``TimeoutError``, and not that of ``multiprocessing``."""
    for error in ALL:
        assert isinstance(error, errors.GlasspoolError)
    timeout = errors.TaskTimeout("t")
    assert isinstance(timeout, TimeoutError)
    assert not isinstance(timeout, multiprocessing.TimeoutError)
    encoding = errors.SerializationError("e", "v")
    assert isinstance(encoding, multiprocessing.pool.MaybeEncodingError)
    assert not isinstance(errors.TaskExit("x"), SystemExit | KeyboardInterrupt)
    assert all(issubclass(type(error), Exception) for error in ALL)


def test_a_serialization_error_has_what_the_stock_one_has() -> None:
    """``exc`` and ``value`` are descriptions; the text is the stock one unless there is a better."""
    stock = multiprocessing.pool.MaybeEncodingError(ValueError("no"), [1, 2])
    ours = errors.SerializationError(ValueError("no"), [1, 2])
    assert (ours.exc, ours.value, str(ours)) == (stock.exc, stock.value, str(stock))
    assert str(errors.SerializationError("e", "v", "better")) == "better"


def test_all_are_public() -> None:
    """Each error can be had from the top of the package."""
    for error in ALL:
        assert getattr(glasspool, type(error).__name__) is type(error)
        assert type(error).__name__ in glasspool.__all__


@pytest.mark.parametrize(
    ("code", "words"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (3, "3"), (0, "0"), (None, "")]
)
def test_an_exit_is_described(code: int | None, words: str) -> None:
    """A signal has its name, a code its number, and what is not known is said to be so."""
    text = describe_exit(code)
    assert words in text
    assert text
