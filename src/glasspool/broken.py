"""Errors of an ``Executor``: ours, and at once those that programs for the standard library's expect.

::

    BrokenProcessPool (concurrent.futures.process)
    ├── BrokenWorker        the worker died while it ran the call (also WorkerDied)
    ├── BrokenResult        call, result or exception could not be rebuilt (also SerializationError)
    ├── BrokenInitializer   the initializer fails in the workers (also InitializerFailed)
    └── BrokenPool          the executor ended, or was terminated, before the call (also GlasspoolError)

    UnpicklableResult       result or exception could not be pickled (also SerializationError and
                            pickle.PicklingError)

They are a module of their own because the standard library's are slow to load, and few programs need them.
"""

from __future__ import annotations

import pickle
import traceback
from concurrent.futures import process
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

from glasspool.errors import (
    GlasspoolError,
    InitializerFailed,
    SerializationError,
    TaskCancelled,
    TaskExit,
    TaskTimeout,
    WorkerDied,
)

_RemoteTraceback: Any = process._RemoteTraceback  # typeshed has it wrong: it takes a text


class BrokenPool(GlasspoolError, BrokenProcessPool):
    """The executor has ended, or was terminated, before the call had ended."""


class BrokenWorker(WorkerDied, BrokenProcessPool):
    """The worker process died while it ran the call; ``certificate`` says what is known of it.

    Unlike with the standard library's executor, only this future is broken.
    """


class BrokenInitializer(InitializerFailed, BrokenProcessPool):
    """The initializer fails in the workers: no call can run."""


class BrokenResult(SerializationError, BrokenProcessPool):
    """The call could not be rebuilt in the worker, or its result or exception not in this process.

    Unlike with the standard library's executor, only this future is broken.
    """


class UnpicklableResult(SerializationError, pickle.PicklingError):
    """The result of the call, or the exception that it raised, could not be pickled in the worker."""


def error_of_future(error: BaseException, was_run: bool) -> BaseException:
    """Return the error of a future for what a pool's result would raise.

    Args:
        error: What the pool's result would raise.
        was_run: A worker has told the end; else it is this process's word.
    """
    if isinstance(error, TaskExit) and error.__cause__ is not None:
        error = error.__cause__  # as the standard library's executor: it arrives as itself
    made = _translated(error)
    if made is not error:
        made.__cause__ = error.__cause__
        for note in getattr(error, "__notes__", ()):
            made.add_note(note)
    cause: Any = made.__cause__
    if type(cause) is RemoteTraceback:
        made.__cause__ = _RemoteTraceback(cause.tb)
    elif not was_run and (_is_a_picklers(made) or not (cause or isinstance(made, GlasspoolError))):
        # It could not be pickled here: the text of the traceback keeps none of its frames alive.
        story = "".join(traceback.format_exception(made))
        made.__cause__ = _RemoteTraceback(f'\n"""\n{story}"""')
        made.__traceback__ = None
    return made


def error_of_executor(failure: BaseException | None, name: str) -> BrokenProcessPool:
    """Return the error for a call that is submitted to an executor whose pool has failed, or ended."""
    if failure is None:
        return BrokenPool(f"the executor {name} has ended")
    made = _translated(failure)
    if not isinstance(made, BrokenProcessPool):
        made = BrokenPool(str(failure))
    made.__cause__ = failure.__cause__
    return made


def _translated(error: BaseException) -> BaseException:
    if not isinstance(error, GlasspoolError) or isinstance(error, (TaskTimeout, BrokenProcessPool)):
        return error
    if isinstance(error, WorkerDied):
        return BrokenWorker(error.certificate)
    if isinstance(error, InitializerFailed):
        return BrokenInitializer(*error.args)
    if isinstance(error, SerializationError):
        if _is_a_picklers(error):
            return error  # it never left this process
        kind = BrokenResult if error.was_sent else UnpicklableResult
        made = kind("", "", error.text)
        made.exc, made.value, made.args = error.exc, error.value, error.args
        return made
    if isinstance(error, TaskCancelled) and getattr(error, "__notes__", None):
        return error  # somebody cancelled it by hand: the note says who
    return BrokenPool(str(error))


def _is_a_picklers(error: BaseException) -> bool:
    """Tell whether something could not be pickled here: that is of the type that pickle raises, as well."""
    kinds = pickle.PicklingError, TypeError, AttributeError
    return isinstance(error, SerializationError) and isinstance(error, kinds)
