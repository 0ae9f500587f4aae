"""Programs that tests watch from outside, and the fixture that starts and ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

SCENES = Path(__file__).parent / "scenes"
LIMIT_S = 60

Start = Callable[..., "Program"]


class Program:
    """A scene in a session of its own, which answers each command with a line."""

    def __init__(self, scene: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCENES / f"{scene}.py"), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def answer(self) -> str:
        """Wait for the next line of the program's output, and return it."""
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return line.strip()

    def do(self, command: str) -> str:
        """Give the program a command, and return its answer."""
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.answer()

    def hold(self) -> int:
        """Have a task held, and return the worker that runs it."""
        return int(self.do("hold").removeprefix("held "))

    def end(self) -> None:
        """Kill the program with all that it started; its session is its own."""
        if self.process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(LIMIT_S)
        for end in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                end.close()
        for file in Path(os.environ["GLASSPOOL_DIR"]).glob(f"*.{self.pid}.*"):
            file.unlink()  # a pool that was killed leaves them to the next one


def programs() -> Iterator[Start]:
    """Yield what starts programs; they end with the test."""
    started: list[Program] = []

    def start(scene: str = "watched_pool", *words: str) -> Program:
        started.append(Program(scene, *words))
        if scene == "watched_pool":
            assert started[-1].answer() == "ready"
        return started[-1]

    yield start
    for one in started:
        one.end()
