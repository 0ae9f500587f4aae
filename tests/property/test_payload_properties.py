"""Values on their way: what is loaded equals what was dumped, and is the receiver's own."""

from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import arrays, large_lengths, nested, same

from glasspool.engines.local import payload, segments, wire


def load(packed: bytes | payload.Parcel) -> Any:
    """Rebuild a value as its receiver does, from a descriptor of its own."""
    if isinstance(packed, payload.Parcel):
        return payload.load_segments(
            payload.read_head(packed.head), [os.dup(fd) for fd in packed.fds]
        )
    return payload.load(packed)


@given(value=nested)
def test_nested_values_arrive_as_they_were(value: Any) -> None:
    """A value of built-in types arrives equal, in one piece, by either way."""
    packed = payload.dump(value)
    assert same(load(packed), value)
    assert same(load(payload.dump_by_value(value)), value)


@given(values=st.lists(nested, min_size=2, max_size=4))
def test_the_reused_pickler_remembers_nothing(values: list[Any]) -> None:
    """A value that was pickled before, also as part of another, is pickled in full again."""
    for value in [*values, values, *values, values]:
        assert same(load(payload.dump(value)), value)


@given(array=arrays)
def test_small_arrays_arrive_as_they_were(array: np.ndarray[Any, Any]) -> None:
    """Arrays keep kind, shape, order of bytes and contents, and can be written to."""
    for packed in (payload.dump({"a": [array]}), payload.dump_any([array])[0]):
        assert isinstance(packed, bytes)
    back = load(payload.dump(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@given(lengths=st.lists(large_lengths, min_size=1, max_size=3), extra=nested)
@settings(deadline=None, max_examples=50)
def test_large_values_arrive_as_they_were(lengths: list[int], extra: Any) -> None:
    """Bytes and arrays around every border of the ways arrive equal, whatever else is with them."""
    raw = [bytes(range(256)) * (length // 256) + b"e" * (length % 256) for length in lengths]
    value = [raw, [np.frombuffer(part, "u1").copy() for part in raw], bytearray(raw[0]), extra]
    back = load(payload.dump(value))
    assert back[0] == raw
    assert [part.tobytes() for part in back[1]] == raw
    assert back[2] == raw[0]
    assert same(back[3], extra)


@given(length=large_lengths)
@settings(deadline=None)
def test_what_does_not_fit_a_message_lies_in_a_segment(length: int) -> None:
    """No pickle in one piece is longer than a message may carry beside others."""
    for value in (b"x" * length, np.zeros(length, "u1")):
        packed = payload.dump(value)
        if isinstance(packed, bytes):
            assert len(packed) <= wire.INLINE_BYTES
        else:
            assert len(packed) >= length
            assert sum(payload.part_lengths(packed.head)) == len(packed)


@given(length=st.integers(payload.IN_BAND_BYTES + 1, 300_000), at=st.integers(0, 64 * 1024 - 1))
@settings(deadline=None, max_examples=30)
def test_writing_to_what_arrived_harms_nobody(length: int, at: int) -> None:
    """Each receiver may write to its array; the sender's and the other receivers' stay."""
    array = np.arange(length, dtype="u1")
    parcel = payload.dump(array)
    assert isinstance(parcel, payload.Parcel)
    one, other = load(parcel), load(parcel)
    one[at] ^= 0xFF
    assert one[at] != array[at]
    assert other[at] == array[at] == at % 256
    assert load(parcel)[at] == array[at]


def test_a_loaded_array_outlives_its_parcel() -> None:
    """The mapping lives as long as a view of it, after parcel and descriptor are gone."""
    parcel = payload.dump(np.full(200_000, 7, "u1"))
    back = load(parcel)
    del parcel
    part = back[1000:2000]
    del back
    assert part.sum() == 7000


def test_a_parcel_gives_its_descriptor_back() -> None:
    """Dropped parcels close their descriptors, also if loading failed."""
    before = sorted(os.listdir("/proc/self/fd"))
    parcel = payload.dump(np.zeros(200_000, "u1"))
    assert isinstance(parcel, payload.Parcel)
    # A head of which nobody knows what it describes.
    with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, OSError)):
        payload.load_segments(
            payload.read_head(b"\1" + bytes(7) + b"\1" + bytes(7)), [os.dup(*parcel.fds)]
        )
    load(parcel)
    del parcel
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_that_are_views_arrive(order: str) -> None:
    """Transposed, strided and read-only arrays arrive equal."""
    base = np.arange(300_000, dtype="<f4").reshape(500, 600).copy(order=order)  # type: ignore[call-overload]
    fixed = base.copy()
    fixed.flags.writeable = False
    for array in (base, base.T, base[::2, ::3], base[::-1], fixed):
        assert np.array_equal(load(payload.dump(array)), array)


class Raises:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


@given(value=nested)
@settings(max_examples=30)
def test_a_failed_pickle_leaves_nothing_behind(value: Any) -> None:
    """After an error the next value is pickled as if nothing had been."""
    with pytest.raises(RuntimeError, match="not me"):
        payload.dump_any([value, Raises()])
    assert same(load(payload.dump(value)), value)


class PicklesInside:
    """Pickles something else while it is pickled."""

    def __reduce__(self) -> Any:
        return load, (payload.dump({"inner": [1, 2, 3]}),)


def test_pickling_may_pickle() -> None:
    """A value whose own code pickles, in the same thread, disturbs neither pickle."""
    value = ["a", PicklesInside(), "a"]
    assert load(payload.dump(value)) == ["a", {"inner": [1, 2, 3]}, "a"]


def test_a_process_that_has_many_segments_opens_no_more(monkeypatch):
    """A parcel then waits in plain memory, unchanged by what happens to its source; a copy arrives."""
    monkeypatch.setattr(segments, "most_open", lambda: 0)
    array = np.arange(20_000)
    parcel = payload.dump(array)
    assert isinstance(parcel, payload.Parcel)
    assert parcel._own is None
    array[:] = 0
    first, second = load(parcel), load(parcel)
    assert (first == np.arange(20_000)).all()
    first[0] = 5
    assert second[0] == 0
    assert parcel._parts == []
