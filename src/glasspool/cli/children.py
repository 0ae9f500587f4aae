"""``glasspool run --children``: the replacement in the program's child processes, and what they tell.

In the process that runs: ``Children`` owns a private folder, which goes with it. In it lies a
``sitecustomize.py`` that each Python started from there on finds first, as the folder stands at the head of
``PYTHONPATH``; and the files into which the children write their accounts.

In a child: ``begin`` installs the replacement, and has each pool noted at its end, as a line of a file with
the child's pid in its name. At once and not at the exit, as children of ``multiprocessing`` leave without
exit functions. What was forked from the program, or from a child, does the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasspool import registry, replacement
from glasspool.snapshot import SCHEMA, as_plain, from_dict

if TYPE_CHECKING:
    from glasspool.cli.report import PoolAccount
    from glasspool.snapshot import PoolInfo, TaskInfo

_SITE = "sitecustomize.py"
_SUFFIX = ".pools"

_folder: str | None = None
"""Where this process notes its pools, if it is a child."""


class Children:
    """The children of one run."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.folder: str = tempfile.mkdtemp(prefix="glasspool-run-")
        source = Path(__file__).with_name("sitecustomize_of_children.py")
        Path(self.folder, _SITE).write_bytes(source.read_bytes())
        self._before = os.environ.get("PYTHONPATH")
        entries = [self.folder, *([self._before] if self._before else [])]
        os.environ["PYTHONPATH"] = os.pathsep.join(entries)
        _in_forks(self.folder)

    def end(self) -> tuple[PoolAccount, ...]:
        """Return the accounts of the children's pools, oldest first, and remove the folder."""
        found: list[PoolAccount] = []
        for file in Path(self.folder).glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                found += _read(file.read_text(encoding="utf-8"))
        found.sort(key=lambda account: account.ended_at)
        self.discard()
        return tuple(found)

    def discard(self) -> None:
        """Remove the folder: Pythons that start later are no children of this run."""
        if os.getpid() != self._pid:
            return
        if self._before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = self._before
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(folder: str) -> None:
    """Install the replacement in a child, and have its pools noted (``sitecustomize``)."""
    if not os.path.isdir(folder) or not replacement.install():
        return
    _note_from_now_on(folder)
    _in_forks(folder)


def _note_from_now_on(folder: str) -> None:
    global _folder
    _folder = folder
    registry.on_shutdown(_note)


def _in_forks(folder: str) -> None:
    """Have the pools noted of what this process forks, where the hooks of the registry are gone."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _note_from_now_on(folder))


def _note(pool: PoolInfo, slowest: tuple[TaskInfo, ...]) -> None:
    """Write a pool's account down, in one step: children of children may have a pid again."""
    if _folder is None:
        return
    line = {"pool": as_plain(pool), "slowest": as_plain(slowest), "ended_at": time.time()}
    data = json.dumps(line).encode() + b"\n"
    with contextlib.suppress(OSError):  # the run is over
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(os.path.join(_folder, f"{os.getpid()}{_SUFFIX}"), flags, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)


def _read(text: str) -> list[PoolAccount]:
    from glasspool.cli.report import PoolAccount

    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, IndexError):  # cut short by a death
            told: dict[str, Any] = json.loads(line)
            at = told["ended_at"]
            one = {"schema": SCHEMA, "taken_at": at, "pools": [told["pool"]]}
            tasks = {**one, "pools": [{**told["pool"], "tasks": told["slowest"]}]}
            slowest = from_dict(tasks).pools[0].tasks
            found.append(PoolAccount(from_dict(one).pools[0], slowest, at))
    return found
