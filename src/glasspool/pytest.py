"""A pytest plugin that tells of all pools of the process when a test takes too long.

Loaded only by name: ``pytest -p glasspool.pytest``. When pytest-timeout ends a test, by either of its
methods, it prints before that the reason why the pools do not get on, and their roster: of all pools of
the process and of its child processes, ours and others. The option ``--glasspool-after SECONDS`` (ini
``glasspool_after``) does the same without pytest-timeout, once for each test that takes longer, and lets it
go on. Where neither is set, pytest's own ``faulthandler_timeout`` sets the time.

All goes to the standard error that pytest was started with, past its capture. Tests that end in time print
nothing, and no thread is added to the process: a process stands beside it (``watchdog``).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import pytest

from glasspool import watchdog

_HELP = "tell of all pools of the process when a test takes longer than SECONDS"
_NOT_HERE = "glasspool_after: this system has no means to watch over tests from outside"
_OF_TIMEOUT = ("timeout_sigalrm", "timeout_timer")
"""What pytest-timeout calls when a test's time is over, for each of its methods."""

_BEFORE_EXIT_S = 3.0
"""Where faulthandler ends the process at its timeout, the pools are told so much before that."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and its ini twin."""
    group = parser.getgroup("glasspool", "pools of processes and threads")
    group.addoption("--glasspool-after", type=float, metavar="SECONDS", help=_HELP)
    parser.addini("glasspool_after", _HELP)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch over the tests of this process."""
    after_s = _seconds(config)
    if after_s and not watchdog.is_possible():
        config.issue_config_time_warning(pytest.PytestConfigWarning(_NOT_HERE), stacklevel=2)
        after_s = 0.0
    config.pluginmanager.register(_Plugin(after_s), "glasspool-tests")


class _Plugin:
    """Tells of the pools of this process when a test of it takes too long.

    Owns the watchdog, which it starts with the first test, and a copy of standard error.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        # pytest's capture replaces descriptor 2 during a test: reports go to the real one.
        self._stream: TextIO = os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
        self._watchdog: watchdog.Watchdog | None = None
        self._replaced: dict[str, Any] = {}
        self._join_timeout()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Set the time for one test."""
        if self._after_s and self._watchdog is None:
            self._start_watchdog()
        if self._watchdog is not None:
            self._watchdog.arm(item.nodeid)
        yield
        self.pytest_enter_pdb()

    def _start_watchdog(self) -> None:
        after_s, self._after_s = self._after_s, 0.0  # it is tried once
        try:
            self._watchdog = watchdog.Watchdog(after_s, self._stream)
        except OSError as error:  # no more processes: the tests matter more
            print(f"glasspool: nobody watches over the tests: {error}", file=self._stream)

    def pytest_enter_pdb(self) -> None:
        """Set no time for a test that is debugged."""
        if self._watchdog is not None:
            self._watchdog.disarm()

    def pytest_unconfigure(self) -> None:
        """Give all back."""
        for name, function in self._replaced.items():
            setattr(sys.modules["pytest_timeout"], name, function)
        if self._watchdog is not None:
            self._watchdog.close()
        self._stream.close()

    def _join_timeout(self) -> None:
        """Have pytest-timeout tell of the pools before it ends a test.

        Its documented hooks replace its timers; none is called when the time is over.
        """
        timeout = sys.modules.get("pytest_timeout")
        for name in _OF_TIMEOUT:
            function = getattr(timeout, name, None)
            if callable(function):
                self._replaced[name] = function
                setattr(timeout, name, self._before(function))

    def _before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def tell(item: pytest.Item, settings: Any) -> Any:
            __tracebackhide__ = True
            if getattr(settings, "disable_debugger_detection", False) or not _is_debugging():
                self._tell(f"{item.nodeid} has taken more than {settings.timeout:g} s")
            return function(item, settings)

        return tell

    def _tell(self, title: str) -> None:
        try:
            text, is_whole = watchdog.report(os.getpid())
            if not is_whole:
                text = f"{text}\n\n{watchdog.told_inside()}"
            print(watchdog.framed(title, text), file=self._stream, flush=True)
        except Exception as error:  # pytest-timeout must get its turn whatever comes
            print(f"glasspool: the pools could not be told: {error!r}", file=self._stream)


def _is_debugging() -> bool:
    asked = getattr(sys.modules.get("pytest_timeout"), "is_debugging", None)
    return bool(asked()) if callable(asked) else False


def _seconds(config: pytest.Config) -> float:
    """Return after which time a test's pools are told, 0 for never.

    Raises:
        pytest.UsageError: It is no number of seconds.
    """
    told = config.getoption("glasspool_after")
    if told is None:
        told = config.getini("glasspool_after") or _of_faulthandler(config)
    try:
        seconds = float(told)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise pytest.UsageError(f"glasspool_after is a number of seconds, not {told!r}")
    return seconds


def _of_faulthandler(config: pytest.Config) -> float:
    try:
        seconds = float(config.getini("faulthandler_timeout") or 0.0)
    except (KeyError, ValueError):
        return 0.0  # that plugin is off
    try:
        ends = bool(config.getini("faulthandler_exit_on_timeout"))
    except (KeyError, ValueError):
        ends = False  # pytest 8 does not know it
    return max(seconds - _BEFORE_EXIT_S, seconds / 2) if ends else seconds
