"""The black boxes: what a worker leaves behind that dies without a word.

One anonymous memory file per pool holds, for each record of the scoreboard, the *last words* of the
worker (its last log lines, the end of what it printed) and the *traces* that ``faulthandler`` wrote: at a
segmentation fault, or when the parent asked for them by a signal. The worker's side is ``recorder``; the
parent only reads, with ``pread``, and maps nothing.

Layout: ``count`` rings of RING_BYTES, reserved; from TRACES_AT on, TRACE_BYTES apart, the traces, which
take memory only where something was written; the last LOG_BYTES of each of these places hold log lines,
with memory that a worker reserves if ``logging`` is in use there. A ring::

    0     flags (FLAG_*), bytes of output so far, peak memory of the process as it started, in bytes
    64    OUTPUT_BYTES of output, circular

Log lines: LOG_SLOTS slots of LOG: number of the line from 1, then its text, padded with zeros.

``faulthandler`` writes from a signal handler, into a descriptor. Each worker opens the file anew through
``/proc/self/fd``, so that its position is its own. Where that cannot be done there are last words, but no
traces: FLAG_TRACES says which.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time

from glasspool.engines.local import kernel
from glasspool.engines.local.recordfile import RecordFile

RING_BYTES = 8192
WORDS = struct.Struct("<3Q")
FLAG_TRACES = 1
"""``faulthandler`` writes into the box."""
FLAG_USUAL = 2
"""``faulthandler`` had been enabled already: its text belongs on stderr too."""
FLAG_ANSWERS = 4
"""The process writes its stacks into the box when it is asked."""

LOG = struct.Struct("<Q504s")
LOG_SLOTS = 128
LOG_BYTES = LOG_SLOTS * LOG.size
OUTPUT_AT = 64
OUTPUT_BYTES = RING_BYTES - OUTPUT_AT
TRACE_BYTES = 4 << 20
READ_BYTES = 256 * 1024
"""So much of a trace is read: 100 threads of 30 frames each."""

LINES = 5
"""So many of the last lines of output are told."""

LOG_LINES = 100
"""So many of the last log lines are told; there are more slots, as the newest may be half written."""


class BlackBoxes(RecordFile):
    """The black boxes of a pool: a ring each, and behind all rings the traces."""

    place_bytes = RING_BYTES

    def __init__(self, fd: int, count: int) -> None:
        super().__init__(fd, count)
        self._asked_ns: dict[int, int] = {}

    def traces_at(self, record: int) -> int:
        """Return where the traces of a record begin in the file."""
        return -(-self.count * RING_BYTES // TRACE_BYTES) * TRACE_BYTES + record * TRACE_BYTES

    def logs_at(self, record: int) -> int:
        """Return where the log lines of a record begin in the file: a multiple of the page size."""
        return self.traces_at(record + 1) - LOG_BYTES

    def clear(self, record: int) -> None:
        """Empty a box for its next worker. Only the parent calls it, when no worker has it."""
        self._asked_ns.pop(record, None)
        os.pwrite(self.fd, bytes(RING_BYTES), record * RING_BYTES)
        at, stop = self.traces_at(record), self.logs_at(record)
        while at < stop and os.pread(self.fd, 1, at).strip(b"\0"):
            found = os.pread(self.fd, min(READ_BYTES, stop - at), at)
            os.pwrite(self.fd, bytes(len(found)), at)
            at += len(found)
        if os.pread(self.fd, 1, stop).strip(b"\0"):  # the first line has the first slot
            os.pwrite(self.fd, bytes(LOG_BYTES), stop)

    def flags(self, record: int) -> int:
        """Return what the worker can do: FLAG_TRACES and so on."""
        return self._words(record)[0]

    def peak_at_start(self, record: int) -> int:
        """Return the peak memory of the process as it started, in bytes; 0 if it did not say."""
        return self._words(record)[2]

    def _words(self, record: int) -> tuple[int, ...]:
        found = os.pread(self.fd, WORDS.size, record * RING_BYTES)
        return WORDS.unpack(found) if len(found) == WORDS.size else (0, 0, 0)

    def trace(self, record: int) -> str:
        """Return what ``faulthandler`` wrote, empty if nothing: see ``traces.parse``."""
        raw = os.pread(self.fd, READ_BYTES, self.traces_at(record))
        return raw.rstrip(b"\0").decode("utf-8", "replace")

    def last_log(self, record: int) -> tuple[str, ...]:
        """Return the last log lines of the worker, oldest first."""
        raw = os.pread(self.fd, LOG_BYTES, self.logs_at(record))
        raw = raw[: len(raw) // LOG.size * LOG.size]  # nothing, if no worker ever came so far
        lines = sorted((number, text) for number, text in LOG.iter_unpack(raw) if number)
        return tuple(text_of_line(text.rstrip(b"\0")) for _, text in lines[-LOG_LINES:])

    def last_output(self, record: int) -> tuple[str, ...]:
        """Return the last lines that the worker wrote to ``sys.stdout`` and ``sys.stderr``."""
        total = self._words(record)[1]
        raw = os.pread(self.fd, OUTPUT_BYTES, record * RING_BYTES + OUTPUT_AT)
        if len(raw) < OUTPUT_BYTES:
            return ()
        if total <= OUTPUT_BYTES:
            written = raw[:total]
        else:
            cut = total % OUTPUT_BYTES
            # The first line has lost its beginning, unless it is all there is.
            written = raw[cut:] + raw[:cut]
            written = written.split(b"\n", 1)[-1] or written
        lines = [line for line in written.splitlines() if line.strip()]
        return tuple(text_of_line(line) for line in lines[-LINES:])

    def ask(self, record: int, pid: int) -> bool:
        """Let a worker write the stacks of all its threads into its box, whatever it does.

        Only for a worker that is to be killed anyway: the reader takes no lock and may crash it. The
        worker does it in the signal's handler, below 1 ms as a rule, also inside C code that holds the
        interpreter's lock; nothing announces that it has: give it some 50 ms before its SIGKILL.

        Returns:
            False if it cannot be asked: the signal would end it, or there is none.
        """
        number = kernel.dump_signal()
        if number is None or self.fd < 0 or not self.flags(record) & FLAG_ANSWERS:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            self._asked_ns[record] = time.monotonic_ns()
            return True
        return False

    def asked_ns(self, record: int) -> int | None:
        """Return when the worker was last asked for its stacks (``time.monotonic_ns()``)."""
        return self._asked_ns.get(record)


def text_of_line(raw: bytes) -> str:
    """Make a line harmless for whoever prints it: it may hold escape codes of a terminal."""
    import re  # not before somebody has died

    text = re.sub(_ESCAPES, "", raw.decode("utf-8", "replace")).expandtabs().rstrip()
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:500]


_ESCAPES = r"\x1b\[[0-9;?]*[A-Za-z]"
