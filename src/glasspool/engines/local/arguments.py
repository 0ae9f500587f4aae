"""Short texts of a task's arguments, made from their pickle without running anything of the user's.

The parent has the arguments of a task only as a pickle. It is read with an unpickler for which every
name is an inert stand-in: no module is imported, no class or function of the user's (or of anybody else) is
called, no ``__reduce__``, ``__setstate__`` or ``__repr__`` runs. What is left are values of built-in types
and stand-ins, and of these a text of bounded length is made.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import payload, wire

if TYPE_CHECKING:
    from glasspool.ledger import Task

TEXT = 200
"""No text is longer, in characters."""

PICKLE_BYTES = 256 * 1024
"""A longer pickle is not read."""

_DEPTH = 4
_STRING = 60
_BYTES = 24
_INTEGER_BITS = 256
_NAMES = 500
_BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")")}


def of_task(task: Task, item: int | None = None) -> str | None:
    """Return the arguments of a task's call as text, like ``(1, 'a', key=None)``; None if unknown.

    Of a chunk, those of one item. Safe from any thread. Never raises.
    """
    packed = task.payload  # the collector drops it when the task ends
    return None if packed is None else of_packed(packed, task.kind, task.weight, item)


def of_packed(packed: Any, kind: int, weight: int, item: int | None = None) -> str:
    """Return the arguments of a call as ``of_task`` does, from a task's payload, kind and weight."""
    try:
        value = packed if kind & wire.PLAIN else _unpack(packed)
        if kind & wire.INLINE:
            _, value = value
        return _call(value, kind, item)
    except Exception:  # too long, or of a kind that nobody thought of: a text is not worth more
        return f"({weight} bytes)"


def show(value: Any, limit: int = TEXT) -> str:
    """Return a text of a value that ``read`` gave, at most ``limit`` characters long."""
    return _cut(_show_all((value,), {}), limit)


def read(pickled: bytes, buffers: tuple[bytes, ...] = ()) -> Any:
    """Read a pickle as built-in values and stand-ins.

    Raises:
        Exception: It cannot be read so.
    """
    if len(pickled) > PICKLE_BYTES:
        raise ValueError(f"the pickle is longer than {PICKLE_BYTES} bytes")
    registered: dict[Any, Any] = copyreg._extension_registry  # type: ignore[attr-defined]
    if registered:
        # Their codes lead to objects without asking find_class.
        raise ValueError("pickle extensions are registered")
    return _Reader(io.BytesIO(pickled), buffers=buffers).load()


class StandIn:
    """What stands for an object of a class or the outcome of a call; its class is named for it."""

    path: str = ""

    def __new__(cls, *args: Any, **kwds: Any) -> StandIn:
        made = object.__new__(cls)
        made.args = args
        made.kwds = kwds
        made.state = None
        return made

    args: tuple[Any, ...]
    kwds: dict[str, Any]
    state: Any

    def __init__(self, *args: Any, **kwds: Any) -> None:
        """Take anything."""

    def __call__(self, *args: Any, **kwds: Any) -> StandIn:
        """Stand for the outcome of calling what was the outcome of a call."""
        return type(self)(*args, **kwds)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an item of a mapping, which is not shown."""

    def extend(self, values: Any) -> None:
        """Take items of a sequence, which are not shown."""

    def append(self, value: Any) -> None:
        """Take an item of a list, which is not shown."""

    def add(self, value: Any) -> None:
        """Take an item of a set, which is not shown."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, buffers: tuple[bytes, ...]) -> None:
        super().__init__(file, buffers=buffers)
        self._known: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        path = f"{module}.{name}"
        if path not in self._known:
            if len(self._known) >= _NAMES:
                raise ValueError("too many names in one pickle")
            self._known[path] = type("StandIn", (StandIn,), {"path": path})
        return self._known[path]

    def persistent_load(self, pid: Any) -> Any:
        return StandIn()


def _unpack(packed: bytes | payload.Parcel) -> Any:
    if not isinstance(packed, payload.Parcel):
        return read(packed)
    length, *others = payload.part_lengths(packed.head)
    if length > PICKLE_BYTES:
        raise ValueError(f"the pickle is longer than {PICKLE_BYTES} bytes")
    # What travels beside the pickle is of no use for a text.
    return read(packed.pickled(), (b"",) * len(others))


def _call(value: Any, kind: int, item: int | None) -> str:
    mode = kind & wire.MODE
    args, kwds = value, {}
    if mode == wire.APPLY and kind & wire.KEYWORDS:
        args, kwds = value
    elif mode == wire.SINGLE:
        args = (value,)
    elif mode == wire.CHUNK:
        args = (_item_of(value, item or 0),)
    elif mode == wire.STARCHUNK:
        args = value[item or 0]
    if type(args) not in (tuple, list):
        return f"(*{show(args)})"
    return f"({_cut(_show_all(args, kwds), TEXT - 2)})"


def _item_of(chunk: Any, index: int) -> Any:
    if isinstance(chunk, StandIn) and chunk.path == "builtins.range":
        return range(*chunk.args)[index]
    return chunk[index]


def _cut(parts: Iterator[str], limit: int) -> str:
    text = ""
    for part in parts:
        text += part
        if len(text) > limit:
            return text[: limit - 3] + "..."
    return text


def _show_all(args: Any, kwds: Any, depth: int = 0) -> Iterator[str]:
    comma = ""
    for value in args:
        yield comma
        yield from _show(value, depth)
        comma = ", "
    for key, value in kwds.items():
        yield f"{comma}{_short(key) if type(key) is str else '?'}="
        yield from _show(value, depth)
        comma = ", "


def _show(value: Any, depth: int) -> Iterator[str]:
    """Yield a text bit by bit: whoever has enough of it stops asking."""
    kind = type(value)
    if kind in (bool, type(None), float, complex):
        yield repr(value)
    elif kind is int:
        bits = value.bit_length()
        yield repr(value) if bits <= _INTEGER_BITS else f"<int of {bits} bits>"
    elif kind in (str, bytes, bytearray):
        yield _show_string(value)
    elif kind in (list, tuple, set, frozenset, dict):
        yield from ("...",) if depth >= _DEPTH else _show_collection(value, depth + 1)
    elif isinstance(value, StandIn):
        yield from _show_stand_in(value, depth + 1)
    elif isinstance(value, type) and issubclass(value, StandIn):
        yield _short(value.path)
    else:
        yield f"<{kind.__name__}>"


def _show_string(value: str | bytes | bytearray) -> str:
    limit, unit = (_STRING, "characters") if isinstance(value, str) else (_BYTES, "bytes")
    if len(value) <= limit:
        return repr(value)
    return f"{value[:limit]!r}... ({len(value)} {unit})"


def _show_collection(value: Any, depth: int) -> Iterator[str]:
    if type(value) is dict:
        yield "{"
        comma = ""
        for key, item in value.items():
            yield comma
            yield from _show(key, depth)
            yield ": "
            yield from _show(item, depth)
            comma = ", "
        yield "}"
        return
    if type(value) in (set, frozenset) and not value:
        yield f"{type(value).__name__}()"
        return
    left, right = _BRACKETS.get(type(value), ("{", "}"))
    yield left
    yield from _show_all(value, {}, depth)
    yield f",{right}" if type(value) is tuple and len(value) == 1 else right


def _show_stand_in(value: StandIn, depth: int) -> Iterator[str]:
    path = value.path
    if path.endswith(("multiarray._reconstruct", "numeric._frombuffer")):
        yield _show_array(value)
    elif path.endswith("multiarray.scalar"):
        yield "<NumPy scalar>"
    elif path == "multiprocessing.reduction._rebuild_partial" and len(value.args) == 3:
        function, args, kwds = value.args
        yield "functools.partial("
        yield from _show_all((function, *args), kwds, depth)
        yield ")"
    elif path.startswith("cloudpickle."):
        yield "<function>" if "function" in path else f"<{_short(path)}>"
    elif depth < _DEPTH and (value.args or value.kwds):
        yield f"{_short(path)}("
        yield from _show_all(value.args, value.kwds, depth)
        yield ")"
    else:
        yield f"<{_short(path) or 'object'}>"


def _show_array(value: StandIn) -> str:
    """Say the shape of a NumPy array, where its pickle has it."""
    # Sources: numpy/_core/numeric.py, _frombuffer(buf, dtype, shape, order, ...);
    # array_setstate in methods.c, (version, shape, dtype, is_fortran, data).
    shape: Any = None
    if len(value.args) > 2 and value.path.endswith("_frombuffer"):
        shape = value.args[2]
    elif type(value.state) is tuple and len(value.state) > 1:
        shape = value.state[1]
    if type(shape) is tuple and all(type(length) is int for length in shape):
        return f"<ndarray of shape {shape}>"[:_STRING]
    return "<ndarray>"


def _short(path: str) -> str:
    """Name a class or function as a program would: without its module if that is long known."""
    module, _, name = path.rpartition(".")
    shown = name if module in ("builtins", "__main__", "__mp_main__", "") else path
    return shown[:_STRING] if shown.isprintable() else repr(shown[:_STRING])
