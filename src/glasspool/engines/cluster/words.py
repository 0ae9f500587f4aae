"""The wire format between the driver and an agent: a row of words, each a tuple that begins with its kind.

A message is a pickle (protocol 5) of a list of words, all of built-in types; what is large lies in the
message's buffers, and words name it by its place there. Nothing of the user's is unpickled by either side:
functions, arguments and results travel as the bytes that a local pool sends to its workers.

From the driver::

    CALLABLE   number, name, flags, body                 see ``freight`` for bodies
    FORGET     number                                    of a callable
    TASKS      call, kind, timeout, ids, attempts, items, bodies    tasks that are alike; four lists
    NAMES      ids, names                                of what tasks call that bring it along, before them
    SHARE      number, buffer                            a piece of memory that several tasks view
    UNSHARE    number
    CANCEL     ids, said
    RECALL     ids                                       give back what has not begun
    RESIZE     processes, variables of each slot
    ROUND      number, call                              have every worker call it (``run_on_all``);
                                                         call 0: workers to come are spared it
    ASK        number, question                          as to the socket of a local pool
    PING       clock                                     the driver's, ``time.monotonic_ns()``
    CLOSE      leave when all is done                    TERMINATE  why
    LOGGED     bytes                                     of records are handled

From the agent::

    HELLO      what it is (a dict)
    FAILED     error                                     its pool could not be made, or has failed
    WORKER     key, slot, generation, pid, ident, native_id, thread's name, runs in main, lane
    ENDS       ids, kinds, bodies, workers, begun, ended                        lists
    BACK       ids                                       recalled, and not begun
    MADE       number, outcomes                          of a round: slot, kind, body
    ANSWER     number, reply
    PONG       clock, agent's clock, agent's wall clock  the first one as it came
    PIECE      total, at, buffer                         of a result whose end comes after all its pieces
    LOGS       record                                    of a worker's loggers
    EVENT      level, name, text, args, fields           of its pool, for loggers
    OUTPUTS    ids, what they have written               ahead of the ends of these tasks
    RESIZED    processes                                 so many workers have a process
    GONE       its pool has ended

Times are nanoseconds of the agent's ``time.monotonic_ns()``, which the driver sets right (``clocks``).
"""

from __future__ import annotations

from typing import Final

CALLABLE: Final = 1
FORGET: Final = 2
TASKS: Final = 3
SHARE: Final = 4
UNSHARE: Final = 5
CANCEL: Final = 6
RECALL: Final = 7
RESIZE: Final = 8
ROUND: Final = 9
ASK: Final = 10
PING: Final = 11
CLOSE: Final = 12
TERMINATE: Final = 13
LOGGED: Final = 21
NAMES: Final = 22

HELLO: Final = 101
FAILED: Final = 102
WORKER: Final = 103
ENDS: Final = 104
BACK: Final = 105
MADE: Final = 106
ANSWER: Final = 107
PONG: Final = 108
LOGS: Final = 109
GONE: Final = 110
PIECE: Final = 111
EVENT: Final = 121
OUTPUTS: Final = 122
RESIZED: Final = 123

VERSION: Final = 1
"""Of this format. A driver and an agent of two versions do not talk."""

PROTOCOL: Final = 5
