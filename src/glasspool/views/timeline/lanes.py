"""Put what overlaps in time side by side: slices of one track must not cross. Pure."""

from __future__ import annotations

MOST_LANES = 8
"""What would need more lanes at one time is not drawn: nobody can read a picture of a thousand rows."""


class Lanes:
    """Gives each interval the first lane that is free; they are to come in the order of their begins."""

    def __init__(self, most: int = MOST_LANES) -> None:
        self._most = most
        self._free_at: list[int] = []
        self.left_out: int = 0
        """So many intervals found no lane."""

    def place(self, begun_ns: int, ended_ns: int) -> int | None:
        """Return the lane for an interval; None if all are taken."""
        for lane, free_at in enumerate(self._free_at):
            if free_at <= begun_ns:
                self._free_at[lane] = ended_ns
                return lane
        if len(self._free_at) < self._most:
            self._free_at.append(ended_ns)
            return len(self._free_at) - 1
        self.left_out += 1
        return None
