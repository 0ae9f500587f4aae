"""One Chromium and one watched program for all tests of the page.

They end with the module: other tests look at all pools that there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from browser.served_pages import Browser, MakeWatched, Program, Server, start_browser, watched_maker


@pytest.fixture(scope="module")
def nothing_stays() -> Iterator[None]:
    """Fail if a process of ours outlives the tests."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive, f"left behind: {alive}"


@pytest.fixture(scope="module")
def chromium(nothing_stays: None) -> Iterator[Browser]:
    """Start the browser."""
    yield from start_browser()


@pytest.fixture
def browser(chromium: Browser, glasspool_dir: Path) -> Iterator[Browser]:
    """Lend the browser to a test; afterwards nothing is wrong on its console, and it asked nobody else."""
    chromium.driver.get("about:blank")
    chromium.said(), chromium.requests()
    yield chromium
    chromium.driver.get("about:blank")
    assert not chromium.said()
    allowed = (*chromium.allowed, "data:", "about:")
    others = [url for url in chromium.requests() if not url.startswith(allowed)]
    assert not others


@pytest.fixture(scope="module")
def make_watched(nothing_stays: None, glasspool_dir: Path) -> Iterator[MakeWatched]:
    """Return a callable that starts a program and its server."""
    assert os.environ["GLASSPOOL_DIR"] == str(glasspool_dir)
    yield from watched_maker()


@pytest.fixture(scope="module")
def watched(make_watched: MakeWatched) -> tuple[Program, Server]:
    """Start the program that most tests look at: four workers, three of which are held."""
    program, server = make_watched(4)
    program.do("hold first")
    program.do("hold second")
    program.do("evil bold")
    return program, server
