"""What of a value cannot be pickled, where it is, and what to do.

Asked only after pickling has failed. The value is taken apart as pickle takes it apart (containers,
``__reduce_ex__``, ``__getstate__``; of functions that travel by value closure, globals and defaults), and
each part is pickled by itself, into nothing: of the first one that fails the parts are tried, until none of
them does. That is bounded in time, depth and number, and calls no ``__repr__`` of the user's. Threads: none;
it runs on the thread whose value failed.

Also here: what to do about a value that arrived and could not be rebuilt (``advice``).
"""

from __future__ import annotations

import copyreg
import functools
import pickle
import re
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from glasspool.engines.local.carried import Carried
from glasspool.errors import SerializationError

LIMIT_S = 0.5
WALL_LIMIT_S = 5.0
DEPTH = 60
MOST = 5_000
"""So long (of processor time, and by the clock, on a machine that has much to do), so deep, and among so many
parts it is looked at most."""

Part = tuple[str, Any]
"""A part of a value, and what it is called: "attribute .lock of Model"."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, type(Ellipsis), range)


class Finding(NamedTuple):
    """What cannot be pickled: the path to it, a name for it, and what to do."""

    path: tuple[str, ...]
    what: str
    remedy: str

    def text(self) -> str:
        """Return it as sentences."""
        where = ", ".join(self.path)
        return f"What cannot travel is {self.what}, at: {where}.\n{self.remedy}"


def find(roots: Iterable[Part], by_value: bool) -> Finding | None:
    """Return what of some values cannot be pickled; None if that was not found within bounds.

    Args:
        roots: The values, and what they are called.
        by_value: Whether functions may travel by value.
    """
    try:
        return _Search(by_value).run(list(roots))
    except Exception:  # the user's code runs in it: whatever it does, the first error is told
        return None


def explained(error: Exception, roots: Iterable[Part], by_value: bool = True) -> Exception:
    """Return the error to raise for values that could not be pickled: it says where and what to do.

    What pickle itself raises becomes a ``SerializationError`` that is of its own type as well; an error of
    the user's code stays as it is, with a note.
    """
    finding = find(roots, by_value)
    kind = _KINDS.get(type(error))
    if kind is None:
        if finding is not None:
            error.add_note(finding.text())
        return error
    text = str(error) if finding is None else f"{error}\n{finding.text()}"
    what = "a value" if finding is None else finding.what
    made = kind(f"{type(error).__name__}: {error}", what, text)
    made.__cause__ = error
    return made


def told(value: Any, root: str, by_value: bool) -> str:
    """Return what of a value cannot be pickled, as text; empty if that was not found."""
    finding = find([(root, value)], by_value)
    return "" if finding is None else finding.text()


# The search -------------------------------------------------------------------------------------------


class _Search:
    def __init__(self, by_value: bool) -> None:
        self._by_value = by_value
        self._until = time.thread_time() + LIMIT_S
        self._until_at_most = time.monotonic() + WALL_LIMIT_S
        self._left = MOST
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # what was made on the way: its ids must not come again

    def run(self, parts: list[Part]) -> Finding | None:
        path: list[str] = []
        culprit: Part | None = None
        while len(path) < DEPTH:
            found = self._first_that_fails(parts)
            if found is None:
                break
            culprit = found
            if found[0]:
                path.append(found[0])
            if _known_remedy(found[1]):
                break  # a thread, and not the lock inside of it
            parts = self._parts(found[1])
        if culprit is None:
            return None
        return Finding(tuple(path), describe(culprit[1]), _remedy(culprit[1]))

    def _first_that_fails(self, parts: Iterable[Part]) -> Part | None:
        for part in parts:
            value = part[1]
            if type(value) in _ATOMS or id(value) in self._seen:
                continue
            self._left -= 1
            if self._left < 0 or self._is_late():
                return None
            if not _can_travel(value, self._by_value):
                self._seen.add(id(value))
                self._kept.append(value)
                return part
        return None

    def _is_late(self) -> bool:
        return time.thread_time() > self._until or time.monotonic() > self._until_at_most

    def _parts(self, value: Any) -> list[Part]:
        try:
            return list(_parts(value))
        except Exception:  # it cannot be taken apart: it is what fails
            return []


class _Nowhere:
    """A file that takes everything."""

    def write(self, data: Any) -> int:
        return len(data)


def _can_travel(value: Any, by_value: bool) -> bool:
    from glasspool.engines.local import payload

    try:
        ForkingPickler(_Nowhere(), payload.PROTOCOL, True, _keep_apart).dump(value)
    except Exception:
        if not by_value:
            return False
    else:
        return True
    try:
        payload.dump_by_value(value)
    except Exception:
        return False
    return True


def _keep_apart(buffer: pickle.PickleBuffer) -> None:
    """Let a large buffer not be copied."""


# Taking apart -----------------------------------------------------------------------------------------


def _parts(value: Any) -> Iterator[Part]:
    if isinstance(value, Carried):
        yield "", value.function
        yield "what travels with each call (a context variable?)", value._luggage
    elif type(value) in (list, tuple, set, frozenset, deque):
        name = type(value).__name__
        yield from ((f"item {index} of a {name}", item) for index, item in enumerate(value))
    elif type(value) is dict:
        yield from _entries(value, "a dict")
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield f"the object of method {value.__func__.__qualname__}", value.__self__
    elif isinstance(value, type(functools.lru_cache(len))):
        yield "the cached function", value.__wrapped__
    elif isinstance(value, functools.partial):
        yield "the function of a partial", value.func
        yield from ((f"argument {n} of a partial", v) for n, v in enumerate(value.args, 1))
        yield from ((f"argument {k}= of a partial", v) for k, v in value.keywords.items())
    elif isinstance(value, type):
        yield from _attributes(dict(vars(value)), f"class {value.__qualname__}")
    else:
        yield from _parts_of_object(value)


def _entries(value: dict[Any, Any], of: str) -> Iterator[Part]:
    for key, item in value.items():
        yield f"key {_word(key)} of {of}", item
    for key in value:
        yield f"a key of {of}", key


def _attributes(state: dict[Any, Any], of: str) -> Iterator[Part]:
    yield from ((f"attribute .{name} of {of}", item) for name, item in state.items())


def _parts_of_function(function: types.FunctionType) -> Iterator[Part]:
    name = _function_name(function)
    code = function.__code__
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"closure variable {variable} of {name}", cell.cell_contents
        except ValueError:  # not set yet
            continue
    for number, default in enumerate(function.__defaults__ or ()):
        at = code.co_argcount - len(function.__defaults__ or ()) + number
        yield f"the default of {code.co_varnames[at]} of {name}", default
    for key, default in (function.__kwdefaults__ or {}).items():
        yield f"the default of {key} of {name}", default
    for key in _global_names(code):
        if key in function.__globals__:
            yield f"global {key} of {name}", function.__globals__[key]
    yield from _attributes(function.__dict__, name)


def _global_names(code: types.CodeType) -> list[str]:
    """Return the names that a function may look up in its globals, those of inner functions, too."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_global_names(constant)))
    return list(names)


def _parts_of_object(value: Any) -> Iterator[Part]:
    """Take an object apart by what it tells pickle."""
    of = type(value).__qualname__
    reduce = getattr(ForkingPickler, "_extra_reducers", {}).get(type(value))
    reduce = reduce or copyreg.dispatch_table.get(type(value))
    told_ = reduce(value) if reduce is not None else value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(told_, tuple):
        return
    rest: list[Any] = [*told_, None, None, None]
    maker, args, state, items, entries = rest[:5]
    if state is not None:
        yield from _parts_of_state(state, of)
    if items is not None:
        yield from ((f"item {index} of {of}", item) for index, item in enumerate(items))
    if entries is not None:
        yield from _entries(dict(entries), of)
    if maker in (copyreg.__newobj__, getattr(copyreg, "__newobj_ex__", None)):  # type: ignore[attr-defined]
        yield f"class {of}", type(value)
        args = args[1:]
    else:
        yield f"what rebuilds {of}", maker
    for number, argument in enumerate(args, 1):
        yield f"argument {number} from which {of} is rebuilt", argument


def _parts_of_state(state: Any, of: str) -> Iterator[Part]:
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        if isinstance(state[0], dict):
            yield from _attributes(state[0], of)
        yield from _attributes(state[1], of)  # of __slots__
    elif isinstance(state, dict):
        yield from _attributes(state, of)
    else:
        yield f"the state of {of}", state


# Words ------------------------------------------------------------------------------------------------


def describe(value: Any) -> str:
    """Return a short name for an object, from built-in attributes only: no user's ``__repr__``."""
    if isinstance(value, types.FunctionType):
        return f"the function {_function_name(value)}"
    if isinstance(value, type):
        return f"the class {value.__module__}.{value.__qualname__}"
    if isinstance(value, types.ModuleType):
        return f"the module {value.__dict__.get('__name__', '?')}"
    cls = type(value)
    module = cls.__module__
    name = cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"
    return f"an object of {name}"


def _function_name(function: types.FunctionType) -> str:
    name = function.__qualname__
    if name.endswith("<lambda>"):
        return f"<lambda> (line {function.__code__.co_firstlineno})"
    return name


def _word(key: Any) -> str:
    if type(key) in (str, bytes):
        return repr(key[:60])
    if type(key) in (int, float, bool, type(None)):
        return repr(key)
    return f"({describe(key)})"


_GUARD = (
    "It guards threads of one process: leave it out in __getstate__ and make it in __setstate__, or make "
    "it in the worker. For a lock between processes: multiprocessing.Manager().Lock()."
)
_CONNECTED = (
    "A connection belongs to its process: pass what it is made from (address, path), and open it in each "
    "worker, once, in the pool's initializer; or leave it out in __getstate__."
)
_FILE = "Pass its name, and open it in the worker."
_DRAWN = (
    "What it has yielded and is to yield cannot be copied: pass a list of its values, or make it in the "
    "worker. (map and imap take a generator as the iterable itself.)"
)
_BY_INHERITANCE = (
    "It is shared by inheritance only: pass it in the pool's initargs and keep it in a global, or use one of "
    "multiprocessing.Manager()."
)
_POINTER = "It points into this process's memory: pass the bytes or numbers that it points to."
_LEAVE_OUT = (
    "Leave it out with __getstate__ (and __setstate__), make it in the pool's initializer, or pass what it "
    "can be made from."
)

_REMEDIES: tuple[tuple[str, str, str], ...] = (
    # Module and class of one of the bases, and what to do. A module that is not loaded has no objects.
    ("_thread", "lock", _GUARD),
    ("_thread", "RLock", _GUARD),
    (
        "_thread",
        "_local",
        "Each thread has its own: make it in the worker, in a global of a module.",
    ),
    ("threading", "Thread", "A thread belongs to its process: start it in the worker."),
    ("threading", "local", "Each thread has its own: make it in the worker."),
    ("multiprocessing.synchronize", "SemLock", _BY_INHERITANCE),
    ("multiprocessing.queues", "Queue", _BY_INHERITANCE),
    ("multiprocessing.queues", "SimpleQueue", _BY_INHERITANCE),
    ("multiprocessing.process", "BaseProcess", "Pass its pid."),
    (
        "multiprocessing.pool",
        "Pool",
        "Leave it out in __getstate__, and make a pool inside the task.",
    ),
    (
        "concurrent.futures._base",
        "Executor",
        "Leave it out in __getstate__, and make one in the task.",
    ),
    ("concurrent.futures._base", "Future", "Wait for its value, and pass that."),
    ("asyncio.futures", "Future", "Wait for its value, and pass that."),
    ("_queue", "SimpleQueue", "It connects threads: use multiprocessing.Manager().Queue()."),
    ("_socket", "socket", _CONNECTED),
    ("ssl", "SSLContext", "Make it in the worker, in the pool's initializer."),
    ("_ssl", "_SSLContext", "Make it in the worker, in the pool's initializer."),
    ("sqlite3", "Connection", _CONNECTED),
    ("sqlite3", "Cursor", _CONNECTED),
    ("_io", "_IOBase", _FILE),
    ("mmap", "mmap", "Pass the name of its file, and map it in the worker."),
    ("builtins", "generator", _DRAWN),
    ("builtins", "async_generator", _DRAWN),
    ("builtins", "coroutine", "Run it here, or pass the function that makes it."),
    ("builtins", "frame", "Pass what you need of it (its file, line and variables)."),
    ("builtins", "traceback", "Pass it as text: traceback.format_tb."),
    ("builtins", "module", "Pass its name, and import it in the worker."),
    ("builtins", "memoryview", "Pass bytes(view)."),
    ("builtins", "mappingproxy", "Pass dict(proxy)."),
    ("weakref", "ReferenceType", "Pass the object itself, or a key by which the worker finds it."),
    ("_ctypes", "_Pointer", _POINTER),
    ("_ctypes", "_SimpleCData", _POINTER),
    ("_ctypes", "CFuncPtr", "Load the library in the worker, and look the function up there."),
    ("ctypes", "CDLL", "Load the library in the worker, by its name."),
    ("_tkinter", "tkapp", "A window belongs to its process: pass the values that it shows."),
    ("subprocess", "Popen", "Pass its pid, or run it in the worker."),
    ("select", "epoll", "Make it in the worker."),
)


def _known_remedy(value: Any) -> str:
    for cls in type(value).__mro__:
        for module, name, remedy in _REMEDIES:
            if cls.__name__ == name and cls.__module__ in (module, module.lstrip("_")):
                return remedy
    return ""


def _remedy(value: Any) -> str:
    known = _known_remedy(value)
    if known:
        return known
    if isinstance(value, types.FunctionType):
        return (
            f"pickle finds functions by name, and {value.__module__} has no such name: define it at the top "
            "level of a module."
        )
    if isinstance(value, type):
        return (
            f"pickle finds classes by name, and {value.__module__} has not this one under that name: define "
            "it at the top level of a module."
        )
    return _LEAVE_OUT


# The error --------------------------------------------------------------------------------------------


class _WithType(SerializationError):
    """What could not be pickled, as an error of pickle's type, too: programs catch that."""

    def __reduce__(self) -> Any:
        return _again, (_names[type(self)], self.exc, self.value, self.text)


class _TypeKind(_WithType, TypeError):
    pass


class _AttributeKind(_WithType, AttributeError):
    pass


class _PicklingKind(_WithType, pickle.PicklingError):
    pass


_KINDS: dict[type, type[_WithType]] = {
    TypeError: _TypeKind,
    AttributeError: _AttributeKind,
    pickle.PicklingError: _PicklingKind,
}
_names: dict[type, str] = {kind: cls.__name__ for cls, kind in _KINDS.items()}

for _kind in _names:
    _kind.__module__, _kind.__qualname__ = SerializationError.__module__, "SerializationError"
    _kind.__name__ = "SerializationError"


def _again(name: str, error: str, value: str, text: str | None) -> _WithType:
    """Rebuild an error of this module in another process."""
    kind: type[_WithType] = next(kind for kind, its in _names.items() if its == name)
    made = kind("", "", text)
    made.exc, made.value = error, value
    return made


# Rebuilding -------------------------------------------------------------------------------------------

Advise = Callable[[re.Match[str], str], str]


def _no_module(found: re.Match[str], where: str) -> str:
    if where.startswith("worker on"):
        return (
            f"The {where} cannot import {found[1]!r}. Install it there, or put it into a folder which all "
            "nodes see and which was in sys.path when the pool was made. Or have its functions travel by "
            f"value: cloudpickle.register_pickle_by_value({found[1].partition('.')[0]})."
        )
    return (
        f"The {where} cannot import {found[1]!r}. It looks where sys.path led when it was started: extend "
        "sys.path before the pool is made, set PYTHONPATH, or install the module. A module that was made at "
        "run time is known in this process alone."
    )


def _no_attribute(found: re.Match[str], where: str) -> str:
    name, module = found[1], found[2]
    if module in ("__main__", "__mp_main__"):
        return (
            f"{name} is defined in the program's main module, where the {where} does not find it: it was "
            "defined after the pool was made, or where the program runs only as the main one. Define it at "
            "the top level of the file, or before the pool is made, or in a module of its own."
        )
    return (
        f"The module {module}, as the {where} has imported it, has no {name}: define it at the top level of "
        "the file, and before the pool is made."
    )


def _wrong_arguments(found: re.Match[str], where: str) -> str:
    return (
        "Pickle rebuilds an exception from its .args: hand all arguments of __init__ to super().__init__(), "
        "or define __reduce__."
    )


_ADVICE: tuple[tuple[re.Pattern[str], Advise], ...] = (
    (re.compile(r"No module named '([^']+)'"), _no_module),
    (re.compile(r"[Cc]an't get attribute '([^']+)' on <module '([^']+)'"), _no_attribute),
    (re.compile(r"module '()([^']+)' has no attribute"), _no_attribute),
    (re.compile(r"__init__\(\) (missing|takes|got)"), _wrong_arguments),
)


def advice(message: str, where: str) -> str:
    """Return what to do about a value that could not be rebuilt; empty if that is not known.

    Args:
        message: What was raised there, as text.
        where: "worker", "worker on the node ...", or "parent process".
    """
    for pattern, advise in _ADVICE:
        found = pattern.search(message)
        if found is not None:
            return advise(found, where)
    return ""
