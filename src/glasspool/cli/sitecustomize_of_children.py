"""What ``glasspool run --children`` puts before the start of each Python program below the one that it runs.

It is copied, as ``sitecustomize.py``, into a private folder that stands first in ``PYTHONPATH``; the package
never imports it. It must do without the package, which may not be there, and must cost a program without
pools next to nothing: a name in ``sys.meta_path``. Only when a module is imported that has pools, the package
is loaded and its replacement installed. Whatever fails in here, the program runs as without it.

A ``sitecustomize`` of the user's, which stands behind, is run as if this one were not there.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POOLS = ("multiprocessing.pool", "concurrent.futures.process", "multiprocess.pool")
_HERE = os.path.dirname(os.path.abspath(__file__))


class _Finder:
    """Asks the other finders for the modules that have pools, and notices when one has been loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _POOLS:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                _begin_after(spec.loader)
                return spec
        return None


def _begin_after(loader: Any) -> None:
    load = getattr(loader, "exec_module", None)
    if load is None:
        return

    def exec_module(module: Any) -> None:
        load(module)
        # As the import will do in a moment: what is loaded now looks for it there.
        package, _, child = module.__name__.rpartition(".")
        setattr(sys.modules[package], child, module)
        _begin()

    try:
        loader.exec_module = exec_module
    except AttributeError:
        return  # of a kind that takes none: that program's pools stay as they are


def _begin() -> None:
    if _finder not in sys.meta_path:
        return  # it has begun, and imports what it needs
    sys.meta_path.remove(_finder)
    try:
        from glasspool.cli import children

        children.begin(_HERE)
    except Exception:  # another version, another environment: pools stay as they are there
        return


def _run_the_users_own() -> None:
    """Import the ``sitecustomize`` that this one hides, if there is one."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    ours = sys.modules.pop(__name__, None)
    try:
        __import__(__name__)
    except ModuleNotFoundError as error:
        if error.name != __name__:
            raise
    finally:
        if ours is not None:
            sys.modules.setdefault(__name__, ours)


_finder = _Finder()
if os.environ.get("GLASSPOOL", "").strip() != "0" and os.path.isdir(_HERE):
    sys.meta_path.insert(0, _finder)
_run_the_users_own()
