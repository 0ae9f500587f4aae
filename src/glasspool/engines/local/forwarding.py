"""Forwarding: how what loggers of a worker are told reaches the handlers of the pool's program.

In the worker. ``Logger.callHandlers`` is where a logger has decided that a record counts; in its place
stands ours, which looks whose handlers the record would meet. Those that were there when the worker began
are copies of the program's (inherited under fork, made by the import of the main module else): they are
put aside, and the record is sent. If the initializer or a task has added a handler of its own, the program
logs in its workers by itself, and everything is as the standard library does it. No handler is added, so
``basicConfig`` in an initializer works.

Each record is one message on a socket that all workers of the pool send on (``logs`` reads it). The
kernel takes a message whole or not at all, so a worker that is killed at any instant harms no other; what
it had sent arrives. No lock is held: signal handlers may log, too. A worker whose records are not read
waits ``PATIENCE_S`` at most, and then goes on without them; it tells how many were lost.

``logging`` is not imported for this. Where nobody has done so, a finder waits for the import.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import pickle
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool.engines.local import channel, recorder, segments, wire

if TYPE_CHECKING:
    import logging
    from importlib.machinery import ModuleSpec

    from glasspool.engines.local.worker import Setup

PATIENCE_S = 2.0
"""So long a worker waits when the parent has more records than it takes, once."""

MOST_BYTES = 16 << 20
"""A record that is larger is cut."""

_TEXT = 1 << 20
"""So much of each text is left of it."""

_WANTED_BYTES = 1 << 20
_SAFE = frozenset({str, int, float, bool, bytes, type(None)})

# What travels before the fields of a record.
HANDLED = 1  # some handler is in the record's way in the worker, if only a NullHandler
FILTERED = 2  # the logger's filters have seen it
LOWERED = 4  # the worker let it pass by a level that was set there
LOST = 8  # no record, but how many were not sent
BESIDE = 16  # the message itself is in the file that comes along
BASIC = 32  # the worker logged by ``logging.warning`` or its like, which sees to a handler


class Levels(NamedTuple):
    """What decides whether a logger takes a record, as far as it was set."""

    disabled: int
    explicit: dict[str, int]

    @classmethod
    def here(cls) -> Levels | None:
        """Return those of this process; None if nobody has imported ``logging``."""
        logging = sys.modules.get("logging")
        manager = getattr(getattr(logging, "root", None), "manager", None)
        if logging is None or manager is None:
            return None
        explicit = {"": logging.root.level}
        for name, logger in list(manager.loggerDict.items()):
            level = getattr(logger, "level", 0)
            if level:
                explicit[name] = level
        return cls(manager.disable, explicit)

    def set(self) -> None:
        """Let the loggers of this process decide so."""
        import logging

        if self.disabled:
            logging.disable(self.disabled)
        for name, level in self.explicit.items():
            logging.getLogger(name).setLevel(level)

    def of(self, name: str) -> int:
        """Return from which level on a logger takes records."""
        explicit = self.explicit
        while name:
            level = explicit.get(name)
            if level:
                return level
            name = name.rpartition(".")[0]
        return explicit[""]


class Sender:
    """The workers' end of a pool's records socket. It travels to each worker as it starts."""

    def __init__(
        self, end: socket.socket, reader: socket.socket | None, levels: Levels | None = None
    ) -> None:
        self.end = end
        self._reader = reader
        self._levels = levels

    @classmethod
    def of(cls, end: socket.socket, reader: socket.socket, levels: Levels | None = None) -> Sender:
        """Make it of the two ends of a new socket; ``levels`` if not those of this process count."""
        whole = int(PATIENCE_S)
        limit = struct.pack("ll", whole, int((PATIENCE_S - whole) * 1e6))  # a timeval
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WANTED_BYTES)  # as far as is allowed
        return cls(end, reader, levels)

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker that is being spawned, with the levels as they are at that moment.
        return Sender, (self.end, None, self._levels or Levels.here())

    def begin(self, setup: Setup) -> None:
        """Send the records of this process from now on (a worker's main thread, once)."""
        if self._reader is not None:
            self._reader.close()  # a fork has that of the parent, too
        forwarding = Forwarding(self.end, setup.slot, self._levels)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forwarding.become_copy)
        if "logging" in sys.modules:
            forwarding.follow()
        else:
            sys.meta_path.insert(0, _Awaiting(forwarding.follow))


class Forwarding:
    """What sends the records of a worker."""

    def __init__(self, end: socket.socket, slot: int, levels: Levels | None) -> None:
        self._end = end
        self._slot = slot
        self._levels = levels
        self._began: Levels = Levels(0, {"": 0})
        self._floors: dict[str, int] = {}
        self._aside: frozenset[int] = frozenset()
        self._kept: tuple[Any, ...] = ()  # so that no other handler has the id of one put aside
        self._is_copy = False
        self._lost = 0
        self._basic = 0
        self._fields = 0
        self._null: Any = None
        self._root: Any = None
        self._formatter: Any = None

    def become_copy(self) -> None:
        """Send nothing any more: a task forked this process, and its records are its own."""
        self._is_copy = True

    def follow(self) -> None:
        """Stand where loggers pass their records on."""
        import logging

        from glasspool.engines.local import worker

        if recorder.awaits_logging:
            recorder.look_for_logging()
        if self._levels is not None:
            self._levels.set()
        self._began = Levels.here() or self._began
        self._kept = tuple(_attached(logging))
        self._aside = frozenset(map(id, self._kept))
        self._null, self._root = logging.NullHandler, logging.root
        self._formatter = logging.Formatter()
        self._fields = len(vars(logging.LogRecord("", 0, "", 0, "", (), None)))
        call_handlers, mine, where = logging.Logger.callHandlers, self, worker.current

        def forwarding_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
            found = mine._is_copy or mine._look(self)
            if found is not True:
                here = where()
                if mine._send(self, record, found, None if here is None else here.task):
                    recorder.note_log(record)
                    return
            call_handlers(self, record)

        logging.Logger.callHandlers = forwarding_handlers  # type: ignore[method-assign]
        self._stay_unconfigured(logging)

    def _stay_unconfigured(self, logging: Any) -> None:
        """Let ``logging.warning`` and its like not configure this process, as the record is sent.

        They call ``basicConfig()`` where the root logger has no handler. What the program calls is left as
        it is.
        """
        configure, own = logging.basicConfig, vars(logging)

        def basic_config(**choices: Any) -> None:
            if choices or self._is_copy or sys._getframe(1).f_globals is not own:
                configure(**choices)
            elif not logging.root.handlers:
                self._basic = BASIC

        logging.basicConfig = basic_config

    def _look(self, logger: logging.Logger) -> bool | int:
        """Tell whether what becomes of a record of this logger is this process's business; else flags."""
        found, real, aside, null = 0, False, self._aside, self._null
        at: Any = logger
        while True:
            for handler in at.handlers:
                found = HANDLED
                if type(handler) is not null:
                    if id(handler) not in aside:
                        return True
                    real = True
            if not at.propagate:
                return found if real or not found else True  # it is to be silent
            if at.parent is None:
                return found if at is self._root else True  # the program cannot know of this logger
            at = at.parent

    def _send(
        self, logger: logging.Logger, record: logging.LogRecord, flags: int, task: int | None
    ) -> bool:
        """Send a record; False if that cannot be."""
        try:
            fields = self._prepared(record)
        except Exception:  # its arguments don't fit its text: told as handlers tell it
            self._null().handleError(record)
            return True
        flags |= self._basic
        if logger.filters:
            flags |= FILTERED
        name = logger.name
        floor = self._floors.get(name)
        if floor is None:
            floor = self._floors[name] = self._began.of("" if name == "root" else name)
        if record.levelno < floor:
            flags |= LOWERED
        try:
            if len(fields) != self._fields:
                raise ValueError
            message = marshal.dumps((flags, self._slot, task, fields))
        except ValueError:  # there is more in it than the standard library's record has
            safe = _made_safe(fields)
            message = marshal.dumps((flags, self._slot, task, safe))
            if len(message) > MOST_BYTES:
                message = marshal.dumps((flags, self._slot, task, _cut(safe)))
        return self._post(message)

    def _prepared(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return what a record holds, without what only this process can tell."""
        message = record.getMessage()
        fields = record.__dict__.copy()
        if fields["exc_info"]:
            if not fields["exc_text"]:
                fields["exc_text"] = self._formatter.formatException(fields["exc_info"])
            fields["exc_info"] = None
        fields["msg"] = message
        fields["args"] = None
        record.message = message  # as a Formatter does; the black box takes it from there
        record.exc_text = fields["exc_text"]
        return fields

    def _post(self, message: bytes) -> bool:
        try:
            if self._lost and not self._confess():
                self._lost += 1
            elif len(message) <= wire.INLINE_BYTES:
                channel.send(self._end, message)
            else:
                self._post_beside(message)
        except BlockingIOError:  # nobody has read for long: the task is more than its records
            self._lost += 1
        except OSError:  # the pool is gone, or a task has closed our descriptor
            return False
        return True

    def _confess(self) -> bool:
        """Say how many records were lost, if there is room for it now."""
        told = marshal.dumps((LOST, self._slot, None, {"": self._lost}))
        if not channel.try_send(self._end, told):
            return False
        self._lost = 0
        return True

    def _post_beside(self, message: bytes) -> None:
        """Send a long message in a file of its own."""
        if len(message) > MOST_BYTES:
            flags, slot, task, fields = marshal.loads(message)
            message = marshal.dumps((flags, slot, task, _cut(fields)))
        fd = segments.new_file()
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(message)
            channel.send(self._end, marshal.dumps((BESIDE, self._slot, None, None)), (fd,))
        finally:
            os.close(fd)


class _Awaiting:
    """A finder that waits for the import of ``logging``."""

    def __init__(self, follow: Callable[[], None]) -> None:
        self._follow = follow

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find ``logging``, and see to it that its records are followed as soon as it is there."""
        if name != "logging":
            return None
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._hook(spec.loader)
                return spec
        return None

    def _hook(self, loader: Any) -> None:
        execute, follow = loader.exec_module, self._follow

        def execute_and_follow(module: Any) -> None:
            execute(module)
            follow()

        loader.exec_module = execute_and_follow


def _attached(logging: Any) -> Iterator[Any]:
    """List the handlers that loggers of this process have."""
    yield from logging.root.handlers
    for logger in list(logging.root.manager.loggerDict.values()):
        yield from getattr(logger, "handlers", ())


def _made_safe(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields that may hold anything of the user's as texts, numbers, and pickles in tuples."""
    return {
        str(name): value if type(value) in _SAFE else _pickled(value)
        for name, value in fields.items()
    }


def _pickled(value: Any) -> tuple[bytes] | str:
    try:
        return (pickle.dumps(value, protocol=5),)
    except Exception:  # a user's object may do anything
        try:
            return repr(value)[:1000]
        except Exception:
            return f"<{type(value).__qualname__} that cannot be shown>"


def _cut(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with their long texts cut, and without long values."""
    shorter: dict[str, Any] = {}
    for name, value in fields.items():
        if type(value) is str and len(value) > _TEXT:
            value = f"{value[:_TEXT]} [... {len(value) - _TEXT} characters ...]"
        elif type(value) in (bytes, tuple) and len(marshal.dumps(value)) > _TEXT:
            value = "<a value that is too large>"
        shorter[name] = value
    return shorter
