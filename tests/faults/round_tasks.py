"""Functions that workers call once, and tasks around them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

calls: list[Any] = []


def note(word: Any, marked: bool = False) -> int:
    """Note a call in this process."""
    calls.append((word, os.getpid()))
    return os.getpid()


def noted(item: Any = None) -> tuple[int, tuple[Any, ...]]:
    """Return who we are, and what was called here, in this very process."""
    assert all(pid == os.getpid() for _, pid in calls)
    return os.getpid(), tuple(word for word, _ in calls)


def note_at_start() -> None:
    """Be an initializer."""
    note("initializer")


def wait_for(path: str) -> int:
    """Return when a file is there."""
    deadline = time.monotonic() + 30
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return os.getpid()


def touch_and_wait(folder: str) -> int:
    """Say that we are here, and wait until we may go on."""
    Path(folder, "running").touch()
    return wait_for(os.path.join(folder, "go"))


def die_once(folder: str) -> str:
    """Die in the first process that gets here; live in the next ones."""
    try:
        os.close(os.open(os.path.join(folder, "died"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "alive"
    os.kill(os.getpid(), signal.SIGKILL)
    return "dead"


def raise_lookup(item: Any = None) -> None:
    """Fail."""
    raise LookupError("no such thing")


def fail_unless(path: str) -> None:
    """Fail if a file is not there."""
    if not os.path.exists(path):
        raise LookupError("no such file")


def leave() -> None:
    """End the process."""
    os._exit(3)


def kill_me() -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def large(count: int) -> bytes:
    """Return many bytes."""
    return bytes(count)


def exit_with(code: int) -> None:
    """Raise ``SystemExit``."""
    raise SystemExit(code)
