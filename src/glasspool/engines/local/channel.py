"""The channel: the private duplex connection between the pool and one worker.

A Unix socket of the kind that keeps the borders of messages. Each direction has one writer and one
reader. Descriptors of segments travel with the message that needs them. Nobody takes the end of the
stream for a death: a process that a task forked may hold the other end open (the process itself
tells of its death, see ``workers``).
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import time

from glasspool.engines.local.wire import MESSAGE_BYTES

# As plain numbers: an enum's `|` costs more than the system call.
DONTWAIT = int(socket.MSG_DONTWAIT)
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))

_FD_BYTES = array.array("i").itemsize
MOST_DESCRIPTORS = 16
"""No message carries more."""

_ANCILLARY = socket.CMSG_SPACE(MOST_DESCRIPTORS * _FD_BYTES)


def pair() -> tuple[socket.socket, socket.socket]:
    """Make a channel; both ends are closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def from_fd(fd: int) -> socket.socket:
    """Make the object of an end from its descriptor, without asking the kernel what it is."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)


def limit_waiting(end: socket.socket, seconds: float) -> None:
    """Let a receive on this end that would wait for longer raise ``BlockingIOError``."""
    whole = int(seconds)
    limit = struct.pack("ll", whole, int((seconds - whole) * 1e6))  # a timeval
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def send(end: socket.socket, message: bytes | memoryview, fds: tuple[int, ...] = ()) -> None:
    """Send one message, and wait while the channel is full (the reader wakes us, or its end).

    Raises:
        OSError: The other end is gone.
    """
    if fds:
        _send_with(end, message, fds, 0)
    else:
        end.send(message)


def try_send(end: socket.socket, message: bytes, fds: tuple[int, ...] = ()) -> bool:
    """Send one message if there is room for it now; tell whether it was sent.

    Raises:
        OSError: The other end is gone.
    """
    try:
        if fds:
            _send_with(end, message, fds, DONTWAIT)
        else:
            end.send(message, DONTWAIT)
    except BlockingIOError:
        return False
    return True


def _send_with(
    end: socket.socket, message: bytes | memoryview, fds: tuple[int, ...], flags: int
) -> None:
    # Not socket.send_fds, which ignores its flags in CPython up to 3.12.1, and so would wait.
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    end.sendmsg([message], [rights], flags)


def wait_until_read(end: socket.socket) -> None:
    """Wait until the reader has taken (nearly) all that was sent, or is gone.

    The kernel says "writable" when a quarter of the buffer is in use at most. A buffer of the least
    size makes that quarter about one message.
    """
    size = end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    try:
        poll = select.poll()
        poll.register(end, select.POLLOUT)
        poll.poll()  # woken by the reader, or by its end
    finally:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)  # the kernel doubles it


_MARK = 0xFF  # no message begins with that byte: it is the lower one of a kind


class Receiver:
    """Receives messages into one kept buffer: a fresh one of this size each time costs ten times
    the system call itself."""

    def __init__(self) -> None:
        self._buffer = bytearray(MESSAGE_BYTES)
        self._view = memoryview(self._buffer)
        self._buffers = [self._buffer]

    def mark(self) -> None:
        """Mark the buffer, so that ``head`` knows whether a message has come since."""
        self._buffer[0] = _MARK

    def head(self, size: int) -> bytes | None:
        """Return the first bytes of the message that came since ``mark``; None if none did."""
        if self._buffer[0] == _MARK:
            return None
        return bytes(self._view[:size])

    def receive(self, end: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
        """Receive one message and its descriptors; empty at the end of the stream.

        Raises:
            BlockingIOError: With ``MSG_DONTWAIT``, when there is none; or not in the end's limit.
            OSError: The connection is broken.
        """
        try:
            size, ancillary, _, _ = end.recvmsg_into(self._buffers, _ANCILLARY, flags | _CLOEXEC)
        except ConnectionResetError:
            # The other end closed with messages of ours unread. The kernel says so once, before it
            # gives out what the other had sent, which is still there.
            size, ancillary, _, _ = end.recvmsg_into(self._buffers, _ANCILLARY, flags | _CLOEXEC)
        message = bytes(self._view[:size])
        if not ancillary:
            return message, []
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % _FD_BYTES])
        return message, fds.tolist()

    def try_until(self, end: socket.socket, until_ns: int) -> tuple[bytes, list[int]] | None:
        """Receive one message as ``receive`` does, without sleeping; None if it does not come in time.

        ``until_ns``: by the monotonic clock; there is one try in any case. Other threads run meanwhile:
        each try lets the interpreter's lock go. It does not yield the processor, see
        ``docs/internals/waiting.md``.
        """
        while True:
            try:
                return self.receive(end, DONTWAIT)
            except BlockingIOError:
                if time.monotonic_ns() > until_ns:
                    return None


def wait_to_read(end: socket.socket) -> None:
    """Wait until there is a message, or the end of the stream."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.poll()  # woken by either


def take_fds(fds: list[int], count: int) -> list[int]:
    """Take the descriptors that came with a message.

    Raises:
        OSError: The kernel dropped some, as this process may have no more (``MSG_CTRUNC``).
    """
    taken = fds[:count]
    del fds[:count]
    if len(taken) < count:
        close_fds(taken)
        raise OSError(
            errno.EMFILE,
            "the shared memory of a large value did not arrive: this process has too many open "
            "files; raise the limit (ulimit -n), or close some",
        )
    return taken


def close_fds(fds: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)
