"""A file of shared memory with a place of one size for each record of the scoreboard.

Anonymous, so that nothing has to be removed, and handed to workers as a descriptor: by inheritance under
fork, else by ``multiprocessing``. It has room for the greatest size of the pool, and memory for the places
that are in use.
"""

from __future__ import annotations

import os
from multiprocessing import reduction
from typing import Any, ClassVar, Self

from glasspool.engines.local.scoreboard import reserve_memory
from glasspool.engines.local.segments import new_file


class RecordFile:
    """The file; ``fd`` is its descriptor, -1 when it is closed, ``count`` the number of places."""

    place_bytes: ClassVar[int]

    def __init__(self, fd: int, count: int) -> None:
        self.fd: int = fd
        self.count: int = count
        self._reserved = count

    @classmethod
    def create(cls, count: int, capacity: int = 0) -> Self:
        """Make the file, and reserve the memory of the first ``count`` places; ``reserve`` adds more.

        Raises:
            OSError: There is no room for it.
        """
        fd = new_file()
        try:
            capacity = max(count, capacity)
            os.ftruncate(fd, capacity * cls.place_bytes)
            reserve_memory(fd, 0, count * cls.place_bytes)
            made = cls(fd, capacity)
        except BaseException:
            os.close(fd)
            raise
        made._reserved = count
        return made

    def reserve(self, record: int) -> None:
        """Make sure that there is memory for a place. Only the parent calls it, in order.

        Raises:
            OSError: There is none.
        """
        if record >= self._reserved:
            reserve_memory(self.fd, record * self.place_bytes, self.place_bytes)
            self._reserved = record + 1

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker that is being spawned the descriptor goes by multiprocessing's own way.
        return _attach, (type(self), reduction.DupFd(self.fd), self.count)

    def close(self) -> None:
        """Close the descriptor. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _attach(cls: type[RecordFile], duplicate: Any, count: int) -> RecordFile:
    return cls(duplicate.detach(), count)
