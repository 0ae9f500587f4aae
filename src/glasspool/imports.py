"""Doing something once a module has been imported, now or later, without importing it.

Owns: one finder at the head of ``sys.meta_path``, as long as something waits for an import. It finds nothing
by itself: it asks the others, and has their loader call back when the module is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]

_waiting: dict[str, list[Hook]] = {}


class _Finder:
    """Asks the other finders, and notices when a module that somebody waits for has been loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _waiting:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                _tell_after(spec.loader)
                return spec
        return None


def _tell_after(loader: Any) -> None:
    load = getattr(loader, "exec_module", None)
    if load is None:
        return

    def exec_module(module: ModuleType) -> None:
        load(module)
        for hook in _waiting.get(module.__name__, []).copy():
            hook(module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        return  # of a kind that takes none: that module stays as it is


_finder = _Finder()


def after(name: str, hook: Hook) -> Callable[[], None]:
    """Have a hook called with a module: now if it is there, and after each import of it.

    Args:
        name: The module's full name.
        hook: Called in the thread that imports it, before that goes on.

    Returns:
        A function that takes the hook away.
    """
    _waiting.setdefault(name, []).append(hook)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    there = sys.modules.get(name)
    if there is not None:
        hook(there)

    def forget() -> None:
        hooks = _waiting.get(name, [])
        if hook in hooks:
            hooks.remove(hook)
        if not hooks:
            _waiting.pop(name, None)
        if not _waiting and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)

    return forget
