"""Context variables: what chosen ones hold where a call is made, they hold in its tasks."""

from __future__ import annotations

import contextvars
import threading
from contextvars import ContextVar
from multiprocessing import get_context

import context_tasks as tasks
import pytest

import glasspool
from glasspool.engines.local.contexts import Carrier, Place, _places

LIMIT_S = 20
CHOSEN = [tasks.request, tasks.Holder.user]


def in_context(function, *args, request=None, user=None):
    """Call a function in a context of its own, with these values."""

    def call():
        if request is not None:
            tasks.request.set(request)
        if user is not None:
            tasks.Holder.user.set(user)
        return function(*args)

    return contextvars.Context().run(call)


def test_values_travel_with_each_call(make):
    """As they are at the call, for each kind of call; by any start method; with what cannot be plain."""
    pool = make(2, contextvars=CHOSEN)

    def calls():
        return (
            pool.apply(tasks.look),
            pool.apply_async(tasks.look, (1,)).get(LIMIT_S),
            *pool.map(tasks.look, range(2), 2),
            *pool.map(tasks.look, range(2)),
            *pool.imap(tasks.look, range(2)),
            *pool.starmap(tasks.look, [(1,), (2,)]),
            pool.apply(lambda: tasks.look()),
        )

    first = in_context(calls, request="first", user={"name": ["a", "b"]})
    assert set(map(repr, first)) == {repr(("first", {"name": ["a", "b"]}, "unset"))}
    second = in_context(calls, request=2)
    assert set(second) == {(2, "unset", "unset")}


def test_the_value_is_that_of_the_call(make):
    """Not that of the moment in which a task begins, or in which the iterable is drawn."""
    pool = make(1, contextvars=CHOSEN)

    def call():
        tasks.request.set("before")

        def items():
            tasks.request.set("drawn")
            yield from range(3)

        values = pool.imap(tasks.look, items())
        result = pool.map_async(tasks.look, range(3))
        tasks.request.set("after")
        return [value[0] for value in [*values, *result.get(LIMIT_S)]]

    assert contextvars.Context().run(call) == ["before"] * 6


def test_a_forked_worker_has_no_value_of_the_parent():
    """What a variable held where the pool was made does not shine through; a default does."""

    def call():
        tasks.request.set("of the parent")
        tasks.Holder.user.set("of the parent")
        tasks.other.set("not chosen")
        with glasspool.Pool(1, context=get_context("fork"), contextvars=CHOSEN) as pool:
            empty = contextvars.Context().run(pool.apply, tasks.look)
            return empty, pool.apply(tasks.look)

    empty, mine = contextvars.Context().run(call)
    assert empty == ("nobody's", "unset", "not chosen")
    assert mine == ("of the parent", "of the parent", "not chosen")


def test_nothing_reaches_the_next_task():
    """What a task sets ends with it; what the initializer has set is there for each."""
    with glasspool.Pool(1, tasks.set_other, ("ours",), contextvars=CHOSEN) as pool:
        seen = in_context(pool.map, tasks.look_and_spoil, range(6), 3, request="r")
        seen += [in_context(pool.apply, tasks.look_and_spoil, request="r") for _ in range(2)]
    assert seen == [("r", "unset", "ours")] * 8


def test_an_error_begins_at_the_function():
    """The remote traceback has none of our frames."""
    with glasspool.Pool(1, contextvars=CHOSEN) as pool, pytest.raises(LookupError) as caught:
        in_context(pool.apply, tasks.fail, request="r1")
    told = str(caught.value.__cause__)
    assert "r1" in told
    assert "contexts.py" not in told
    assert "carried.py" not in told


def test_a_value_that_cannot_travel_is_the_error_of_the_call(make):
    """It names the variable, comes from get(), and the next call is not harmed."""
    pool = make(1, contextvars=CHOSEN)
    lost = in_context(pool.apply_async, tasks.look, user=threading.Lock())
    with pytest.raises(glasspool.SerializationError, match=r"context_tasks\.Holder\.user cannot"):
        lost.get(LIMIT_S)
    mapped = in_context(pool.map_async, tasks.look, range(4), request=threading.Lock())
    with pytest.raises(glasspool.SerializationError, match=r"context_tasks\.request cannot be pic"):
        mapped.get(LIMIT_S)
    broken = in_context(pool.apply_async, tasks.look, request=tasks.Awkward())
    with pytest.raises(glasspool.SerializationError, match=r"request cannot be rebuilt in the wor"):
        broken.get(LIMIT_S)
    assert in_context(pool.apply, tasks.look, request=1) == (1, "unset", "unset")


def test_a_variable_that_workers_cannot_find_is_refused():
    """By the constructor, which names it and says what to do."""
    local = ContextVar("local")
    with pytest.raises(ValueError, match=r"'local'.*top level of a module"):
        glasspool.Pool(1, contextvars=[local])
    with pytest.raises(TypeError, match="ContextVar objects"):
        glasspool.Pool(1, contextvars=["local"])


def test_a_variable_of_a_prompt_needs_fork(monkeypatch):
    """With another start method workers know nothing of a prompt's __main__."""
    import __main__

    monkeypatch.setattr(__main__, "typed", ContextVar("typed"), raising=False)
    monkeypatch.delattr(__main__, "__file__", raising=False)
    Carrier([__main__.typed], "fork")
    with pytest.raises(ValueError, match=r"'typed'.*prompt or a notebook.*spawn"):
        Carrier([__main__.typed], "spawn")


def test_variables_are_found_under_the_best_name(monkeypatch):
    """In any module rather than in __main__, and in a public place rather than in a private one."""
    import __main__

    monkeypatch.setattr(__main__, "request", tasks.request, raising=False)
    monkeypatch.setattr(tasks, "_also", tasks.request, raising=False)
    assert _places(CHOSEN) == {
        tasks.request: Place("context_tasks", "request"),
        tasks.Holder.user: Place("context_tasks", "Holder.user"),
    }


def test_with_spans_of_opentelemetry():
    """Both travel, whoever came first."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import baggage, context
    from otel_tasks import where

    from glasspool import otel

    def both(pool):
        tasks.request.set("r")
        token = context.attach(baggage.set_baggage("who", "me"))
        try:
            return pool.apply(where)[2], pool.apply(tasks.look)[0]
        finally:
            context.detach(token)

    with otel.instrument(), glasspool.Pool(1, contextvars=CHOSEN) as pool:
        assert contextvars.Context().run(both, pool) == ("me", "r")
    with glasspool.Pool(1, contextvars=CHOSEN) as pool, otel.instrument():
        assert contextvars.Context().run(both, pool) == ("me", "r")


def test_a_pool_without_has_the_short_way():
    """Nothing surrounds the calls of a pool that was told of no variable."""
    with glasspool.Pool(1) as pool:
        assert pool._engine.callables.carry is None
