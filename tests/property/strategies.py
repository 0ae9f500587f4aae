"""Hypothesis strategies that the property tests share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from glasspool.engines.local import scoreboard as sb

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=200)
)
"""Values of built-in types that equal themselves."""

keys = st.integers() | st.text(max_size=10) | st.tuples(st.integers(), st.booleans())

nested: st.SearchStrategy[Any] = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=5)
        | st.frozensets(st.integers(), max_size=5)
    ),
    max_leaves=25,
)
"""What users pass around: containers in containers."""

arrays: st.SearchStrategy[np.ndarray[Any, Any]] = npst.arrays(
    dtype=st.sampled_from(["u1", "<i4", ">i4", "<f8", "c16", "?", "S3"]),
    shape=npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
)
"""Small arrays of many kinds, also empty ones and ones without dimension."""

large_lengths = st.sampled_from(
    # The borders: of the buffers that travel apart, of a message, of a page, of nothing special.
    [
        64 * 1024 - 1,
        64 * 1024,
        64 * 1024 + 1,
        128 * 1024 - 64,
        128 * 1024,
        128 * 1024 + 1,
        192 * 1024,
        300_001,
    ]
)
"""Lengths around every border of the way that a value takes."""

words = st.integers(0, 2**64 - 1)
"""Whatever a word of shared memory can hold."""

paces = st.none() | st.floats(0, 1e15, allow_nan=False)
"""Measured durations of tasks in nanoseconds, none at first, up to eleven days."""

reply_sizes = st.integers(0, 300) | st.integers(0, 70_000) | st.integers(64_000, 131_072)
"""Lengths of replies: mostly short, some around the size of an outbox, some above."""

board_bytes = sb.RECORDS_AT + sb.RECORD_BYTES
"""The length of a scoreboard with one record."""

holes = st.lists(st.tuples(st.integers(0, board_bytes - 1), st.binary(min_size=1, max_size=64)))
"""Places of a file and what is written over them."""

header_words = st.lists(
    st.one_of(words, st.integers(0, 40), st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1])),
    min_size=15,
    max_size=15,
)
"""Numbers of a scoreboard's header, sensible or not."""


def same(left: Any, right: Any) -> bool:
    """Tell whether two values are equal in value and type, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)
