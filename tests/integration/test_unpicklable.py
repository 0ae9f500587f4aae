"""What cannot travel is named: the object, the path to it, and what to do about it."""

from __future__ import annotations

import functools
import io
import multiprocessing
import pickle
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import unpicklable_tasks as tasks

import glasspool
from glasspool import unpicklable
from glasspool.errors import MaybeEncodingError, SerializationError
from leaks import nothing_left
from pools import LIMIT_S


@pytest.fixture(scope="module")
def shared_pool(standing_processes: None) -> Iterator[glasspool.Pool]:
    """Return a pool that survives all of this."""
    with nothing_left():
        with glasspool.Pool(1, context=multiprocessing.get_context("fork")) as pool:
            yield pool
        pool.join()


def message(pool: glasspool.Pool, function: Any, *args: Any, **kwds: Any) -> str:
    """Return the text of the error with which a call ends."""
    with pytest.raises(SerializationError) as info:
        pool.apply(function, args, kwds)
    return str(info.value)


@pytest.mark.parametrize("kind", tasks.makers())
def test_each_kind_of_value_is_found_and_has_a_remedy(kind: str) -> None:
    """In an attribute of an object in a list of a dict, whatever it is."""
    value = {"rows": [1, tasks.Holder(models=[tasks.makers()[kind]()])]}
    found = unpicklable.find([("argument 1", value)], by_value=False)
    assert found is not None
    assert kind in found.what
    path = ["argument 1", "key 'rows' of a dict", "item 1 of a list", "attribute .models of Holder"]
    assert found.path[:4] == tuple(path)
    assert found.path[4] == "item 0 of a list"
    assert found.remedy
    for closable in value["rows"][1].models:  # type: ignore[index]
        getattr(closable, "close", lambda: None)()


def test_arguments(shared_pool: glasspool.Pool) -> None:
    """Positions and names of arguments, attributes, keys; the type of error is pickle's own as well."""
    text = message(shared_pool, tasks.takes_two, 1, tasks.Model())
    assert "cannot pickle '_thread.lock' object" in text
    assert "an object of _thread.lock, at: argument 2, attribute .lock of Model." in text
    assert "__getstate__" in text
    text = message(shared_pool, tasks.takes_two, 1, key={3: tasks.Slotted()})
    assert "at: argument key=, key 3 of a dict, attribute .guard of Slotted." in text
    text = message(shared_pool, tasks.takes_two, tasks.Leaves())
    assert "at: argument 1, attribute .file of Leaves." in text
    with pytest.raises(TypeError, match=r"_thread\.lock"):
        shared_pool.apply(tasks.identity, (threading.Lock(),))


def test_functions(shared_pool: glasspool.Pool) -> None:
    """Methods, partials, closures, defaults, and globals of functions that travel by value."""
    assert "at: the function, the object of method Model.run, attribute .lock of Model." in message(
        shared_pool, tasks.Model().run, 1
    )
    partial = functools.partial(tasks.takes_two, 1, key=tasks.Model())
    assert "argument key= of a partial, attribute .lock of Model." in message(shared_pool, partial)
    conn = sqlite3.connect(":memory:")
    text = message(shared_pool, lambda: conn.total_changes)
    assert "sqlite3.Connection, at: the function, closure variable conn of <lambda>" in text
    assert "initializer" in text
    text = message(shared_pool, lambda x=conn: x)
    assert "the default of x of <lambda>" in text
    conn.close()
    namespace: dict[str, Any] = {"db": [threading.Lock()]}
    exec("def f(x):\n    def g():\n        return db\n    return g()", namespace)
    text = message(shared_pool, namespace["f"], 1)
    assert "at: the function, global db of f, item 0 of a list." in text
    model = tasks.Model()
    with pytest.raises(SerializationError, match=r"closure variable model of .*, attribute \.lock"):
        shared_pool.map(lambda item: model.run(item), range(3))


def test_items(shared_pool: glasspool.Pool) -> None:
    """An item of a map is named by its place in the iterable, whatever the chunk."""
    items = [*range(5), tasks.Model(), *range(3)]
    for chunksize in (None, 1, 2, 4):
        with pytest.raises(
            SerializationError, match=r"at: item 5 of the iterable, attribute \.lock"
        ):
            shared_pool.map(tasks.identity, items, chunksize)
    values = shared_pool.imap(tasks.identity, iter(items), 1)
    with pytest.raises(SerializationError, match="item 5 of the iterable"):
        list(values)


def test_results(shared_pool: glasspool.Pool) -> None:
    """The path in a result comes from the worker; the error is still the standard library's."""
    with pytest.raises(MaybeEncodingError, match="Error sending result") as info:
        shared_pool.apply(tasks.return_nested, ("generator",))
    text = str(info.value)
    assert (
        "at: the result, key 'rows' of a dict, item 1 of a list, attribute .table of Holder, "
        "key 'db' of a dict." in text
    )
    assert "pass a list of its values" in text


def test_exceptions(shared_pool: glasspool.Pool) -> None:
    """An exception that cannot be pickled, or rebuilt, says what it was and why it did not arrive."""
    text = message(shared_pool, tasks.raise_it)
    assert "the task raised Carries: carries" in text
    assert "at: the exception, attribute .what of Carries, item 0 of a list." in text
    text = message(shared_pool, tasks.raise_picky)
    assert "the task raised Picky: three" in text
    assert "super().__init__()" in text


def test_what_is_not_known_where_it_arrives(shared_pool: glasspool.Pool) -> None:
    """A module that the worker cannot import is named, with what to do."""
    for text, words in {
        "No module named 'nowhere.at_all'": "cannot import 'nowhere.at_all'",
        "Can't get attribute 'f' on <module '__main__' from 'x.py'>": "f is defined in the program",
        "Can't get attribute 'f' on <module 'm' from 'm.py'>": "The module m, as the worker",
        "something else": "",
    }.items():
        told = unpicklable.advice(text, "worker")
        assert words in told
        assert bool(told) == bool(words)


def test_an_error_of_the_users_code_stays_what_it_is(shared_pool: glasspool.Pool) -> None:
    """What ``__reduce__`` raises is raised, with a note that tells the place."""
    with pytest.raises(LookupError, match="not today") as info:
        shared_pool.apply(tasks.identity, ([tasks.Refuses()],))
    assert "at: argument 1, item 0 of a list." in info.value.__notes__[0]


def test_the_search_is_bounded() -> None:
    """Values that are wide, deep, or slow to pickle do not hold anybody up for long."""
    nested: list[Any] = [threading.Lock()]
    for _ in range(400):
        nested = [nested]
    begun = time.thread_time()
    found = unpicklable.find([("x", nested)], by_value=False)
    assert found is not None
    assert len(found.path) == unpicklable.DEPTH
    assert unpicklable.find([("x", [[i] for i in range(10**5)])], by_value=False) is None
    cycle: list[Any] = [threading.Lock()]
    cycle.insert(0, cycle)
    assert unpicklable.find([("x", cycle)], by_value=False) is not None
    assert time.thread_time() - begun < 6 * unpicklable.LIMIT_S


def test_the_error_travels_itself(shared_pool: glasspool.Pool) -> None:
    """A task that uses a pool of its own hands its error on."""
    with pytest.raises(SerializationError) as info:
        shared_pool.apply(tasks.identity, (io.StringIO, threading.Lock()))
    again = pickle.loads(pickle.dumps(info.value))
    assert isinstance(again, TypeError)
    assert str(again) == str(info.value)
    assert shared_pool.apply_async(abs, (-1,)).get(LIMIT_S) == 1
