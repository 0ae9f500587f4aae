"""The texts of arguments: short, true, and nothing of the user's runs for them."""

from __future__ import annotations

import copyreg
import decimal
import functools
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasspool.engines.local import arguments, payload, wire

_ran: list[str] = []


class Hostile:
    """Would run code at every turn: while it is rebuilt, filled, compared and shown."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _ran.append, ("reduce",), {"state": 1}, iter([1, 2]), iter([("key", 1)])


class Loud:
    """Has state, and methods that tell when they are called."""

    def __init__(self) -> None:
        self.password = "hidden"

    def __setstate__(self, state: Any) -> None:
        _ran.append("setstate")

    def __repr__(self) -> str:
        _ran.append("repr")
        return "loud"

    def __hash__(self) -> int:
        _ran.append("hash")
        return 1


class CallsSystem:
    """The classic."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


class Text(str):
    """A string with a mind of its own."""

    def __repr__(self) -> str:
        _ran.append("repr of a string")
        return "?"


def task(value: Any, kind: int = wire.APPLY, by_value: bool = False) -> Any:
    """Return what the ledger has of a task with these arguments."""
    packed = payload.dump_by_value(value) if by_value else payload.dump(value)
    return SimpleNamespace(payload=packed, kind=kind, weight=len(packed))


def text_of(*values: Any) -> str | None:
    """Return the text of a call with these arguments."""
    return arguments.of_task(task(values))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((), "()"),
        ((1, -2.5, None, True, 2j), "(1, -2.5, None, True, complex(0.0, 2.0))"),
        (("a'b", b"c", bytearray(b"d")), "(\"a'b\", b'c', bytearray(b'd'))"),
        (([1, [2]], (3,), (), {"k": {4}}), "([1, [2]], (3,), (), {'k': {4}})"),
        ((set(), frozenset(), frozenset({5})), "(set(), frozenset(), {5})"),
        (([[[[[]]]]],), "([[[[...]]]])"),
        (("x" * 99,), f"('{'x' * 60}'... (99 characters))"),
        ((b"\0" * 61,), f"({bytes(24)!r}... (61 bytes))"),
        ((1 << 300,), "(<int of 301 bits>)"),
        (("\x1b[31m\n",), r"('\x1b[31m\n')"),
        ((len, os.path.join, int), f"(len, {os.path.__name__}.join, int)"),
        ((range(3),), "(range(0, 3, 1))"),
        ((decimal.Decimal("1.5"),), "(decimal.Decimal('1.5'))"),
        ((np.zeros((3, 4)),), "(<ndarray of shape (3, 4)>)"),
        ((np.asfortranarray(np.zeros((3, 4))),), "(<ndarray of shape (3, 4)>)"),
        ((np.float64(1),), "(<NumPy scalar>)"),
        ((SimpleNamespace(a=1),), "(<types.SimpleNamespace>)"),
        ((ValueError("no"),), "(ValueError('no'))"),
    ],
)
def test_values_are_shown(values: tuple[Any, ...], text: str) -> None:
    """Built-in values look like themselves, others are named with what they were made from."""
    assert text_of(*values) == text


def test_each_kind_of_call_is_shown() -> None:
    """Keywords, single arguments, callables that travel along, and the items of chunks."""
    assert arguments.of_task(task(((1,), {"b": 2}), wire.APPLY | wire.KEYWORDS)) == "(1, b=2)"
    assert arguments.of_task(task((1, 2), wire.SINGLE)) == "((1, 2))"
    assert arguments.of_task(task((7, 8, 9), wire.CHUNK), 1) == "(8)"
    assert arguments.of_task(task(((1, 2), (3, 4)), wire.STARCHUNK), 1) == "(3, 4)"
    assert arguments.of_task(task((len, ("a",)), wire.INLINE)) == "('a')"
    lambdas = task((lambda: 1, (lambda: 2,)), wire.INLINE | wire.BY_VALUE, by_value=True)
    assert arguments.of_task(lambdas) == "(<function>)"
    assert arguments.of_task(SimpleNamespace(payload=None, kind=0, weight=0)) is None  # type: ignore[arg-type]


def test_an_item_of_a_range_is_shown() -> None:
    """A chunk of a range travels as a range."""
    chunk = task(range(10, 20, 2), wire.CHUNK)
    assert arguments.of_task(chunk, 3) == "(16)"
    assert arguments.of_task(task((range(3),), wire.CHUNK), 0) == "(range(0, 3, 1))"


def test_arguments_in_shared_memory_are_shown() -> None:
    """A segment's pickle is read where it is short; its buffers are not."""
    large = task((np.zeros(1_000_000), 5))
    assert isinstance(large.payload, payload.Parcel)
    assert arguments.of_task(large) == "(<ndarray of shape (1000000,)>, 5)"
    long = task(list(range(300_000)), wire.SINGLE)
    assert isinstance(long.payload, payload.Parcel)
    assert arguments.of_task(long) == f"({long.weight} bytes)"


def test_no_code_of_the_users_runs(tmp_path: Path) -> None:
    """Neither ``__reduce__``'s callable, nor ``__setstate__``, ``__repr__`` or ``__hash__``."""
    loud = Loud()
    values = (Hostile(), loud, CallsSystem(tmp_path / "ran"), Text("t"), {Text("k"): loud})
    packed = task(values)
    _ran.clear()
    text = arguments.of_task(packed)
    assert _ran == []
    assert not (tmp_path / "ran").exists()
    assert text is not None
    assert "system('touch" in text
    assert "hidden" not in text
    assert "<test_arguments.Loud>" in text


def test_no_module_is_imported() -> None:
    """A name is only a name, also where its module exists."""
    sys.modules.pop("this", None)
    value = arguments.read(b"cthis\ns\n.")
    assert arguments.show(value) == "this.s"
    assert "this" not in sys.modules


def test_extension_codes_are_not_followed() -> None:
    """They lead to the true class past the unpickler's question for a name."""
    copyreg.add_extension("test_arguments", "Loud", 240)
    try:
        packed = task((Loud(),))
        pickle.loads(packed.payload)  # now pickle has the class in its cache
        _ran.clear()
        assert arguments.of_task(packed) == f"({packed.weight} bytes)"
    finally:
        copyreg.remove_extension("test_arguments", "Loud", 240)
    assert _ran == []


def test_deep_values_are_cut_and_not_a_recursion() -> None:
    """100,000 lists in each other, a list in itself, and a value that would be huge if written out."""
    deep = b"]" * 100_000 + b"a" * 99_999 + b"."
    assert arguments.show(arguments.read(deep)) == "[[[[...]]]]"
    cycle: list[Any] = []
    cycle.append(cycle)
    assert text_of(cycle) == "([[[[...]]]])"
    wide: Any = "x"
    for _ in range(60):
        wide = [wide, wide]
    text = text_of(wide)
    assert text is not None
    assert text.startswith("([[[[..., ...], [..., ...]], [[...")
    assert len(text) <= arguments.TEXT


def test_what_cannot_be_read_is_told_by_its_size() -> None:
    """Broken pickles, too many names, and too long ones give no text and no error."""
    names = b"".join(b"cmodule\nname%d\n" % number for number in range(1000))
    for broken in (b"", b"\x80\x05", b"garbage", b"(" + names + b"t.", b"N." + bytes(300_000)):
        shown = arguments.of_task(SimpleNamespace(payload=broken, kind=0, weight=len(broken)))  # type: ignore[arg-type]
        assert shown == f"({len(broken)} bytes)"


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner)
        | st.tuples(inner, inner)
    ),
)


@given(_PLAIN)
def test_a_text_is_printable_and_short(value: Any) -> None:
    """Whatever the value: one line, at most TEXT characters; the value itself if that is short."""
    text = text_of(value)
    assert text is not None
    assert len(text) <= arguments.TEXT
    assert text.isprintable()
    if isinstance(value, int | float | None):
        assert text == f"({value!r})" or "bits" in text


@given(st.binary(max_size=200))
def test_no_bytes_can_do_harm(raw: bytes) -> None:
    """Random bytes as a pickle give a text."""
    # Without the opcodes that reserve memory by a number: the pool's own pickler never lies there.
    for opcode in (b"r", b"j", b"\x8d", b"\x8e", b"\x96", b"X", b"B", b"T", b"\x8b", b"\x95", b"p"):
        raw = raw.replace(opcode, b"N")
    shown = arguments.of_task(SimpleNamespace(payload=raw, kind=wire.SINGLE, weight=len(raw)))  # type: ignore[arg-type]
    assert shown is not None
    assert len(shown) <= arguments.TEXT


def test_partial_functions_and_bound_methods_are_named() -> None:
    """What pickle takes apart is put together in words."""
    partial = functools.partial(os.getcwd, 1, b=2)
    assert text_of(partial) == f"(functools.partial({os.name}.getcwd, 1, b=2))"
    assert text_of("-".join) == "(getattr('-', 'join'))"
