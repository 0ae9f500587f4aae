"""The wire format between the pool and one worker.

A message is a row of records; each is a header and a body. Both directions use a channel that keeps
the borders of messages. Requests (pool to worker)::

    REQUEST   kind, flags, callable number, task id, the task's number at the worker, length of body

Replies (worker to pool; also what lies in the outbox)::

    REPLY     kind, lane, length of the body, task id, begun_ns, ended_ns

Short tasks travel in *rows*. A ROW request holds tasks that follow one another and are alike: the same
callable, called in the same way with positional arguments, each in a pickle of its own unless they are
plain (``plain``). Its body is made by ``marshal``: the list of their ids, and the list of their
arguments. The end of a task with a short plain value is an OK_PLAIN reply of one size, so that a message
which holds nothing else (ALL_PLAIN in the lane of its first reply) can be read in one go.

Times are ``time.monotonic_ns()``, which all processes of one machine share.
"""

from __future__ import annotations

import struct
from typing import Final

REQUEST: Final = struct.Struct("<HHIQQI")
REPLY: Final = struct.Struct("<HHIQQQ")

PLAIN_BYTES: Final = 16
"""An OK_PLAIN reply has a body of this length: what ``marshal`` made, and zeros."""

PLAIN_REPLY: Final = struct.Struct(f"{REPLY.format}{PLAIN_BYTES}s")
ALL_PLAIN: Final = 1 << 15

# Kinds of requests. A TASK that was begun before has the number of those attempts in the upper byte.
TASK: Final = 1
KIND: Final = 0xFF
MOST_ATTEMPTS: Final = 0xFF
CALLABLE: Final = 2  # body: the pickled callable, to be known by its number
FORGET: Final = 3  # the callable with this number is not needed any more
RETURN: Final = 7  # nobody views the segment with this number (in place of a task's) any more
PING: Final = 5  # answer with PONG, after all that came before
STOP: Final = 4  # finish what came before, then leave
# Make a round: call what came before under this number; in place of the task its number.
ROUND: Final = 8
INTERRUPT: Final = 9  # raise in the lane that runs the task with this number at the worker
ROW: Final = 6  # tasks that are alike; in place of the task id their number, the first one's seq

# Flags of a TASK: how the body is to be called.
APPLY: Final = 0  # body: args, or (args, kwds) with KEYWORDS
SINGLE: Final = 1  # body: one argument
CHUNK: Final = 2  # body: a tuple of arguments; the result is a list
STARCHUNK: Final = 3  # body: a tuple of tuples of arguments; the result is a list
MODE: Final = 0b111
KEYWORDS: Final = 1 << 3
INLINE: Final = 1 << 4  # the callable itself comes first in the body: (callable, args[, kwds])
BY_VALUE: Final = 1 << 5  # the function or its arguments needed cloudpickle: the result may too
SEGMENT: Final = 1 << 6  # the body describes a segment of shared memory that comes along
PLAIN: Final = 1 << 8  # the body was made by marshal
ALONE: Final = 0b010 | KEYWORDS | INLINE | SEGMENT
"""A task with one of these (the first one is in CHUNK and STARCHUNK) does not travel in a row."""
STAY: Final = 1 << 15  # another task is likely to follow at once: wait for it by trying

# Flags of a CALLABLE.
BY_REFERENCE: Final = 1 << 7  # found by its name: may be kept as an object between tasks

# Flag of a ROUND, beside BY_VALUE.
FIRST: Final = 1  # the worker is not ready before it has made it

# Flag of a RETURN.
USABLE: Final = 1  # the segment may be used again

LANE: Final = (1 << 12) - 1
"""These bits of a reply's lane say which lane of the worker ran the task: 0 where it has one only."""

# In the lane of a reply: nobody views the segments of the task's arguments any more.
GONE: Final = 1 << 14

# Kinds of replies: ends of tasks, and (from CONTROL on) what a worker says of itself.
OK_PLAIN: Final = 0
OK: Final = 1
OK_SEGMENT: Final = 2
ERROR: Final = 3
EXIT: Final = 4
UNSENDABLE: Final = 5
ERROR_SEGMENT: Final = 6
EXIT_SEGMENT: Final = 7
SKIPPED: Final = (
    8  # not run, or (in a lane) of no interest any more; begun_ns holds its number there
)
CONTROL: Final = 100
HELLO: Final = 100
INITIALIZER_FAILED: Final = 101
STACKS: Final = 102
PONG: Final = 103
INTERRUPTED: Final = 104  # begun_ns holds the number of the task at the worker
OUTPUT: Final = 109  # what a notebook's worker has printed: a number for the stream, and the text
# In place of the task its number; begun_ns: a kind of reply, ended_ns: more follows.
ROUND_MADE: Final = 111
CAPTURED: Final = 120  # what a call has written; comes ahead of its result
LARGE: Final = 110  # the worker is above max_memory; begun_ns holds its resident memory in bytes

MESSAGE_BYTES: Final = 192 * 1024
"""No message is longer: ``SOCK_SEQPACKET`` refuses more than about 212,000 bytes."""

SEGMENTS: Final = frozenset({OK_SEGMENT, ERROR_SEGMENT, EXIT_SEGMENT})
WITH_SEGMENT: Final = {OK: OK_SEGMENT, ERROR: ERROR_SEGMENT, EXIT: EXIT_SEGMENT}

INLINE_BYTES: Final = 128 * 1024
"""A longer body travels in a segment of shared memory."""


def asks_to_stay(message: bytes) -> bool:
    """Tell whether the first request of a message has the flag ``STAY``: the top bit of its flags."""
    return message[3] >= 0x80
