"""What is loaded when: a program pays for what it uses, and each spawned worker pays again."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from typing import Generic, NamedTuple, TypeVar

import pytest

import glasspool
from glasspool.options import Policy

T = TypeVar("T")

LIMIT_S = 60.0

HEAVY = {
    *("typing", "dataclasses", "inspect", "json", "ctypes", "_ctypes", "resource", "runpy"),
    *("pathlib", "logging", "asyncio", "psutil", "rich", "cloudpickle"),
}


def modules_after(program: str) -> set[str]:
    """Return what a fresh interpreter has loaded after a program, beyond what it begins with."""
    program = f"import sys; before = set(sys.modules); {program}; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing_of_a_pool() -> None:
    """``import glasspool`` costs next to nothing: each name is loaded when it is asked for."""
    loaded = modules_after("import glasspool")
    assert not {"multiprocessing", "threading", "socket"} & loaded
    assert not HEAVY & loaded


def test_a_pool_loads_nothing_heavy_beyond_the_standard_librarys() -> None:
    """``from glasspool import Pool`` loads our own modules and few others."""
    beyond = modules_after("from glasspool import Pool") - modules_after(
        "import multiprocessing.pool"
    )
    assert not HEAVY & beyond


def test_a_spawned_worker_loads_no_pool() -> None:
    """It needs a part of the package only, and not the standard library's pool either."""
    program = (
        "import multiprocessing, glasspool; "
        "pool = glasspool.Pool(1, context=multiprocessing.get_context('spawn')); "
        "names = pool.apply(eval, (\"__import__('sys').modules.keys() | set()\",)); "
        "pool.close(); pool.join(); "
        "assert 'glasspool.engines.local.worker' in names; "
        "wrong = names & {'glasspool.pool', 'multiprocessing.pool', 'typing', 'tempfile'}; "
        "assert not wrong, wrong"
    )
    modules_after(program)


# The stand-ins for ``typing`` -------------------------------------------------------------------------


class Point(NamedTuple):
    """A record as the package has them."""

    x: int
    y: int = 2

    @property
    def total(self) -> int:
        """The sum."""
        return self.x + self.y


def test_a_record_is_a_named_tuple() -> None:
    """With defaults, methods, docstring and module; it can be pickled."""
    point = Point(1)
    assert (point.x, point.y, point.total) == (1, 2, 3)
    assert (Point._fields, Point._field_defaults) == (("x", "y"), {"y": 2})
    assert (Point.__doc__, Point.__module__) == ("A record as the package has them.", __name__)
    assert pickle.loads(pickle.dumps(point)) == point
    assert point._replace(x=5) == (5, 2)
    assert issubclass(Point, tuple)
    assert Policy().is_default


def test_a_generic_class_can_be_subscripted() -> None:
    """``AsyncResult[int]`` works where an annotation is evaluated."""

    class Box(Generic[T]):
        pass

    for cls in (Box, glasspool.AsyncResult, glasspool.MapResult, glasspool.IMapIterator):
        alias = cls[int]
        assert (alias.__origin__, alias.__args__) == (cls, (int,))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_error_keeps_its_remote_traceback(method: str) -> None:
    """Its cause is what the standard library's pool gives, though the worker has not loaded that."""
    with glasspool.Pool(1, context=multiprocessing.get_context(method)) as pool:
        with pytest.raises(ZeroDivisionError) as caught:
            pool.apply(divmod, (1, 0))
    cause = caught.value.__cause__
    assert type(cause).__name__ == "RemoteTraceback"
    assert "ZeroDivisionError" in str(cause)
