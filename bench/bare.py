"""What the pools are held against: the same without a pool, by hand or at the least that it takes.

The loop for the bursts is what somebody would write who needs nothing but speed: two forked workers,
a socket pair for each, 64 calls in one pickle, their results in one pickle, two such chunks on their
way to each worker. It has no answer to an exception, a death, a large argument or a signal.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

CHUNK = 64
ON_THEIR_WAY = 2
"""Chunks per worker, so that it has the next one when it has done one."""
MESSAGE = 64
"""Bytes of a round trip."""
_LARGEST = 1 << 16

Serve = Callable[[socket.socket], None]


@contextmanager
def workers(count: int, serve: Serve) -> Iterator[list[socket.socket]]:
    """Fork workers that serve the other end of a socket pair each; they leave when it is closed."""
    ends = [_forked(serve) for _ in range(count)]
    try:
        yield [end for end, _ in ends]
    finally:
        for end, _ in ends:
            end.close()
        for _, pid in ends:
            os.waitpid(pid, 0)  # the end of its stream wakes it, and it leaves


def _forked(serve: Serve) -> tuple[socket.socket, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours, pid


def run_chunks(end: socket.socket) -> None:
    """Run calls in chunks: the loop of a worker."""
    while message := end.recv(_LARGEST):
        calls = pickle.loads(message)
        end.send(pickle.dumps([(number, function(*args)) for number, function, args in calls]))


def burst(
    ends: Sequence[socket.socket], function: Callable[[int], int], items: Sequence[int]
) -> list[Any]:
    """Have all calls made, and return their results in order."""
    calls = [(number, function, (item,)) for number, item in enumerate(items)]
    chunks = iter([calls[at : at + CHUNK] for at in range(0, len(calls), CHUNK)])
    results: list[Any] = [None] * len(calls)
    open_chunks = 0
    for end in list(ends) * ON_THEIR_WAY:
        open_chunks += _send_next(end, chunks)
    while open_chunks:
        for end in select.select(ends, (), ())[0]:
            reply = pickle.loads(end.recv(_LARGEST))
            open_chunks += _send_next(end, chunks) - 1
            for number, value in reply:
                results[number] = value
    return results


def _send_next(end: socket.socket, chunks: Iterator[list[Any]]) -> int:
    chunk = next(chunks, None)
    if chunk is None:
        return 0
    end.send(pickle.dumps(chunk))
    return 1


def echo(end: socket.socket) -> None:
    """Send everything back."""
    while message := end.recv(_LARGEST):
        end.send(message)


def round_trip(end: socket.socket, message: bytes = b"\0" * MESSAGE) -> None:
    """Send a message, and wait for it to come back."""
    end.send(message)
    end.recv(_LARGEST)


def copy_time(size: int, times: int) -> float:
    """Return the median time of copying so many float64 between pages that were used before."""
    import numpy

    source, target = numpy.ones(size), numpy.ones(size)
    took = []
    for _ in range(times):
        begun = perf_counter()
        numpy.copyto(target, source)
        took.append(perf_counter() - begun)
    return statistics.median(took)
