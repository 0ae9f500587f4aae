"""The mixed load: kinds of calls, each of which knows how it may end, and checks that it does."""

from __future__ import annotations

import multiprocessing
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import glasspool
from bench.torture import load
from bench.torture.books import Books

HANG_S = 60.0
"""A call that has not ended after so long hangs."""


class Call(ABC):
    """A call that was made, and is to be settled."""

    may_end: frozenset[str] = frozenset({"done"})
    handle: Any

    def __init__(self, books: Books, kind: str, tokens: int, tasks: int) -> None:
        self.books = books
        self.kind = kind
        self.tokens = books.open(kind, tokens, tasks)
        self.tasks = tasks

    @abstractmethod
    def settle(self) -> None:
        """Wait for the end, and enter it in the books."""

    def cancel(self) -> None:
        """Cancel it, and allow for that."""
        self.may_end |= {"cancelled"}
        self.handle.cancel()

    def end(self, tokens: list[int], how: str, error: BaseException | None = None) -> None:
        """Enter one end, and look whether it may be."""
        self.books.close(tokens, how)
        if isinstance(error, glasspool.WorkerDied):
            self.books.lose(error.certificate.pid)
        elif how not in self.may_end:
            self.books.complain(f"a {self.kind} call ended as {how}", f"{error!r}"[:300])

    def hangs(self) -> None:
        """Say that it has not ended."""
        self.books.complain("a call hangs", f"{self.kind}, tokens from {self.tokens[0]} on")


def how_of(error: BaseException) -> str:
    """Return the ledger's word for the end of a task by this error."""
    for kind, how in (
        (glasspool.WorkerDied, "lost"),
        (glasspool.TaskCancelled, "cancelled"),
        (glasspool.TaskTimeout, "timeout"),
    ):
        if isinstance(error, kind):
            return how
    return "failed"


class Single(Call):
    """One ``apply_async``."""

    def __init__(
        self,
        books: Books,
        pool: glasspool.Pool,
        kind: str,
        function: Callable[..., Any],
        arguments: tuple[Any, ...] = (),
        end: str = "done",
        with_callback: bool = False,
        **limits: Any,
    ) -> None:
        super().__init__(books, kind, 1, 1)
        self.may_end = frozenset({end})
        callback = books.call_back if with_callback else None
        if with_callback:
            books.owe_callback()
        self.handle = pool.apply_async(
            function,
            (self.tokens[0], *arguments),
            callback=callback,
            error_callback=callback,
            **limits,
        )

    def settle(self) -> None:
        """Wait for the end, and enter it in the books."""
        try:
            value = self.handle.get(HANG_S)
        except multiprocessing.TimeoutError:
            self.hangs()
        except load.Deliberate as error:
            self.books.deliver(self.tokens, error.args)
            self.end(self.tokens, "failed", error)
        except Exception as error:
            self.end(self.tokens, how_of(error), error)
        else:
            self.books.deliver(self.tokens, [value[0] if isinstance(value, tuple) else value])
            self.end(self.tokens, "done")


class Direct(Call):
    """One ``apply``, which waits."""

    def __init__(self, books: Books, pool: glasspool.Pool) -> None:
        super().__init__(books, "apply", 1, 1)
        try:
            self.books.deliver(self.tokens, [pool.apply(load.short, (self.tokens[0],))])
            self.end(self.tokens, "done")
        except Exception as error:
            self.end(self.tokens, how_of(error), error)

    def settle(self) -> None:
        """Nothing is left to do."""

    def cancel(self) -> None:
        """There is nothing to cancel."""


class Map(Call):
    """One ``map_async``; each chunk is a task."""

    def __init__(self, books: Books, pool: glasspool.Pool, items: int, chunksize: int) -> None:
        super().__init__(books, "map", items, -(-items // chunksize))
        self._chunksize = chunksize
        self.handle = pool.map_async(load.short, self.tokens, chunksize)

    def settle(self) -> None:
        """Wait for the end of all chunks, and enter each in the books."""
        try:
            values = self.handle.get(HANG_S)
        except multiprocessing.TimeoutError:
            return self.hangs()
        except Exception as error:
            return self._settle_chunks(error)
        self.books.deliver(self.tokens, values)
        self.books.close(self.tokens, "done", self.tasks)
        return None

    def _settle_chunks(self, error: Exception) -> None:
        told = self.handle.info.tasks
        if len(told) != self.tasks:
            self.books.complain("a map forgot chunks", f"{len(told)} of {self.tasks} are known")
        for task in told:
            first = task.index * self._chunksize
            tokens = self.tokens[first : first + self._chunksize]
            self.books.close(tokens, task.state)
            if task.state == "lost":
                self.books.lose(task.pid)
            elif task.state not in self.may_end:
                self.books.complain(f"a chunk ended as {task.state}", f"{error!r}"[:300])


class Row(Call):
    """One ``imap`` or ``imap_unordered``; each item is a task."""

    def __init__(self, books: Books, pool: glasspool.Pool, items: int, ordered: bool) -> None:
        super().__init__(books, "imap" if ordered else "imap_unordered", items, items)
        self._ordered = ordered
        method = pool.imap if ordered else pool.imap_unordered
        self.handle = method(load.short, self.tokens)

    def settle(self) -> None:
        """Read the row to its end, and enter each item in the books."""
        # Without an order an error has no place: which token it was is known at the end.
        errors: list[Exception] = []
        left = dict.fromkeys(self.tokens)
        for _ in range(self.tasks):
            try:
                value = self.handle.next(HANG_S)
            except multiprocessing.TimeoutError:
                return self.hangs()
            except StopIteration:
                return self.books.complain("a row ended early", f"{len(left)} items are missing")
            except Exception as error:
                errors.append(error)
                if self._ordered:
                    self._end_next(left, error)
                continue
            expected = next(iter(left)) if self._ordered else value
            self.books.deliver([expected], [value])
            left.pop(expected, None)
            self.end([value], "done")
        if not self._ordered:
            for error in errors:
                self._end_next(left, error)
        return None

    def _end_next(self, left: dict[int, None], error: Exception) -> None:
        token = next(iter(left))
        del left[token]
        self.end([token], how_of(error), error)


Maker = Callable[[Books, glasspool.Pool, random.Random], Call]


def _timed_out(books: Books, pool: glasspool.Pool, rng: random.Random) -> Call:
    return Single(
        books,
        pool,
        "timeout",
        load.long,
        (HANG_S / 2,),
        end="timeout",
        timeout=rng.uniform(0.02, 0.1),
    )


def _cancelled(books: Books, pool: glasspool.Pool, rng: random.Random) -> Call:
    call = Single(books, pool, "cancel", load.long, (HANG_S / 2,), end="cancelled")
    call.cancel()
    return call


SHORT: dict[str, tuple[int, Maker]] = {
    "apply_async": (70, lambda b, p, r: Single(b, p, "apply_async", load.short)),
    "callback": (
        20,
        lambda b, p, r: Single(b, p, "callback", load.short, with_callback=True),
    ),
    "map": (6, lambda b, p, r: Map(b, p, r.randint(1, 400), 1)),
    "imap": (2, lambda b, p, r: Row(b, p, r.randint(1, 400), ordered=True)),
    "imap_unordered": (2, lambda b, p, r: Row(b, p, r.randint(1, 400), ordered=False)),
}
"""Short tasks: a weight and a maker for each kind."""

MIXED: dict[str, tuple[int, Maker]] = {
    **SHORT,
    "apply": (10, lambda b, p, r: Direct(b, p)),
    "chunked map": (4, lambda b, p, r: Map(b, p, r.randint(1, 2000), r.randint(2, 50))),
    "long": (10, lambda b, p, r: Single(b, p, "long", load.long, (r.uniform(0.001, 0.03),))),
    "raise": (
        10,
        lambda b, p, r: Single(b, p, "raise", load.fail, end="failed", with_callback=True),
    ),
    "large argument": (
        2,
        lambda b, p, r: Single(b, p, "large argument", load.take, (bytes(_size(r)),)),
    ),
    "large result": (2, lambda b, p, r: Single(b, p, "large result", load.give, (_size(r),))),
    "timeout": (1, _timed_out),
    "cancel": (2, _cancelled),
}
"""All kinds."""


def _size(rng: random.Random) -> int:
    return int(10 ** rng.uniform(4.0, 6.7))
