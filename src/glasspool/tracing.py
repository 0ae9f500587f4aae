"""Record a pool of this process and write it as a timeline: what ``Pool.trace`` returns.

*Owns* the file from the call until it is written, and the recorder of the pool. Threads: none. It is written
by whoever stops it: the caller, else the thread that waits for the pool's end, else the interpreter as it
exits.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Sequence
from multiprocessing import util
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from types import TracebackType

    from glasspool.engines.local.engine import LocalEngine
    from glasspool.observe.recording import Recorder
    from glasspool.observe.records import Recording

# Above that of what ends pools at exit (15 runs first), so that the last tasks are in the file.
_EXIT_PRIORITY = 10


class TraceWarning(RuntimeWarning):
    """A timeline could not be written, and nobody was there to get the error."""


class Trace:
    """A timeline that is being recorded; it goes to its file when it is stopped.

    Use it as a context manager, or call ``stop``. Else it is written when the pool has ended and somebody
    waits for that (``join``, ``terminate``, the pool's ``with`` block), or as the program exits. The file can
    be opened at https://ui.perfetto.dev.
    """

    def __init__(self, engine: LocalEngine, path: str | os.PathLike[str]) -> None:
        from glasspool.observe.recording import Recorder

        self.path: str = os.path.abspath(os.fspath(path))
        self._pool = engine.name
        self._pid = os.getpid()
        # Opened now, so that a wrong path is told at once. Unbuffered: a fork of the user's must not have
        # a part of the file to write a second time.
        self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115  # closed by stop()
        self._running: list[Recorder] = []  # taken out by the one thread that writes
        self._written = threading.Event()
        try:
            self._running.append(Recorder(engine))
        except BaseException:
            self._file.close()
            raise
        self._finalizer = util.Finalize(None, self._stop_at_exit, exitpriority=_EXIT_PRIORITY)

    def stop(self) -> None:
        """End the recording and write the file. Safe to call twice, and from any thread.

        Blocks while it is written: some 5 seconds for 100,000 tasks.

        Raises:
            OSError: The file cannot be written.
        """
        if self._pid != os.getpid():
            return  # a fork of the user's: the file is the parent's
        try:
            recorder = self._running.pop()
        except IndexError:
            # Set by the thread that has it, whatever becomes of it.
            self._written.wait()
            return
        try:
            write(self._file, (recorder.stop(),))
        finally:
            self._file.close()
            self._written.set()
            self._finalizer.cancel()

    def stop_quietly(self) -> None:
        """Stop it for a caller who did not ask for that: an error becomes a warning."""
        try:
            self.stop()
        except OSError as error:
            warnings.warn(
                f"the timeline of {self._pool} could not be written to {self.path}: {error}",
                TraceWarning,
                stacklevel=3,
            )

    def _stop_at_exit(self) -> None:
        try:
            self.stop()
        except OSError as error:
            print(f"glasspool: cannot write {self.path}: {error.strerror}", file=sys.__stderr__)

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.stop()
        else:
            self.stop_quietly()  # the block's own error matters more

    def __repr__(self) -> str:
        state = "recording" if self._running else "written"
        return f"<Trace of {self._pool} to {self.path!r}, {state}>"


def write(file: BinaryIO, recordings: Sequence[Recording]) -> int:
    """Write recordings as a timeline, piece by piece; return how many bytes that were.

    Raises:
        OSError: The file cannot be written.
    """
    from glasspool.views import timeline

    size = 0
    for chunk in timeline.chunks(recordings):
        left = memoryview(chunk)
        while left:
            # An unbuffered file may take a part only; one that does not block, None of it.
            left = left[file.write(left) or 0 :]
        size += len(chunk)
    return size
