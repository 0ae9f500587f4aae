"""What a process finds that imports the program's main module anew."""

from __future__ import annotations

import ast
import pickle
import sys
import types
from pathlib import Path

import pytest

from glasspool.engines.local import interactive, main_guard

PROGRAM = """
import os
from functools import wraps as kept
def top(): pass
async def waiting(): pass
class Top:
    def method(self): pass
try:
    def tried(): pass
except ImportError:
    def otherwise(): pass
else:
    def after(): pass
finally:
    def last(): pass
for looped in range(3):
    bound = lambda: None
with open("x") as opened:
    def within(): pass
if os.name == "posix":
    def here(): pass
else:
    def there(): pass
if (walrus := 1): pass
if __name__ == "__main__":
    def guarded(): pass
    class Guarded: pass
    late = lambda: None
else:
    def imported(): pass
"""


def test_what_is_under_the_main_guard_is_not_found() -> None:
    """All that is bound at the top level is found, but for what only the main process gets to."""
    names = interactive._defined_in(ast.parse(PROGRAM).body)
    found = (
        "top waiting Top tried otherwise after last looped bound opened within here there walrus"
    )
    assert names == {*found.split(), "imported"}


def test_modules_that_are_not_imported(tmp_path: Path) -> None:
    """Nothing is found of a prompt or a package's ``__main__``; nobody knows of what has no source."""
    main = types.ModuleType("__main__")
    assert interactive._found_by_import(main) == set()
    main.__file__ = "<stdin>"
    assert interactive._found_by_import(main) == set()
    main.__file__ = str(tmp_path / "compiled.pyc")
    assert interactive._found_by_import(main) is None
    (tmp_path / "program.py").write_text(PROGRAM)
    main.__file__ = str(tmp_path / "program.py")
    assert "top" in (interactive._found_by_import(main) or ())
    main.__spec__ = type(sys.__spec__)("package.__main__", None)  # type: ignore[union-attr]
    assert interactive._found_by_import(main) == set()


def test_a_marked_name_arrives_as_a_string(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs nothing of ours where it is read, and leaves its mark there."""
    monkeypatch.setattr(sys, "_glasspool_worker", False, raising=False)
    packed = pickle.dumps(main_guard.MarkedName("SpawnPoolWorker-1"))
    assert b"glasspool." not in packed
    arrived = pickle.loads(packed)
    assert type(arrived) is str
    assert arrived == "SpawnPoolWorker-1"
    assert sys._glasspool_worker is True  # type: ignore[attr-defined]
