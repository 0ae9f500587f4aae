"""Signal handlers that call the pool, in the middle of whatever the main thread does with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT_S = 60


@pytest.mark.parametrize("call", ["terminate", "close", "drain", "apply", "apply_async", "map"])
def test_a_handler_calls_the_pool(tmp_path: Path, call: str) -> None:
    """It has its answer in time, and the call that it interrupted ends as if nothing had been."""
    root = HERE.parent.parent
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), str(root / "src")]))
    env["GLASSPOOL_DIR"] = str(tmp_path / "gp")
    program = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "handler_program.py"), call, "1"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = program.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        program.send_signal(signal.SIGUSR2)  # it tells where it hangs
        os.killpg(program.pid, signal.SIGKILL)
        said, _ = program.communicate()
        raise AssertionError(f"it hangs:\n{said[-6000:]}") from None
    assert program.returncode == 0, said[-6000:]
    assert said.startswith("passed")
