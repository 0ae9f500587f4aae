"""What became of a task: a kind and a body, rebuilt only when somebody asks.

Rebuilding runs code of the user's (``__setstate__``, imports), so the threads of the pool never do it:
the one who asks for the result does, or the callback thread.
"""

from __future__ import annotations

import pickle
from collections import deque
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import channel, payload, wire
from glasspool.engines.local.segments import Claim, close_noted
from glasspool.errors import SerializationError, TaskExit

if TYPE_CHECKING:
    from glasspool.ledger import Task

VALUE = wire.OK_PLAIN
"""The body is the value itself: a plain one is rebuilt as it arrives."""
RAISED = 41
"""The body is the exception to raise."""

Outcome = tuple[int, Any]


class Segment:
    """A result that lies in shared memory, not yet rebuilt. Owns the descriptor.

    While this process has many segments open, the memory is copied and the descriptor closed. When
    neither this nor a view of the memory lives, the number of the segment is added to ``returned``, for
    the worker to be told that it may use it again.
    """

    __slots__ = ("_claim", "_memory", "fd", "head")

    def __init__(self, head: bytes, fd: int, returned: deque[int]) -> None:
        self.head: bytes = head
        self.fd: int = fd
        self._memory: list[payload.Memory] | None = None
        number = payload.segment_number(head)
        self._claim = Claim(number, returned) if number else None
        if payload.is_full():
            self._memory = payload.copy_segments(payload.read_head(head), [fd])
            self._close()
            self._claim = None
        else:
            payload.note_open(fd)

    def load(self) -> Any:
        """Rebuild the value; its buffers are views of the memory."""
        head, memories = payload.read_head(self.head), self._memory
        if memories is None:
            memories = payload.view_segments(head, [self.fd], self._claim)
        return payload.load_memories(head, memories)

    def memories(self) -> list[payload.Memory]:
        """Return the memory that it lies in, for somebody who takes it on."""
        if self._memory is not None:
            return self._memory
        return payload.view_segments(payload.read_head(self.head), [self.fd], self._claim)

    def raw(self) -> bytes:
        """Return the first part as it is."""
        if self._memory is not None:
            return bytes(payload.first_part(self.head, self._memory[0]))
        return bytes(payload.first_part(self.head, self.fd))

    def __len__(self) -> int:
        return sum(payload.part_lengths(self.head))

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            close_noted(fd)

    def __del__(self) -> None:
        self._close()


def settle(task: Task, kind: int, body: Any, worker: Any, begun_ns: int, ended_ns: int) -> None:
    """End a task: its arguments are not needed any more, unless they are plain and cost nothing."""
    if not task.kind & wire.PLAIN:
        task.payload = None
    task.settle(kind, body, worker, begun_ns, ended_ns)


def arrived(kind: int, head: bytes, fds: list[int], returned: deque[int]) -> Outcome:
    """Take over the segment that came with a reply; an error if this process had no room for it."""
    try:
        return kind, Segment(head, channel.take_fds(fds, 1)[0], returned)
    except OSError as error:
        return RAISED, error


def rebuild(outcome: Outcome) -> Outcome:
    """Turn an outcome as it came into ``(VALUE, value)`` or ``(RAISED, exception)``."""
    kind, body = outcome
    if kind in (VALUE, RAISED):
        return outcome
    if kind == wire.OK or kind == wire.OK_SEGMENT:
        try:
            return VALUE, body.load() if kind == wire.OK_SEGMENT else payload.load(body)
        except Exception as error:
            return RAISED, unbuildable("result", error)
    if kind == wire.UNSENDABLE:
        return RAISED, _unsendable(*pickle.loads(body))
    return RAISED, _exception(kind, body)


def error_of(body: bytes) -> BaseException:
    """Rebuild an exception that a worker packed, whatever its kind."""
    return _exception(wire.ERROR, body)


def raised_classes(body: bytes | Segment) -> tuple[str, ...]:
    """Return the names of an exception's class and of its bases; none if the task never ran."""
    # Built-in types only: nothing of the user's is rebuilt here.
    names = pickle.loads(body.raw() if isinstance(body, Segment) else body)[6]
    return tuple(names)


def text_of(body: bytes) -> str:
    """Return the worker's traceback of an exception that it packed."""
    return str(pickle.loads(body)[2])


def _exception(kind: int, body: bytes | Segment) -> BaseException:
    packed = body.raw() if isinstance(body, Segment) else body
    name, message, story, pickled, why, unloadable, _, _, where = pickle.loads(packed)
    if unloadable:
        return SerializationError(
            f"{name}: {message}",
            "the task",
            f"the function or its arguments could not be rebuilt in the {where}: {name}: {message}\n"
            f"{_advice(message, where)}The worker's traceback:\n{story}",
        )
    original: BaseException | None = None
    if pickled is not None:
        try:
            original = payload.load(pickled)
        except Exception as error:
            why = f"it cannot be rebuilt here: {type(error).__qualname__}: {error}"
            why += f"\n{_advice(str(error), 'parent process')}".rstrip()
    if not isinstance(original, BaseException):
        lost = SerializationError(
            f"{name}: {message}",
            "the exception",
            f"the task raised {name}: {message}\n"
            f"(the exception itself did not arrive: {why})\nThe worker's traceback:\n{story}",
        )
        lost.was_sent = pickled is not None
        return lost
    if kind in (wire.EXIT, wire.EXIT_SEGMENT):
        exit_error = TaskExit(f"the task raised {name}({message})")
        exit_error.__cause__ = original
        return exit_error
    return original


def _advice(message: str, where: str) -> str:
    try:
        from glasspool import unpicklable  # not before something cannot be rebuilt
    except OSError:  # there is no descriptor left to load it with
        return ""
    advice = unpicklable.advice(message, where)
    return f"{advice}\n" if advice else ""


def _unsendable(error: str, value: str, story: str, where: str) -> SerializationError:
    text = f"Error sending result: '{value}'. Reason: '{error}'\n{where}" if where else None
    made = SerializationError("", "", text)
    made.exc, made.value = error, value
    made.args = (error, value)
    made.was_sent = False
    made.__cause__ = RemoteTraceback(f'\n"""\n{story}"""')
    return made


def unbuildable(what: str, error: BaseException) -> SerializationError:
    """Return the error for a value that arrived and could not be rebuilt."""
    made = SerializationError(
        error,
        what,
        f"the {what} arrived and could not be rebuilt: {type(error).__qualname__}: {error}\n"
        f"{_advice(str(error), 'parent process')}".rstrip(),
    )
    made.__cause__ = error
    return made
