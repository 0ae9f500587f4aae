"""What the worker-handler of a pool on a cluster waits for: what it is to do, and who asks from outside.

Owns: the mailbox of that thread, the file by which the pool is found (it has no records: workers are on
other machines), and the socket beside it. Threads: none; the worker-handler calls ``wait``, and answers.
"""

from __future__ import annotations

import functools
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from glasspool.engines.local import desk
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.mailbox import Mailbox

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine


class Reception:
    """The door of a pool on a cluster."""

    def __init__(self, engine: ClusterEngine) -> None:
        self._engine = engine
        self._mailbox = Mailbox()
        self._board: sb.Board | None = None
        self._server: socket.socket | None = None
        self._poll = select.poll()
        self._poll.register(self._mailbox.fd, select.POLLIN)

    def open(self) -> None:
        """Make the file by which the pool is found, and listen beside it. If that fails, a note says why."""
        engine = self._engine
        try:
            self._board = sb.Board.create(
                engine.name,
                0,
                1,
                made_at=engine.made_at,
                command=" ".join(sys.argv),
                start_method=engine.plan.engine,
                initializer=engine.initializer or "",
            )
        except OSError as error:
            engine.notes.append(f"the pool cannot be found from outside: {error.strerror or error}")
            return
        trouble = self._board.trouble or self._listen(self._board.socket_file)
        if trouble:
            engine.notes.append(trouble)

    def _listen(self, path: str) -> str | None:
        try:
            self._server = desk.listen(path)
        except (OSError, AttributeError) as error:
            return f"the pool answers no questions from outside: no socket at {path}: {error}"
        self._poll.register(self._server.fileno(), select.POLLIN)
        return None

    def show_size(self, size: int) -> None:
        """Say how many workers there are, to whoever finds the file (worker-handler)."""
        if self._board is not None and self._board.header.size != size:
            self._board.set_size(size)

    def put(self, act: Callable[[], None]) -> None:
        """Have something done by the worker-handler (any thread)."""
        self._mailbox.put(act)

    def wait(self, limit_s: float) -> None:
        """Do what there is to do, or wait for it for so long, and answer who asks (worker-handler)."""
        deadline = time.monotonic() + limit_s
        while not self._work_off():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            self._sleep(left_s)

    def _work_off(self) -> bool:
        items, any_done = self._mailbox.items, False
        while items:
            items.popleft()()
            any_done = True
        return any_done

    def _sleep(self, limit_s: float) -> None:
        rung = asked = False
        limit_ms = 0 if self._mailbox.fall_asleep() else int(limit_s * 1000) + 1
        try:
            for fd, _ in self._poll.poll(limit_ms):
                if fd == self._mailbox.fd:
                    rung = True
                else:
                    asked = True
        finally:
            self._mailbox.wake_up(rung)
        if asked and self._server is not None:
            self._answer(self._server)

    def _answer(self, server: socket.socket) -> None:
        from glasspool.observe import cluster  # not before somebody asks

        engine, before = self._engine, self._engine.state
        engine.state = "answering a question"
        try:
            desk.answer(server, functools.partial(cluster.answer, engine))
        finally:
            engine.state = before

    def close(self) -> None:
        """Close all of it, and take the file away."""
        board, self._board = self._board, None
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if board is not None:
            board.unlink()
            board.close()
        self._mailbox.close()

    def close_in_child(self) -> None:
        """Close what a fork of the user's inherited."""
        self._mailbox.close()
        if self._server is not None:
            self._server.close()
        if self._board is not None:
            self._board.close_fd()
