"""Signal handlers that raise at any bytecode of the main thread lose no task and no result.

Ctrl-C and the time limits of test runners work that way. ``signal_storm`` does it some thousand times,
in a process of its own; here it is run, and ended if it hangs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_python

HERE = Path(__file__).parent
COUNT = 10_000
LIMIT_S = 100


def run_storm(tmp_path: Path, count: int, seed: int) -> str:
    """Run the program; fail with its stacks if it does not end."""
    root = HERE.parent.parent
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), str(root / "src")]))
    env["GLASSPOOL_DIR"] = str(tmp_path / "gp")
    with (tmp_path / "said").open("w+") as said:
        program = subprocess.Popen(
            [sys.executable, str(HERE / "signal_storm.py"), str(count), str(seed)],
            env=env,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = program.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            program.send_signal(signal.SIGUSR2)  # it tells where it hangs
            try:
                program.wait(1)
            except subprocess.TimeoutExpired:
                program.kill()
            code = program.wait(10)
        said.seek(0)
        text = said.read()
    assert code == 0, f"exit code {code}:\n{text[-6000:]}"
    return text


@pytest.mark.timeout(LIMIT_S + 20)
@pytest.mark.parametrize("seed", [1])
def test_raising_signals_lose_nothing(tmp_path: Path, seed: int) -> None:
    """Every result that the caller got hold of ends, the counts add up, the pool works and closes."""
    text = run_storm(tmp_path, COUNT, seed)
    word, raised = text.split()[-1 - len(text.split()) :][:2]
    assert word == "survived"
    assert int(raised) >= COUNT
