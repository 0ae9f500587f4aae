"""What workers know by name of the main module, and of others that no process can import.

What is defined in a file, any process can find by name, as a rule. Not so:

* what is typed at a prompt or in a cell, or comes from ``python -c`` or standard input: a worker that was
  forked later has a copy of it, as it was then; one that was forked before, or is no fork, has nothing;
* in a script, what is defined where only the main process gets (``if __name__ == "__main__":``, ``exec``),
  for workers that import the script anew; ``__main__`` of a package or a zip file, which they do not import;
* what a script defines anew after the pool was made;
* functions of a module that was made at run time.

So while there are pools, pickle asks here, for each function and class of such a ``__main__``, whether all of
their workers have this very object. If not, it travels by value (``payload.dump_any``), also when a cell was
run again and the name leads to something new. Where they have it, it still goes by name, also inside of what
travels by value: then an instance is of the class that the worker knows, and a global that the initializer
has set is the one that the function sees.

To ask costs time for each object. So it is done for what is submitted, and for all else only once something
is known to be elsewhere.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import weakref
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, MethodType, ModuleType
from typing import Any

NAMED = (FunctionType, type, type(functools.lru_cache(len)))
"""What pickle finds by name. Of other decorators the outcome is a function, or has a state of its own."""

Names = dict[str, "weakref.ref[Any]"]

ELSEWHERE = "elsewhere"
"""What stands for the start method of workers on other machines, which have another main module."""

known: dict[int, Names] = {}
"""For each pool with something that its workers have not, by its number, what they find in ``__main__``."""

_quiet: dict[int, Names] = {}
"""The same for pools where nothing is known to be elsewhere."""

_far: set[int] = set()
"""The numbers of the pools whose workers are on other machines."""

_spawning: set[int] = set()
"""The numbers of the pools whose workers are no forks of this process."""


def _forget_all() -> None:
    # In a worker: what it returns is for the program, which knows what it has typed.
    for numbers in (known, _quiet, _far, _spawning):
        numbers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class Elsewhere(AttributeError):
    """Something is known here by its name, and in workers it is not. As pickle says of local ones."""


def is_interactive() -> bool:
    """Tell whether ``__main__`` comes from no file, so that no worker can import it."""
    main = sys.modules.get("__main__")
    if main is None or not is_no_file(getattr(main, "__file__", "<none>")):
        return False
    typed = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    loader = getattr(main, "__loader__", None)
    return (
        typed or getattr(loader, "__name__", "") == "BuiltinImporter"
    )  # python -c, standard input


def is_no_file(path: Any) -> bool:
    """Tell whether the path of a main module is none, as that of standard input."""
    return isinstance(path, str) and path.startswith("<") and path.endswith(">")


def begin(number: int, start_method: str) -> None:
    """Take note of what the workers of a pool know that is being made."""
    if start_method == ELSEWHERE:
        _far.add(number)
        _spawning.add(number)
        known[number] = {}
        return
    names = _named()
    if start_method != "fork":
        _spawning.add(number)
        found = _found_by_import(sys.modules.get("__main__"))
        if found is not None:
            some = {name: reference for name, reference in names.items() if name in found}
            if len(some) < len(names):
                known[number] = some
                return
    if is_interactive():
        known[number] = names
    else:
        _quiet[number] = names


def end(number: int) -> None:
    """Forget a pool that has ended."""
    known.pop(number, None)
    _quiet.pop(number, None)
    _far.discard(number)
    _spawning.discard(number)


def _named() -> Names:
    main = sys.modules.get("__main__")
    return {
        name: weakref.ref(value)
        for name, value in list(getattr(main, "__dict__", {}).items())
        if isinstance(value, NAMED) and value.__module__ == "__main__"
    }


def _found_by_import(main: ModuleType | None) -> set[str] | None:
    """Return the names that a process has which imports the main module as ``multiprocessing`` does.

    None: all of them, or that cannot be found out.
    """
    spec_name = getattr(getattr(main, "__spec__", None), "name", None)
    path = getattr(main, "__file__", None)
    if spec_name is not None and spec_name.rpartition(".")[2] == "__main__":
        return set()  # which multiprocessing does not import
    if spec_name is None and (path is None or is_no_file(path)):
        return set()
    try:
        with open(path or "", "rb") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):  # in an archive, or compiled
        return None
    return _defined_in(body)


def _defined_in(body: list[ast.stmt]) -> set[str]:
    """Return the names that statements bind where not only the main process gets."""
    names: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.If) and _asks_for_main(statement.test):
            names |= _defined_in(statement.orelse)
        else:
            names |= _bound_in(statement)
    return names


def _bound_in(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds, and those within it do."""
    names: set[str] = set()
    for field in ("body", "orelse", "finalbody"):
        inner = getattr(statement, field, None)
        if isinstance(inner, list):
            names |= _defined_in(inner)
    for handler in getattr(statement, "handlers", []):
        names |= _defined_in(handler.body)
    for node in ast.iter_child_nodes(statement):
        if isinstance(node, ast.expr | ast.withitem):
            names |= {
                name.id
                for name in ast.walk(node)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
    return names


def _asks_for_main(test: ast.expr) -> bool:
    """Tell whether a condition is, or holds, ``__name__ == "__main__"``."""
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    values = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    return "__name__" in names and "__main__" in values


def is_elsewhere(value: Any) -> bool:
    """Tell whether a function or class goes by a name that not all workers know, or not as this."""
    module = getattr(value, "__module__", None)
    if module != "__main__":
        return bool(_spawning) and (not _can_be_imported(module) or goes_by_value(module))
    name = str(getattr(value, "__qualname__", "")).partition(".")[0]
    now = getattr(sys.modules.get("__main__"), name, None)
    for pools in (known, _quiet):
        for names in list(pools.values()):
            reference = names.get(name)
            if reference is None or reference() is not now:
                return True
    return False


def look_at(function: Any) -> bool:
    """Tell whether a function that is submitted is elsewhere; if so, all else is looked at from now on."""
    named = _named_one(function)
    if not isinstance(named, NAMED) or not is_elsewhere(named):
        return False
    known.update(_quiet)
    _quiet.clear()
    return True


def _named_one(function: Any) -> Any:
    """Return what of a callable goes by name: the class of a method's object, the function of a partial."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__self__
    return function if isinstance(function, NAMED) else type(function)


def _can_be_imported(name: Any) -> bool:
    """Tell whether another process may find a module: not if it was made at run time."""
    if name == "__mp_main__":
        return True
    module = sys.modules.get(name)
    return module is None or getattr(module, "__spec__", None) is not None


def is_far() -> bool:
    """Tell whether there are pools whose workers are on other machines."""
    return bool(_far)


def goes_by_value(name: Any) -> bool:
    """Tell whether the program wants a module's functions to travel by value to other machines."""
    if not _far or not isinstance(name, str):
        return False
    from cloudpickle import list_registry_pickle_by_value  # loaded already, with such a pool

    wanted = list_registry_pickle_by_value()
    while wanted and name and name not in wanted:
        name = name.rpartition(".")[0]
    return bool(wanted and name)


def made_here(value: Any) -> ModuleType | None:
    """Return the module of a function or class if other processes cannot import it."""
    name = getattr(value, "__module__", None)
    if name == "__main__" or not _spawning or _can_be_imported(name):
        return None
    return sys.modules.get(name)  # type: ignore[arg-type]  # a name, as the module is there


def is_known(value: Any) -> bool:
    """Tell whether all workers know a function or class of ``__main__`` by its name."""
    if getattr(value, "__module__", None) not in ("__main__", "__mp_main__"):
        return False
    found: Any = sys.modules.get("__main__")
    for name in str(getattr(value, "__qualname__", "")).split("."):
        found = getattr(found, name, None)
    return found is value and not is_elsewhere(value)


class MindfulPickler(ForkingPickler):
    """Pickles by name only what workers find by it."""

    def reducer_override(self, value: Any, /) -> Any:
        """Refuse what they do not find; all else is pickled as always."""
        if isinstance(value, NAMED) and is_elsewhere(value):
            raise Elsewhere(
                f"{value.__qualname__} of {value.__module__} is not known in the workers"
            )
        return NotImplemented


class Packed:
    """A value on its way to a process that is started anew, by value where it must be.

    It is pickled while ``multiprocessing`` starts a process, when its locks and queues may travel; what
    arrives is the value.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> Any:
        from glasspool.engines.local import payload

        return payload.load, (payload.dump_in_one_piece(self._value, by_value=True),)
