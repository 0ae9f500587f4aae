"""Events, locks and the like that work from any machine: under the names of those of ``multiprocessing``.

The programs here hand them to workers through an initializer. Those of ``multiprocessing`` are inherited,
which needs a parent; these are proxies of objects in one server on loopback, and carry the key to it.
"""

from __future__ import annotations

import multiprocessing.managers as managers
import queue
import secrets
import threading
from multiprocessing.managers import BarrierProxy, EventProxy, ValueProxy
from typing import Any

LIMIT_S = 30


class _Server(managers.BaseManager):
    """The server of all events and locks of a session."""


_PROXIES: dict[str, type[managers.BaseProxy]] = {
    "Event": EventProxy,
    "Lock": managers.AcquirerProxy,
    "Barrier": BarrierProxy,
    "Value": ValueProxy,
    "Queue": managers.MakeProxyType("QueueProxy", ("get", "put")),
}
_MADE_OF: dict[str, Any] = {
    "Event": threading.Event,
    "Lock": threading.Lock,
    "Barrier": threading.Barrier,
    "Value": managers.Value,
    "Queue": queue.Queue,
}
for _name, _proxy in _PROXIES.items():
    _Server.register(_name, _MADE_OF[_name], _proxy)


class Thing:
    """A proxy that any process may rebuild."""

    def __init__(self, kind: str, proxy: Any, key: bytes) -> None:
        self._kind, self._proxy, self._key = kind, proxy, key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._proxy, name)

    def __enter__(self) -> Any:
        return self._proxy.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self._proxy.__exit__(*error)

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self._kind, self._proxy._token, self._key)


def _rebuilt(made: type[Thing], kind: str, token: Any, key: bytes) -> Thing:
    return made(kind, _PROXIES[kind](token, "pickle", authkey=key), key)


class Queue(Thing):
    """A queue that needs no thread here to be closed."""

    def close(self) -> None:
        """Do nothing."""

    def join_thread(self) -> None:
        """Do nothing."""


class Number:
    """A number that has a lock, as ``multiprocessing.Value`` has."""

    def __init__(self, value: Thing, lock: Thing) -> None:
        self._value, self._lock = value, lock

    def get_lock(self) -> Thing:
        """Return the lock."""
        return self._lock

    @property
    def value(self) -> Any:
        """What the number is now."""
        return self._value.get()

    @value.setter
    def value(self, value: Any) -> None:
        self._value.set(value)


class Everywhere:
    """What a test takes for a context of ``multiprocessing``, when its workers are anywhere."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)
        self._server = _Server(("127.0.0.1", 0), self._key)
        self._server.start()

    def _make(self, kind: str, *args: Any, made: type[Thing] = Thing) -> Any:
        return made(kind, getattr(self._server, kind)(*args), self._key)

    def Event(self) -> Any:
        """Return an event."""
        return self._make("Event")

    def Lock(self) -> Any:
        """Return a lock."""
        return self._make("Lock")

    def Barrier(self, parties: int) -> Any:
        """Return a barrier."""
        return self._make("Barrier", parties)

    def Queue(self) -> Any:
        """Return a queue."""
        return self._make("Queue", made=Queue)

    def Value(self, code: str, value: int) -> Number:
        """Return a number with a lock."""
        return Number(self._make("Value", code, value), self._make("Lock"))

    def end(self) -> None:
        """End the server."""
        self._server.shutdown()
