"""The shelf: what to keep of segments that nobody uses at the moment, and which one to use again.

Pure: no descriptor, no clock, no thread. It holds items with a size each, and says what is to be let go;
its owner closes that (``segments``).

Invariants, which the tests check: never more items than ``most``, never more bytes than ``most_bytes``; an
item is given out at most once for each time that it was put in; each item that was put in is on the shelf,
was given out, or was let go.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

LEAST_BYTES = 128 * 1024
"""Below this all sizes are similar."""


class _Place(NamedTuple, Generic[T]):
    item: T
    size: int
    since: int


class Shelf(Generic[T]):
    """Items that wait to be used again, the one that has waited longest first.

    Args:
        most: So many items are kept at most.
        most_bytes: So many bytes in all.
        patience: An item is let go when so many others have been asked for since it came.
    """

    def __init__(self, most: int, most_bytes: int, patience: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._patience = patience
        self._places: list[_Place[T]] = []
        self._asked = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return sum(place.size for place in self._places)

    def put(self, item: T, size: int) -> list[T]:
        """Keep an item that nobody uses; return those that are to be let go, perhaps this one."""
        self._places.append(_Place(item, size, self._asked))
        gone = [place for place in self._places if self._asked - place.since > self._patience]
        kept = [place for place in self._places if place not in gone]
        total = sum(place.size for place in kept)
        while len(kept) > self._most or total > self._most_bytes:
            # The oldest; but not all of the others for one that is too large alone.
            at = -1 if kept[-1].size > self._most_bytes else 0
            gone.append(kept.pop(at))
            total -= gone[-1].size
        self._places = kept
        return [place.item for place in gone]

    def take(self, size: int) -> T | None:
        """Give out an item of a similar size: the least that is large enough, else the largest.

        Similar: from half of the size to twice of it, so that a small value does not hold much memory.
        """
        self._asked += 1
        low, high = size // 2, 2 * max(size, LEAST_BYTES)
        similar = [place for place in self._places if low <= place.size <= high]
        if not similar:
            return None
        enough = [place for place in similar if place.size >= size]
        best = min(enough, key=_size) if enough else max(similar, key=_size)
        self._places.remove(best)
        return best.item

    def clear(self) -> list[T]:
        """Let all go."""
        places, self._places = self._places, []
        return [place.item for place in places]


def _size(place: _Place[T]) -> int:
    return place.size
