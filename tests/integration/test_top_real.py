"""``glasspool top`` before real pools: ours and the standard library's, on the screen and printed."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import roster_tasks as tasks

from glasspool.observe import control
from glasspool.observe.watch import Watch
from glasspool.views.top.app import TopApp
from glasspool.views.top.listing import Listing
from glasspool.views.top.screens import Details

LIMIT_S = 60.0
SCENES = Path(__file__).parent.parent / "scenes"


def glasspool(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as users do, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "glasspool", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )


def at_the_screen(
    pid: int | None, steps: Callable[[TopApp, Any], Awaitable[None]], **more: Any
) -> None:
    """Run the application before a real program, go through some steps, and leave."""
    watch = Watch(pid)

    async def go() -> None:
        app = TopApp(watch, every_s=0.1, **more)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: bool(app.session.pools))
            await steps(app, pilot)

    try:
        asyncio.run(asyncio.wait_for(go(), LIMIT_S))
    finally:
        watch.close()


async def until(pilot: Any, is_so: Callable[[], bool]) -> None:
    """Let the application go on until something is so."""
    while not is_so():  # the whole has a limit
        await pilot.pause(0.02)
    await pilot.pause()


def rows(app: TopApp) -> list[tuple[str, ...]]:
    """Return the cells of the table on the screen."""
    table = app.query_one(Listing).table
    return [tuple(f"{cell.text} {cell.tail}".strip() for cell in row.cells) for row in table.rows]


def head(app: TopApp) -> str:
    """Return the lines on top."""
    return "\n".join("".join(words.text for words in line) for line in app._head(120))


def counters(text: str) -> dict[str, int]:
    """Read the counters from the lines on top."""
    line = next(line for line in text.splitlines() if line.startswith("tasks "))
    found = re.findall(r"([a-z ]+?) ([\d,]+)(?:  |$)", line.removeprefix("tasks "))
    return {name.strip(): int(count.replace(",", "")) for name, count in found}


def test_the_numbers_are_those_of_ps(make_forked, forked_gate):
    """Counters, workers, pids and tasks on the screen equal ``ps PID --json`` at that moment."""
    pool = make_forked(2, tasks.keep, forked_gate.shared)
    pool.map(abs, range(40), chunksize=1)
    results = [pool.apply_async(tasks.wait_at_gate, (n,)) for n in range(5)]
    forked_gate.wait_for_tasks(2)
    told = json.loads(glasspool("ps", str(os.getpid()), "--json").stdout)
    (seen,) = told["pools"]
    workers = [process for process in seen["processes"] if process["role"] == "worker"]

    async def steps(app: TopApp, pilot: Any) -> None:
        await until(pilot, lambda: len(rows(app)) == 2 and all(row[4] for row in rows(app)))
        shown = counters(head(app))
        assert {key: shown[key] for key in ("done", "waiting", "running", "failed")} == {
            key: seen["stats"][key] for key in ("done", "waiting", "running", "failed")
        }
        assert "2 of 2 busy" in head(app)
        assert [row[1] for row in rows(app)] == [str(process["pid"]) for process in workers]
        assert [row[8] for row in rows(app)] == [str(process["tasks_done"]) for process in workers]
        assert all("wait_at_gate(" in row[4] for row in rows(app))
        await pilot.press("2")
        listed = {row[1] for row in rows(app)}
        # asyncio looks on a thread of its own, in this very process.
        assert listed >= {
            str(thread["native_id"])
            for process in seen["processes"]
            for thread in process["threads"]
            if thread["python"]
        }
        await pilot.press("3")
        opened = {row[0] for row in rows(app) if row[1] in ("running", "waiting", "sent")}
        assert opened == {str(task["id"]) for task in seen["tasks"]}

    at_the_screen(os.getpid(), steps)
    printed = glasspool("top", str(os.getpid()), "--plain", "--every", "0.1")
    assert printed.returncode == 0, printed.stderr
    assert counters(printed.stdout)["done"] == seen["stats"]["done"]
    as_json = json.loads(glasspool("top", str(os.getpid()), "--json", "--every", "0.1").stdout)
    assert as_json["pools"][0]["stats"] == seen["stats"]
    assert pool.name in as_json["paces"]
    forked_gate.open()
    assert [one.get(LIMIT_S) for one in results] == list(range(5))


def test_a_stack_and_a_restart_on_the_screen(make_forked, forked_gate):
    """Enter shows where a real task is; r and k end its worker, and the log and the deaths tell of it."""
    pool = make_forked(1, tasks.keep, forked_gate.shared, name="watched")
    lost = pool.apply_async(tasks.wait_at_gate, (1,))
    forked_gate.wait_for_tasks()
    (pid,) = (process.pid for process in pool.inspect().workers)

    async def steps(app: TopApp, pilot: Any) -> None:
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Details))
        lines = app.screen._lines
        await until(
            pilot,
            lambda: any(words.text.strip() == "wait_open" for line in lines(100) for words in line),
        )
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        await pilot.press("r")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        await pilot.press("k")
        await until(pilot, lambda: bool(rows(app)) and rows(app)[0][1] != str(pid))
        await pilot.press("4")
        await until(pilot, lambda: bool(rows(app)))
        assert "was restarted by hand" in rows(app)[0][3]
        await pilot.press("5")
        assert any("was restarted by hand" in row[3] for row in rows(app))

    at_the_screen(os.getpid(), steps, control=control)
    with pytest.raises(Exception, match="was restarted by hand"):
        lost.get(LIMIT_S)


def test_a_pool_of_the_standard_library():
    """A stock pool is watched from outside, an unchanged program: workers, tasks, roles; then it ends."""
    program = subprocess.Popen(
        [sys.executable, str(SCENES / "stock_pool.py"), "fork", "map"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in program.stdout:
            if line.strip() == "task 101":
                break

        async def steps(app: TopApp, pilot: Any) -> None:
            await until(pilot, lambda: len(rows(app)) == 2)
            assert all(row[-4].startswith("work(") for row in rows(app))
            await pilot.press("2")
            text = "\n".join("  ".join(row) for row in rows(app))
            for role in ("worker-handler", "task-handler", "result-handler", "initializer, task"):
                assert role in text
            os.killpg(program.pid, signal.SIGKILL)
            program.wait(LIMIT_S)
            await until(pilot, lambda: "ended at" in head(app))
            assert rows(app)  # the last state stays

        at_the_screen(program.pid, steps)
    finally:
        if program.returncode is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait(LIMIT_S)
        program.stdout.close()


def in_a_terminal(words: tuple[str, ...], wait_for: str, keys: str, **env: str) -> tuple[int, str]:
    """Run the command in a terminal of 80 x 24, press keys once it shows something; code, screen."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update({"TERM": "xterm", "COLUMNS": "80", "LINES": "24", **env})
        os.execv(sys.executable, [sys.executable, "-m", "glasspool", *words])
    screen, deadline, pressed = b"", time.monotonic() + LIMIT_S, False
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # the other side has closed it
                break
            if not part:
                break
            screen += part
            if not pressed and wait_for.encode() in screen:
                os.write(terminal, keys.encode())
                pressed = True
        else:
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen.decode(errors="replace")
    finally:
        os.close(terminal)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_a_real_terminal():
    """Without a pool it waits for one, in a real terminal; q leaves it with exit code 0."""
    code, screen = in_a_terminal(("top",), "no pool of glasspool is running", "q")
    assert code == 0, screen
    assert "\x1b[?1049l" in screen  # the terminal is as it was


def test_bad_input():
    """No terminal, no such process, no pool, bad arguments: one line, and the exit code for it."""
    none = glasspool("top")
    assert none.returncode == 0
    assert "no pool of glasspool is running" in none.stdout
    assert "no terminal" in none.stderr
    gone = glasspool("top", "2147483000", "--plain")
    assert (gone.returncode, gone.stdout) == (3, "")
    assert gone.stderr.startswith("glasspool: no such process")
    for words in (("nobody",), ("--every", "0"), ("1", "2")):
        assert glasspool("top", *words).returncode == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_without_textual(tmp_path):
    """Where Textual is not installed, the command to install it is told, with exit code 2."""
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError('no', name='textual')\n")
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    code, screen = in_a_terminal(("top",), "never", "", PYTHONPATH=path)
    assert code == 2
    assert "pip install 'glasspool[top]'" in screen
