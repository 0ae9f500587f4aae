"""The outbox: finished results of one worker, in shared memory until the pool has been told.

A worker puts each result into its outbox before it begins its next task, and from time to time sends
all of them as one message. So short tasks share a wake-up of the parent, and yet nothing that was
finished is lost with the worker: after its death the parent reads what had not been sent (and what
had been sent is known already and ignored).

Layout of an outbox: two 64-bit words, the number of bytes in it and how often it has been emptied, then
at 64 the replies (``wire``), one after the other. The first word is written last; when the outbox is
emptied it is set to zero, then the second one is raised, and only then are replies overwritten. So
whoever reads the second word before and after, and finds it unchanged, has read whole replies, also
while the worker lives.
"""

from __future__ import annotations

import errno
import mmap
import socket
import struct

from glasspool.engines.local import channel
from glasspool.engines.local.recordfile import RecordFile
from glasspool.engines.local.wire import ALL_PLAIN, OK_PLAIN, PLAIN_BYTES, PLAIN_REPLY, REPLY

OUTBOX_BYTES = 64 * 1024
UNREAD_SEGMENTS = 8
"""So many segments of a worker are on their way at a time: the kernel lets a user have no more
descriptors in messages than a process may have open, and refuses the next one (``ETOOMANYREFS``)."""

_DATA_AT = 64
_EMPTIED = 1
CAPACITY = OUTBOX_BYTES - _DATA_AT


_LANE = struct.Struct("<H")
_LANE_AT = 2


class Outboxes(RecordFile):
    """The outboxes of a pool."""

    place_bytes = OUTBOX_BYTES

    def __init__(self, fd: int, count: int) -> None:
        super().__init__(fd, count)
        self.memory: mmap.mmap = mmap.mmap(fd, count * OUTBOX_BYTES)
        self.view: memoryview[int] = memoryview(self.memory)
        self.words: memoryview[int] = self.view.cast("Q")

    def clear(self, record: int) -> None:
        """Empty an outbox for its next worker. Only the parent calls it, when no worker has it."""
        self.words[record * OUTBOX_BYTES // 8] = 0

    def read(self, record: int) -> bytes:
        """Return the replies that lie in an outbox; none if it was emptied in this moment."""
        start = record * OUTBOX_BYTES
        emptied = self.words[start // 8 + _EMPTIED]
        used = min(self.words[start // 8], CAPACITY)
        replies = bytes(self.view[start + _DATA_AT : start + _DATA_AT + used])
        return replies if self.words[start // 8 + _EMPTIED] == emptied else b""

    def close(self) -> None:
        """Unmap the memory and close the descriptor. Safe to call twice."""
        if self.fd >= 0:
            self.words.release()
            self.view.release()
            self.memory.close()
        super().close()


class Outbox:
    """The worker's own end of its outbox."""

    def __init__(self, boxes: Outboxes, record: int, end: socket.socket) -> None:
        start = record * OUTBOX_BYTES
        self._view = boxes.view[start + _DATA_AT : start + OUTBOX_BYTES]
        self._words = boxes.words
        self._word = start // 8
        self._end = end
        self.used: int = 0
        self._others = 0  # replies in it that are not plain
        self._segments = 0

    def put(
        self, kind: int, lane: int, body: bytes, task: int, begun_ns: int, ended_ns: int
    ) -> None:
        """Put one reply in. It counts from the moment this returns, whatever happens to us."""
        length = len(body)
        used = self.used
        end = used + REPLY.size + length
        if end > CAPACITY:
            self.flush()
            if REPLY.size + length > CAPACITY:
                head = REPLY.pack(kind, lane, length, task, begun_ns, ended_ns)
                channel.send(self._end, head + body)
                return
            used, end = 0, REPLY.size + length
        REPLY.pack_into(self._view, used, kind, lane, length, task, begun_ns, ended_ns)
        self._view[used + REPLY.size : end] = body
        self.used = end
        self._others += 1
        self._words[self._word] = end

    def put_plain(self, packed: bytes, task: int, begun_ns: int, ended_ns: int) -> None:
        """Put the reply with a plain value in, as ``put`` does."""
        used = self.used
        end = used + PLAIN_REPLY.size
        if end > CAPACITY:
            self.flush()
            used, end = 0, PLAIN_REPLY.size
        PLAIN_REPLY.pack_into(
            self._view, used, OK_PLAIN, 0, PLAIN_BYTES, task, begun_ns, ended_ns, packed
        )
        self.used = end
        self._words[self._word] = end

    def put_segment(
        self,
        kind: int,
        lane: int,
        head: bytes,
        fds: tuple[int, ...],
        task: int,
        begun_ns: int,
        ended_ns: int,
    ) -> None:
        """Send one reply with its segment, at once: the segment would be lost with us.

        Raises:
            OSError: The pool is gone; or, with ``ETOOMANYREFS``, others of this user have so many
                descriptors on their way that there is no room for this one.
        """
        self.flush()
        message = REPLY.pack(kind, lane, len(head), task, begun_ns, ended_ns) + head
        if self._segments >= UNREAD_SEGMENTS:
            self._wait_until_read()
        self._segments += 1
        try:
            channel.send(self._end, message, fds)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            self._wait_until_read()
            channel.send(self._end, message, fds)

    def _wait_until_read(self) -> None:
        channel.wait_until_read(self._end)
        self._segments = 0

    def flush(self) -> None:
        """Send what is in the outbox as one message, and empty it."""
        if self.used:
            if not self._others:
                _LANE.pack_into(self._view, _LANE_AT, ALL_PLAIN)
            channel.send(self._end, self._view[: self.used])
            self.used = self._others = 0
            self._words[self._word] = 0
            self._words[self._word + _EMPTIED] += 1
