"""What users of a type checker get: values of the right types, and errors where they help."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 110


def test_the_types_that_users_see():
    """Each expectation holds under ``mypy --strict``, and each line marked as rejected is an error."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install -e .[dev]")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "tests/typing/expectations.py"],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
