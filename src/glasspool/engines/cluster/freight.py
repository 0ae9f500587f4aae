"""Freight: arguments, functions and results on their way between machines.

On one machine a large value is a head and descriptors of shared memory (``payload.Parcel``,
``outcome.Segment``). Between machines the memory itself travels, as a buffer of the message. A *form* is what
stands for a value in a word: the bytes or the plain value itself, or a ``tuple`` that begins with ``LARGE``.
Plain values are never such tuples: where they may be, the kind of the task says that the value is plain.

Memory that several tasks view (``payload.Parcel.shared``), and the body of a function, is told to each node
once, under a number. A result that is too large for one message travels ahead of its end, in pieces.
"""

from __future__ import annotations

import functools
import pickle
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool.engines.cluster.link import Buffer, Missing, Node
from glasspool.engines.local import payload, wire
from glasspool.engines.local.outcome import Segment
from glasspool.engines.local.segments import Hold
from glasspool.errors import GlasspoolError

if TYPE_CHECKING:
    from glasspool.ledger import Task

LARGE = "large"

MESSAGE_BYTES = 16 << 20
"""No message of an agent's has more of results: a library may keep messages in a store of a fixed size."""

NO_MEMORY, FIRST_SHARED = -1, -2
"""Where the own memory of a large value is: nowhere, or it is the first of the shared ones."""

IN_PIECES = -1
"""In place of a buffer: the result has come ahead."""

Form = Any


# From the driver to an agent ---------------------------------------------------------------------


class Sharing:
    """The pieces of memory that tasks share, by number, as the driver knows them (dispatcher).

    The first node gets one directly, as many are in a single task; the cluster keeps what a second one needs.

    Args:
        put: Has the cluster keep a piece of memory (``Link.put``).
        gone: Called with the number of one that nobody needs any more, for ``drop`` to be called. On any
            thread, at any moment.
    """

    def __init__(self, put: Callable[[Buffer, Node], Any], gone: Callable[[int], None]) -> None:
        self._put = put
        self._gone = gone
        # By the id of the hold, which another one may have once this one is gone.
        self._numbers: dict[int, tuple[weakref.ref[Hold], int]] = {}
        self._holds: dict[int, int] = {}  # by number, the id
        self._kept: dict[int, Any] = {}  # by number, what the cluster keeps
        self._next = 1

    def number(self, hold: Hold) -> int:
        """Return the number of a hold."""
        known = self._numbers.get(id(hold))
        if known is not None and known[0]() is hold:
            return known[1]
        number, self._next = self._next, self._next + 1
        gone = self._gone
        self._numbers[id(hold)] = (weakref.ref(hold, lambda _: gone(number)), number)
        self._holds[number] = id(hold)
        return number

    def memory(self, number: int, view: Callable[[], Buffer], node: Node, is_kept: bool) -> Any:
        """Return the memory of a hold for a message to a node, or what the cluster keeps for that.

        Args:
            number: The hold's.
            view: Gives its memory.
            node: To which it has not been sent yet.
            is_kept: Whether the cluster is to keep it even for the first node.

        Raises:
            Exception: The cluster cannot keep it.
        """
        if number in self._kept:
            if self._kept[number] is None:
                self._kept[number] = self._put(view(), node)
        elif is_kept:
            self._kept[number] = self._put(view(), node)
        else:
            self._kept[number] = None
            return view()
        return self._kept[number]

    def drop(self, number: int) -> None:
        """Let go of what nobody needs any more."""
        self._kept.pop(number, None)
        which = self._holds.pop(number, 0)
        if self._numbers.get(which, (None, 0))[1] == number:
            del self._numbers[which]

    def clear(self) -> None:
        """Let go of everything: the pool has ended."""
        self._numbers.clear()
        self._holds.clear()
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._holds)


class Shared(NamedTuple):
    """A piece of memory that a task shares with others: its number, and what gives it."""

    number: int
    view: Callable[[], Buffer]


def pack(
    body: payload.Parcel, buffers: list[Any], sharing: Sharing, is_function: bool = False
) -> tuple[Form, list[Shared]]:
    """Return the form of large arguments, or of a function, and the memory that it shares.

    Args:
        body: The parcel.
        buffers: Those of the message, to which its own memory is added.
        sharing: The numbers of what others share.
        is_function: Its own memory is shared as well: other tasks, and nodes, will need it.

    Raises:
        OSError: There is no room for it here.
    """
    fds = body.hand_over()  # its segments are not used again from now on
    head = payload.read_head(body.head)
    own, holds = NO_MEMORY, list(body.shared)
    memories = list(zip(fds, head.ends, strict=True))
    if len(fds) > len(holds):
        if is_function:
            own, holds = FIRST_SHARED, [body.own, *holds]
        else:
            own = len(buffers)
            buffers.append(_view(head, *memories.pop(0)))
    shared = [
        Shared(sharing.number(hold), functools.partial(_view, head, *memory))
        for hold, memory in zip(holds, memories, strict=True)
    ]
    return (LARGE, body.head, own, [each.number for each in shared]), shared


def _view(head: payload.Head, fd: int, end: int) -> memoryview:
    """Return the memory of one of the segments of a parcel."""
    return memoryview(payload.view_segments(head._replace(ends=[end]), [fd])[0])


def not_sent(what: str, error: Exception) -> GlasspoolError:
    """Return the error of a task that could not be handed to a node."""
    made = GlasspoolError(
        f"the task was not run, as {what} could not be handed to the cluster: {type(error).__name__}: {error}"
    )
    made.__cause__ = error
    return made


def unpack(form: Form, buffers: Sequence[Any], shared: dict[int, Hold | Missing]) -> Any:
    """Rebuild the body of a task, or of a function, on a node.

    Raises:
        GlasspoolError: Some of its memory has not come.
        OSError: There is no room for it.
    """
    if type(form) is not tuple or not form or form[0] != LARGE:
        return form
    _, head, at, numbers = form
    holds = [_present(shared[number]) for number in numbers]
    own: Any = None
    if at == FIRST_SHARED:
        own = holds.pop(0)
    elif at != NO_MEMORY:
        own = memoryview(_present(buffers[at])).cast("B")
    return payload.Parcel.of_memory(head, own, holds)


def _present(memory: Any) -> Any:
    if isinstance(memory, Missing):
        raise GlasspoolError(memory.why)
    return memory


def hold(memory: Buffer | Missing) -> Hold | Missing:
    """Have a piece of memory in a segment, for the workers of this machine to view."""
    if isinstance(memory, Missing):
        return memory
    flat = memoryview(memory).cast("B")
    try:
        made = Hold(flat.nbytes)
        made.write([(0, flat)], flat.nbytes)
    except OSError as error:
        return Missing(
            f"there is no room on the node for {flat.nbytes} bytes that tasks share: {error}"
        )
    return made


# From an agent to the driver ---------------------------------------------------------------------


class Going:
    """Ends of tasks on their way to the driver: how many go with one message (who collects, on a node).

    A result that is too large for one message goes ahead of its end, piece by piece, one for each message.
    """

    def __init__(self) -> None:
        self._rest: memoryview | None = None  # of the first result in line
        self._total = 0

    def take(self, ends: deque[Task], buffers: list[Any]) -> tuple[list[Task], list[Piece]]:
        """Take what goes with the next message: the ends of tasks, and pieces of a result.

        Raises:
            OSError: There is no room to look at the memory of the first one.
        """
        room = MESSAGE_BYTES
        taken: list[Task] = []
        pieces: list[Piece] = []
        while ends and room > 0:
            task = ends[0]
            if task.ended_as != wire.OK_PLAIN:
                size = _size_of(task.outcome[1])
                if size > room and (taken or pieces):
                    break  # it goes first in the next message
                if size > MESSAGE_BYTES:
                    pieces.append(self._next_piece(task, buffers))
                    if self._rest is not None:
                        break
                room -= size
            taken.append(ends.popleft())
        return taken, pieces

    def _next_piece(self, task: Task, buffers: list[Any]) -> Piece:
        rest = self._rest
        if rest is None:
            rest = memoryview(task.outcome[1].memories()[0]).cast("B")
            self._total = rest.nbytes
        at = self._total - rest.nbytes
        buffers.append(rest[:MESSAGE_BYTES])
        rest = rest[MESSAGE_BYTES:]
        self._rest = rest if rest.nbytes else None
        return self._total, at, len(buffers) - 1


Piece = tuple[int, int, int]
"""How large the result is in all, where in it the piece belongs, and which buffer of the message it is."""


def _size_of(body: Any) -> int:
    return len(body) if isinstance(body, bytes | Segment) else 0


def pack_outcome(body: Any, buffers: list[Any]) -> Form:
    """Return the form of what became of a task.

    Raises:
        OSError: There is no room to look at its memory.
    """
    if isinstance(body, Segment):
        if len(body) > MESSAGE_BYTES:
            return (LARGE, body.head, IN_PIECES)
        buffers.append(memoryview(body.memories()[0]))
        return (LARGE, body.head, len(buffers) - 1)
    if isinstance(body, BaseException):
        return pack_error(body)
    return body


class Coming:
    """A result that comes in pieces from a node, which sends one after the other (dispatcher)."""

    def __init__(self) -> None:
        self._memory: bytearray | None = None
        self._error: MemoryError | None = None

    def add(self, total: int, at: int, piece: Any) -> None:
        """Put a piece where it belongs."""
        if at == 0:
            try:
                self._memory, self._error = bytearray(total), None
            except MemoryError as error:
                self._memory, self._error = None, error
        if self._memory is not None:
            flat = memoryview(piece).cast("B")
            self._memory[at : at + flat.nbytes] = flat

    def clear(self) -> None:
        """Forget what has come."""
        self._memory = self._error = None

    def take(self) -> bytearray:
        """Return the memory of the result, all of which is there.

        Raises:
            MemoryError: There was no room for it.
        """
        memory, self._memory = self._memory, None
        if memory is None:
            raise self._error or MemoryError("a result came without its memory")
        return memory


class Received(Segment):
    """A result that came from another machine, not yet rebuilt."""

    __slots__ = ()

    def __init__(self, head: bytes, memory: Any) -> None:
        self.head = head
        self.fd = -1
        self._memory = [memory]
        self._claim = None


def unpack_outcome(form: Form, buffers: Sequence[Any], coming: Coming) -> Any:
    """Rebuild what became of a task that did not end with a plain value; no user's code runs.

    Raises:
        MemoryError: There is no room for it.
    """
    if type(form) is tuple and form and form[0] == LARGE:
        _, head, at = form
        return Received(head, coming.take() if at == IN_PIECES else _own(buffers[at]))
    return form


def _own(memory: Any) -> Any:
    """Return memory of our own, to be written to: not a library's, nor a small part of a large piece."""
    view = memoryview(memory)
    whole = view.obj if isinstance(view.obj, bytes | bytearray | memoryview) else view
    if view.readonly or memoryview(whole).nbytes > 2 * view.nbytes:
        return bytearray(view)
    return memory


def pack_error(error: BaseException) -> bytes:
    """Pickle an error of the pool's own, with its cause if that can be pickled."""
    try:
        return pickle.dumps((error, error.__cause__), payload.PROTOCOL)
    except Exception:
        pass  # of the cause, which is the user's, the text has to do
    try:
        return pickle.dumps((error, None), payload.PROTOCOL)
    except Exception:
        told = GlasspoolError(f"{type(error).__name__}: {error}")
        return pickle.dumps((told, None), payload.PROTOCOL)


def unpack_error(packed: bytes) -> BaseException:
    """Rebuild an error that an agent told."""
    try:
        error, cause = pickle.loads(packed)
    except Exception as failed:
        return GlasspoolError(f"a node told of an error that cannot be rebuilt here: {failed}")
    if not isinstance(error, BaseException):
        return GlasspoolError(f"a node told of an error that is none: {type(error).__name__}")
    error.__cause__ = cause
    return error
