"""The callback thread of a thread pool: it runs the user's callbacks, one after the other.

Thread: ``NAME callback``, started with the first callback by whoever ends that job, ended by the pool's end,
after the last callback. Woken by the next job. Owns: the jobs whose callbacks have not returned.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from glasspool.engines.local import kernel
from glasspool.engines.local.scarcity import no_thread
from glasspool.engines.local.workers import new_thread

GRACE_S = 1.0

_END = object()


class Callbacks:
    """The jobs that are ready when their callbacks have run."""

    def __init__(self, name: str, os_name: str, call: Callable[[Any], None] | None = None) -> None:
        self._name = name
        self._call = call  # how a job's callback is run, if not by itself
        self._os_name = os_name
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._is_over = False
        self.thread: threading.Thread | None = None
        self.running: Any = None  # the job whose callback runs
        self.since: float = 0.0
        self.owed: dict[Any, None] = {}

    def add(self, job: Any) -> None:
        """Have a job's callback run (the thread that ends the job)."""
        self.owed[job] = None
        self._jobs.put(job)
        with self._starting:
            if self.thread is not None and not self._is_over:
                return
            thread = new_thread(self._run, f"{self._name} callback")
            if self._is_over:
                self._jobs.put(_END)  # it came late: a thread for it alone
            try:
                thread.start()
            except RuntimeError as error:
                self._fail(no_thread(error, "the callback"))
                return
            self.thread = thread

    def _fail(self, error: Exception) -> None:
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not _END:
                self.owed.pop(job, None)
                job.callback_failed(error)

    def end(self) -> None:
        """Let the thread end after the callbacks that are due (supervisor)."""
        with self._starting:
            self._is_over = True
            self._jobs.put(_END)

    def is_here(self) -> bool:
        """Tell whether the calling thread is the one that runs callbacks."""
        return threading.current_thread() is self.thread

    def join(self, cut_short: bool) -> None:
        """Wait until the last callback has run; returns at once on the callback thread itself."""
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            # Woken by the end of the last callback. After terminate() nobody waits for ever for one
            # that blocks.
            thread.join(GRACE_S if cut_short else None)

    def _run(self) -> None:
        # Also here: a callback may run before whoever starts this thread goes on.
        self.thread = threading.current_thread()
        kernel.name_this_thread(self._os_name)
        while True:
            job = self._jobs.get()  # woken by the next job, or the end of the pool
            if job is _END:
                return
            self.since = time.monotonic()
            self.running = job
            try:
                if self._call is None:
                    job.run_callback()
                else:
                    self._call(job)
            finally:
                self.running = None
                self.owed.pop(job, None)
                job.callback_returned()
