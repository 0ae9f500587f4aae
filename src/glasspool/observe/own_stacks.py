"""The stacks of this very process, by its own word, in the form in which others are read from outside.

Local variables are told only of the frames of libraries' pools, and only as texts made from built-in types:
no ``__repr__`` of a user's class runs.
"""

from __future__ import annotations

import inspect
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import TypeVar

from glasspool.observe import threads
from glasspool.observe.pyspy import Dump, OutsideThread

_Value = TypeVar("_Value")

_LENGTH = 1024
_ENTRIES = 31

# Whose loops have variables that tell what a pool does: ``multiprocessing/pool.py`` and its like.
_POOLS = re.compile(r"[/\\](multiprocessing|multiprocess|billiard|futures|loky|joblib)[/\\]")

_NUMBERS = (int, float, complex, bool, type(None))
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def dump() -> Dump:
    """Tell the stacks of all Python threads of this process."""
    taken_at = time.time()
    known = {thread.ident: thread for thread in threading.enumerate()}
    frames = sys._current_frames()
    try:
        told = tuple(
            _thread(thread, frame)
            for ident, frame in frames.items()
            if (thread := known.get(ident)) is not None
        )
    finally:
        # The dict holds this very frame, which holds the dict: cut the cycle.
        frames.clear()
    return Dump(told, taken_at=taken_at, source="self")


def _thread(thread: threading.Thread, frame: FrameType) -> OutsideThread:
    is_this = thread is threading.current_thread()
    stack = threads.stack_of(frame)
    variables = _variables(frame)
    if is_this:
        stack = threads.without_observers(stack)
        variables = variables[: len(stack)]
    return OutsideThread(
        native_id=thread.native_id or 0,
        name=thread.name,
        ident=thread.ident,
        owns_gil=is_this,  # to look is to run
        stack=stack,
        variables=variables,
    )


def _variables(frame: FrameType | None) -> tuple[Mapping[str, str], ...]:
    found: list[Mapping[str, str]] = []
    while frame is not None:
        found.append(_of_frame(frame) if _POOLS.search(frame.f_code.co_filename) else {})
        frame = frame.f_back
    found.reverse()
    return tuple(found)


def _of_frame(frame: FrameType) -> Mapping[str, str]:
    if not frame.f_code.co_flags & inspect.CO_NEWLOCALS:
        return {}  # a module's or a class's
    told = {name: text_of(value) for name, value in frame.f_locals.items()}
    if sys.version_info < (3, 13) and frame.f_trace is None:
        # What has just been made is a copy of the variables that the frame keeps: it would hold
        # a task's arguments for as long as a worker's loop runs. A debugger writes such a copy back.
        frame.f_locals.clear()
    return told


def text_of(value: object, budget: int = _LENGTH) -> str:
    """Describe a value as py-spy does: built-in types by their contents, cut, all else by its address."""
    kind = type(value)
    if kind in _NUMBERS:
        return repr(value) if not isinstance(value, int) or value.bit_length() < 1000 else "<int>"
    if kind is str:
        text = str(value)
        return f'"{text}"' if len(text) <= budget else f'"{text[:budget]}..."'
    if kind is dict:
        return _joined(value.items(), _entry, "{", "}", budget)  # type: ignore[attr-defined]
    if kind in _BRACKETS:
        return _joined(value, text_of, *_BRACKETS[kind], budget)  # type: ignore[arg-type]
    return f"<{kind.__name__} at {id(value):#x}>"


def _entry(pair: tuple[object, object], budget: int) -> str:
    return f"{text_of(pair[0], budget)}: {text_of(pair[1], budget)}"


def _joined(
    values: Iterable[_Value],
    text: Callable[[_Value, int], str],
    opening: str,
    closing: str,
    budget: int,
) -> str:
    parts: list[str] = []
    try:
        for value in values:
            if len(parts) == _ENTRIES or budget <= 0:
                parts.append("...")
                break
            parts.append(text(value, budget))
            budget -= len(parts[-1])
    except RuntimeError:  # another thread changed a dict or set meanwhile
        parts.append("...")
    return f"{opening}{', '.join(parts)}{closing}"
