"""Every error that glasspool raises of its own, one class per thing that a user can act on.

::

    GlasspoolError
    ├── WorkerDied            a worker process ended while it ran the task; has .certificate
    ├── TaskTimeout           the task did not end before its deadline (also a TimeoutError)
    ├── TaskCancelled         the task was cancelled, or the pool was terminated before it ended
    ├── TaskExit              the task raised SystemExit, KeyboardInterrupt or the like
    ├── InitializerFailed     the pool's initializer failed in its workers
    ├── SerializationError    a value could not be pickled or rebuilt (also a MaybeEncodingError)
    ├── EngineUnavailable     the engine that was asked for cannot be had
    └── EngineCannot          the pool's engine cannot do what was asked (also a ValueError)

An exception that the user's function raises is not wrapped: it arrives as it is, with the remote
traceback as its ``__cause__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasspool.snapshot import DeathCertificate, Frame

    class MaybeEncodingError(Exception):
        """What ``multiprocessing.pool`` has under this name, and typeshed lacks."""

        exc: str
        value: str

        def __init__(self, exc: object, value: object) -> None: ...

else:
    from multiprocessing.pool import MaybeEncodingError


class GlasspoolError(Exception):
    """Base class of the errors that glasspool raises of its own."""


class WorkerDied(GlasspoolError):
    """The worker process that ran the task ended before the task did.

    Attributes:
        certificate: What is known of the death: task, pid, signal or exit code, cause.
    """

    def __init__(self, certificate: DeathCertificate) -> None:
        super().__init__(certificate)
        self.certificate = certificate

    def __str__(self) -> str:
        return self.certificate.text()


class TaskTimeout(GlasspoolError, TimeoutError):
    """The task did not end before its deadline.

    This is the builtin ``TimeoutError``, not ``multiprocessing.TimeoutError``: a loop that retries
    ``get(1)`` must not take the end of the task for the end of its own patience.

    Attributes:
        stack: Where the task was when its time was up, outermost call first; None if it could not be
            learned. The error's note shows it.
    """

    stack: tuple[Frame, ...] | None = None


class TaskCancelled(GlasspoolError):
    """The task was cancelled, or its pool was terminated, before the task ended.

    Attributes:
        stack: Where the task was if it was running, outermost call first; else None.
    """

    stack: tuple[Frame, ...] | None = None


class TaskExit(GlasspoolError):
    """The task raised ``SystemExit``, ``KeyboardInterrupt`` or another ``BaseException``.

    The original is the ``__cause__``. It is not raised as itself, because it would end the program
    that asks for the result.
    """


class InitializerFailed(GlasspoolError):
    """The pool's initializer raised, or its process ended, in every worker that tried it.

    The text carries the worker's traceback; the original exception, where it could be rebuilt, is
    the ``__cause__``.
    """


class SerializationError(GlasspoolError, MaybeEncodingError):
    """A function, argument, result or exception could not be pickled or rebuilt.

    Attributes:
        exc: ``repr`` of the error that pickle met (as in ``MaybeEncodingError``).
        value: A short description of the value (as in ``MaybeEncodingError``).
        was_sent: Whether it was pickled, and could only not be rebuilt where it arrived.
    """

    was_sent: bool = True

    def __init__(self, exc: object, value: object, text: str | None = None) -> None:
        MaybeEncodingError.__init__(self, exc, value)
        self.text: str | None = text

    def __str__(self) -> str:
        return self.text if self.text is not None else MaybeEncodingError.__str__(self)


class EngineUnavailable(GlasspoolError):
    """The engine that was asked for is unknown, or what it needs is not installed."""


class EngineCannot(GlasspoolError, ValueError, AttributeError):
    """The pool's engine cannot do what was asked; another one can.

    A ``ValueError``, as it is mostly an argument that asks; an ``AttributeError``, so that ``hasattr`` says
    no of what the engine does not have.
    """
