"""Watch one case from outside: do what it asks for, judge what it leaves, end all that it started."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.fault_pools import Library
from bench.fault_scene import AFTER_S, Case

READY_S = 60.0
"""So long a library may take to be imported, and its cluster to start."""
MARK = "GLASSPOOL_FAULT"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case on one library.

    ``sign`` is ``ok``, ``fails``, ``hangs`` or ``none`` (the library has no such call).
    """

    sign: str
    word: str
    seen: str
    took_s: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class Family:
    """The processes of one case: its session, all that descend from it, all that carry its mark."""

    def __init__(self, root: int, mark: str) -> None:
        self.root = root
        self.mark = f"{MARK}={mark}".encode()
        self.members: dict[int, str] = {}

    def look(self) -> list[int]:
        """Learn of new members; return those that are alive and are not the program itself."""
        found = {pid: (fields[1], fields[3], fields[19]) for pid, fields in _processes()}
        known = {self.root, *self._alive(found)}
        grown = True
        while grown:
            grown = False
            for pid, (parent, session, started) in found.items():
                if self.members.get(pid) != started and (
                    int(session) == self.root or int(parent) in known
                ):
                    self.members[pid] = started
                    known.add(pid)
                    grown = True
        return self._alive(found)

    def _alive(self, found: dict[int, tuple[str, str, str]]) -> list[int]:
        return [
            pid
            for pid, started in self.members.items()
            if pid != self.root and pid in found and found[pid][2] == started
        ]

    def search(self) -> list[int]:
        """Look, and also find those that had left the family before anyone looked."""
        for pid, fields in _processes():
            if pid not in self.members and self._is_marked(pid):
                self.members[pid] = fields[19]
        return self.look()

    def _is_marked(self, pid: int) -> bool:
        try:
            return self.mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False  # gone, or somebody else's

    def end(self) -> None:
        """Kill all of it."""
        for _ in range(50):
            alive = self.search()
            if not alive and not _is_running(self.root):
                return
            for pid in [*alive, self.root]:
                _kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def watch(case: Case, library: Library) -> Verdict:
    """Run a case on a library in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gf", ignore_cleanup_errors=True) as folder:
        return _Watch(case, library, folder).run()


class _Watch:
    def __init__(self, case: Case, library: Library, folder: str) -> None:
        self.case = case
        self.patience = library.patience
        reading, writing = os.pipe()
        order = {"case": case.name, "library": library.name, "folder": folder, "fd": writing}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.log = Path(folder, "log")
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        self.program = subprocess.Popen(
            [sys.executable, "-m", "bench.fault_child", json.dumps(order)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[writing],
            env={**os.environ, "TMPDIR": folder, MARK: folder, "PYTHONPATH": path},
        )
        os.close(writing)
        os.close(log)
        self.reading = reading
        self.unread = b""
        self.family = Family(self.program.pid, folder)

    def run(self) -> Verdict:
        """Judge, and leave nothing behind."""
        try:
            began = time.monotonic()
            if not any("tell" in message for message in self._until("tell", READY_S)):
                return Verdict("fails", "no start", f"not ready: {self._last_words()}")
            began = time.monotonic()
            verdict = self._judge()
            return Verdict(verdict.sign, verdict.word, verdict.seen, time.monotonic() - began)
        finally:
            self.family.end()
            self.program.wait()
            os.close(self.reading)

    def _judge(self) -> Verdict:
        told: dict[str, str] | None = None
        for message in self._until("verdict", self.case.deadline_s * self.patience):
            if "ask" in message:
                self._do(message["ask"])
            told = message.get("verdict", told)
        if told is None and not self._has_ended():
            return Verdict("hangs", "hangs", "the program does not go on")
        if told is None and not self.case.ends:
            return Verdict("fails", "program dies", f"{self._status()}: {self._last_words()}")
        if told is not None and (told["sign"] != "ok" or not self.case.ends):
            return Verdict(told["sign"], told["word"], told["seen"])
        return self._aftermath(told["word"] if told else "gone")

    def _has_ended(self) -> bool:
        """Tell whether the program has ended; one that was just killed may still be about to."""
        try:
            self.program.wait(0.5)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _aftermath(self, word: str) -> Verdict:
        """Judge how the program ends, and what it leaves."""
        deadline = time.monotonic() + AFTER_S * self.patience
        left: list[int] = []
        while time.monotonic() < deadline:
            left = self.family.search()
            if self.program.poll() is not None and not left:
                return Verdict("ok", word, "ended, and nothing is left")
            time.sleep(0.05)
        if self.program.poll() is None:
            return Verdict("hangs", "no end", "the program does not end")
        names = ", ".join(sorted({_name(pid) for pid in left}))
        return Verdict("fails", f"{len(left)} left", f"{len(left)} processes live on: {names}")

    def _do(self, steps: Sequence[Any]) -> None:
        words = iter(steps)
        for word in words:
            if word == "sleep":
                self._sleep(next(words))
            elif word == "kill":
                _kill(next(words), next(words))
            elif word == "interrupt":
                os.killpg(self.program.pid, signal.SIGINT)
            elif word == "kill-all":
                for pid in self.family.search():
                    _kill(pid, signal.SIGKILL)
            elif word == "kill-next":
                self._kill_next()

    def _kill_next(self) -> None:
        known = set(self.family.search())
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            new = set(self.family.look()) - known
            for pid in new:
                _kill(pid, signal.SIGKILL)
            if new:
                return
            time.sleep(0.002)

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.family.look()
            time.sleep(min(left, 0.1))

    def _until(self, key: str, limit_s: float) -> Iterator[dict[str, Any]]:
        """Give the program's messages, until one with the key has come, or it is too late."""
        deadline = time.monotonic() + limit_s
        while (left := deadline - time.monotonic()) > 0:
            line, mark, rest = self.unread.partition(b"\n")
            if mark:
                self.unread = rest
                message = json.loads(line)
                yield message
                if key in message:
                    return
                continue
            self.family.look()
            ended = self.program.poll() is not None
            if select.select([self.reading], [], [], 0 if ended else min(left, 0.1))[0]:
                more = os.read(self.reading, 65536)
                self.unread += more
                if not more:
                    return
            elif ended:
                return  # and all that it had written was read, because it had ended before

    def _status(self) -> str:
        code = self.program.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:120] if lines else "nothing written"


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Give each process that is no zombie, with the fields of its stat file after its name."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # A process may be named by any bytes.
            text = Path("/proc", name, "stat").read_text(errors="replace")
        except OSError:
            continue  # gone
        fields = text.rpartition(")")[2].split()
        if fields[0] not in "ZX":
            yield int(name), fields


def _is_running(pid: int) -> bool:
    return any(pid == other for other, _ in _processes())


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone"
    told = [Path(word.decode(errors="replace")).name for word in words[:3] if word]
    return " ".join(told)[:40]


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended by itself
