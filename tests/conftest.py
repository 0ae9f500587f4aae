"""What all tests share: the guard against hangs, the checks for leaks and of the ledger, the start
methods, pools and gates."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from gates import Gate
from glasspool import registry
from hang_guard import HangGuard
from leaks import nothing_left
from pools import LedgerWatch, MakePool, maker

START_METHODS = ("fork", "spawn", "forkserver")

_CHECKED_FOLDERS = ("integration", "faults", "conformance")

_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer what takes too long for every day."""
    parser.addoption(
        "--whole-matrix",
        action="store_true",
        help="every fault at every moment with every start method, not only under fork",
    )
    parser.addoption(
        "--share",
        type=_share,
        default=(0, 1),
        metavar="K/N",
        help="only the K-th of N shares of the tests (from 1); all shares together have all tests",
    )


def _share(text: str) -> tuple[int, int]:
    number, of = (int(part) for part in text.split("/"))
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"1/{of} to {of}/{of}, not {text}")
    return number - 1, of


def pytest_configure(config: pytest.Config) -> None:
    """Start the guard before anything can hang."""
    config.pluginmanager.register(HangGuard(), "glasspool-hang-guard")
    config.addinivalue_line("markers", "whole_matrix: only with --whole-matrix")
    config.addinivalue_line("markers", "one_python: long, and alike on each version of Python")
    config.addinivalue_line("markers", "browser: in a real Chromium")
    _keep_pytest_out_of_children()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for."""
    whole = config.getoption("--whole-matrix")
    number, of = config.getoption("--share")
    left_out = {
        item
        for item in items
        if (item.get_closest_marker("whole_matrix") and not whole)
        or zlib.crc32(item.nodeid.encode()) % of != number  # alike on each machine
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _keep_pytest_out_of_children() -> None:
    # A spawned child imports the parent's main module again. Here that is pytest, which takes
    # longer than most tests; no test's function lives in it.
    main = sys.modules["__main__"]
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__


@pytest.fixture(scope="session", autouse=True)
def glasspool_dir() -> Iterator[Path]:
    """Keep scoreboards and sockets of the tests apart from the user's.

    The path is short because that of a Unix socket may have 107 bytes at most.
    """
    folder = tempfile.mkdtemp(prefix="gp", dir="/tmp")
    os.environ["GLASSPOOL_DIR"] = folder
    yield Path(folder)
    os.environ.pop("GLASSPOOL_DIR", None)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def standing_processes(glasspool_dir: Path) -> None:
    """Start the two processes of ``multiprocessing`` that live as long as the interpreter."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test itself failed."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check around each test with real processes that all is given back.

    A test that borrows a ``shared_pool`` is not checked by itself: that fixture checks its own
    whole life. Nor is a test that failed: its traceback keeps alive what it used.
    """
    if request.path.parent.name not in _CHECKED_FOLDERS or "shared_pool" in request.fixturenames:
        yield
        return
    request.getfixturevalue("standing_processes")
    check = nothing_left()
    check.__enter__()
    yield
    if not request.node.stash.get(_FAILED, False):
        check.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def ledger_check(
    request: pytest.FixtureRequest, leak_check: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Check the ledger of every pool that a test with real processes made or used."""
    if request.path.parent.name not in _CHECKED_FOLDERS:
        yield
        return
    watch = LedgerWatch()
    monkeypatch.setattr(registry, "add", watch.add)
    yield
    if not request.node.stash.get(_FAILED, False):
        watch.check()


@pytest.fixture(scope="session", params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Run the test with each start method in turn."""
    method: str = request.param
    return method


@pytest.fixture(scope="session")
def ctx(start_method: str) -> BaseContext:
    """Return the ``multiprocessing`` context of the start method."""
    return multiprocessing.get_context(start_method)


@pytest.fixture
def make(ctx: BaseContext, ledger_check: None) -> Iterator[MakePool]:
    """Return a callable that makes pools with each start method, and ends them with the test."""
    yield from maker(ctx)


@pytest.fixture
def make_forked(ledger_check: None) -> Iterator[MakePool]:
    """Return a callable that makes pools under fork, where that is enough."""
    yield from maker(multiprocessing.get_context("fork"))


@pytest.fixture
def gate(ctx: BaseContext, leak_check: None) -> Iterator[Gate]:
    """Return a gate for each start method."""
    made = Gate(ctx)
    yield made
    made.drop()


@pytest.fixture
def forked_gate(leak_check: None) -> Iterator[Gate]:
    """Return a gate for pools under fork."""
    made = Gate(multiprocessing.get_context("fork"))
    yield made
    made.drop()
