"""Cells: where what a notebook's workers print is to appear, and how it gets there from the worker.

In the kernel of a notebook, ``sys.stdout`` is an object of the kernel's that sends what is written to the
cell that runs. A forked copy of it sends nothing, and one that is spawned writes into a pipe that ends
in whichever cell runs then. So the workers of a pool that was made in a kernel say what they print to the
pool, as a message of its own for each line (``Forwarder``), and the pool writes it, in the parent, as if
the code of the cell that made the call had (``Cells``).

Lines are sent as they are ended, so that a worker that is killed has sent what it had printed; an
unfinished line follows at ``flush`` and at the end of the task. What does not come through ``sys.stdout``
and ``sys.stderr`` (C code, subprocesses) takes the kernel's own way, where it has one.
"""

from __future__ import annotations

import contextlib
import contextvars
import marshal
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from glasspool.engines.local import capturing, channel, recorder, wire

PIECE = 32 * 1024
"""So many characters travel in one message at most; a line that is longer is not waited for."""

_MOST_CELLS = 1000
_NAMES = ("stdout", "stderr")


# In the worker -----------------------------------------------------------------------------------


class Forwarder:
    """Sends what a worker prints to its pool."""

    def __init__(self, end: socket.socket, running: Callable[[], int]) -> None:
        self._end = end
        self._running = running
        self._pid = os.getpid()
        self._pending: tuple[list[str], list[str]] = ([], [])
        self._task = 0  # that of what is pending
        self._lock = threading.RLock()  # a task may print in threads, and in signal handlers

    def follow_streams(self) -> None:
        """Take over ``sys.stdout`` and ``sys.stderr``, which stay the objects that they are."""
        for number, name in enumerate(_NAMES):
            stream = getattr(sys, name)
            with contextlib.suppress(AttributeError, TypeError):  # one that does not let us
                stream.write = self._writer(number)
                stream.flush = self.flush

    def _writer(self, number: int) -> Callable[[str], int]:
        pending = self._pending[number]

        def forwarding_write(text: str, /) -> int:
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            with self._lock:
                task = self._running()
                if task != self._task:
                    self.flush()  # what another one left unfinished is its own
                    self._task = task
                pending.append(text)
                if "\n" in text or len(text) > PIECE:
                    self._send(number)
            recorder.note_output(text)
            capturing.note(number, text)
            return len(text)

        return forwarding_write

    def flush(self) -> None:
        """Send what is not sent yet."""
        with self._lock:
            for number, pending in enumerate(self._pending):
                if pending:
                    self._send(number)

    def _send(self, number: int) -> None:
        pending = self._pending[number]
        text = "".join(pending)
        pending.clear()
        for at in range(0, len(text), PIECE):
            self._send_piece(number, text[at : at + PIECE])

    def _send_piece(self, number: int, text: str) -> None:
        if os.getpid() == self._pid:
            body = marshal.dumps((number, text))
            head = wire.REPLY.pack(wire.OUTPUT, 0, len(body), self._task, 0, 0)
            with contextlib.suppress(OSError):  # the pool is gone, and so shall we be
                channel.send(self._end, head + body)
            return
        # A process that a task forked: the channel is not for it.
        with contextlib.suppress(OSError):
            os.write(number + 1, text.encode("utf-8", "replace"))


# In the parent -----------------------------------------------------------------------------------


def of_kernel(next_id: Callable[[], int]) -> Cells | None:
    """Return where the output of a new pool's workers goes; None if this is no kernel of a notebook."""
    module = sys.modules.get("IPython")
    if module is None or "ipykernel" not in sys.modules:
        return None
    shell = module.get_ipython()
    return None if getattr(shell, "kernel", None) is None else Cells(shell, next_id)


class Cells:
    """The cells that made a pool's calls, and the streams by which to write to them.

    Written to by the collector and by callers that a worker is lent to; neither runs code of the user's
    here, as only the kernel's own streams, and those of the standard library in their place, are used.
    """

    def __init__(self, shell: Any, next_id: Callable[[], int]) -> None:
        self._shell = shell
        self._next_id = next_id
        self._streams = (sys.stdout, sys.stderr)
        # From which task on it is which cell's; the first one is that in which the pool was made.
        self._begins: list[tuple[int, contextvars.Context]] = [(0, contextvars.copy_context())]
        shell.events.register("pre_run_cell", self._note_cell)

    def _note_cell(self, info: Any) -> None:
        """Take note that another cell begins (the kernel's main thread)."""
        self._begins.append((self._next_id(), contextvars.copy_context()))
        if len(self._begins) > _MOST_CELLS:
            del self._begins[1]

    def close(self) -> None:
        """Follow the kernel's cells no more: the pool has ended."""
        with contextlib.suppress(ValueError):  # somebody has taken all callbacks away
            self._shell.events.unregister("pre_run_cell", self._note_cell)

    def write(self, job: int, body: bytes) -> None:
        """Write what a worker has printed, as a part of this job or task, to the cell of its call."""
        number, text = marshal.loads(body)
        context = next(cell for first, cell in reversed(self._begins) if first <= job)
        stream = self._stream(number)
        with contextlib.suppress(Exception):  # the kernel is ending, or the stream was closed
            context.copy().run(stream.write, text)

    def _stream(self, number: int) -> Any:
        """Return what stands for a standard stream now, unless it is of the user's making."""
        stream, own = getattr(sys, _NAMES[number]), self._streams[number]
        is_known = type(stream) is type(own) or type(stream).__module__ in ("io", "_io")
        return stream if is_known else own
