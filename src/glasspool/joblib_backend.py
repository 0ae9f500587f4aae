"""joblib's calls on our pools: a backend as joblib's ``LokyBackend`` is one. Not imported without joblib.

Owns: the calls of a backend that have not ended. The pools are of ``joblib_pools``, which outlive a call.
Threads: none of its own. joblib's callbacks run on the pool's callback thread; they hand in what comes
next, too. What differs from loky's backend: calls that are aborted are cancelled one by one, and the
workers stay; large arrays lie in shared memory and not in files.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
from joblib.parallel import FallbackToBackend, SequentialBackend

from glasspool import joblib_pools, worker
from glasspool.engines.local import payload, wire
from glasspool.engines.local.recurring import Recurring
from glasspool.errors import TaskExit, WorkerDied
from glasspool.pool import Pool
from glasspool.results import AsyncResult

if TYPE_CHECKING:  # joblib has no types: what is used of its classes
    from concurrent.futures.process import BrokenProcessPool as TerminatedWorkerError

    class ParallelBackendBase:
        nesting_level: int | None
        inner_max_num_threads: int | None

        def __init__(
            self, nesting_level: int | None, inner_max_num_threads: int | None
        ) -> None: ...

    class AutoBatchingMixin:
        def compute_batch_size(self) -> int: ...

        def reset_batch_stats(self) -> None: ...

else:
    from joblib.externals.loky.process_executor import TerminatedWorkerError
    from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

_ONE_BY_ONE = ("timeout", "retries", "retry_on", "capture_output")
"""Where the pool was told one of these, it counts for each call, and so each is a task."""

_POOL_KEYWORDS = frozenset(inspect.signature(Pool).parameters) - {"processes"}


class JoblibWorkerDied(WorkerDied, TerminatedWorkerError):
    """A worker died while it ran calls of joblib's; also what joblib raises then with loky."""


class Outcome(NamedTuple):
    """How a batch of calls ended, for joblib's callback."""

    value: Any = None
    error: BaseException | None = None


def run(calls: Callable[[], Any]) -> Any:
    """Run a batch of calls, as joblib wants them run. Views show the function that is called, not this."""
    return calls()


class _Call:
    """A batch that has been submitted. Told of its end by the pool's callback thread, once."""

    __slots__ = ("_callback", "_open", "result")

    def __init__(self, open_calls: set[_Call], callback: Callable[[Outcome], Any] | None) -> None:
        self._open = open_calls
        self._callback = callback
        self.result: AsyncResult[Any] | None = None  # while it is being submitted

    @property
    def parallel(self) -> Any:
        """The Parallel that it belongs to, as far as joblib's callback tells."""
        return getattr(self._callback, "parallel", None)

    def returned(self, value: Any) -> None:
        self._end(Outcome(value))

    def raised(self, error: BaseException) -> None:
        self._end(Outcome(error=error))

    def _end(self, outcome: Outcome) -> None:
        self._open.discard(self)
        if self._callback is not None:
            self._callback(outcome)


class _Teller:
    """What joblib's batching uses of a Parallel; it does not keep it alive, as a cycle would."""

    def __init__(self, parallel: Any) -> None:
        self._parallel = (lambda: None) if parallel is None else weakref.ref(parallel)

    @property
    def verbose(self) -> int:
        """How much it tells; nothing if it has gone."""
        parallel = self._parallel()
        return 0 if parallel is None else int(parallel.verbose)

    def _print(self, *told: Any) -> None:
        parallel = self._parallel()
        if parallel is not None:
            parallel._print(*told)


class _Arguments:
    """The buffers that recur among the calls of one Parallel, for the pickling of a batch."""

    __slots__ = ("_calls", "_recurring")

    def __init__(self, recurring: Recurring, calls: Any) -> None:
        self._recurring = recurring
        self._calls = calls

    def find(self, value: Any, buffers: list[memoryview]) -> Any:
        """Do as ``Recurring.find``, with what the calls have for arguments."""
        calls = getattr(self._calls, "items", ())
        arguments = [one for _, args, kwds in calls for one in (*args, *kwds.values())]
        return self._recurring.find(arguments, buffers)


class GlasspoolBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs joblib's calls in the workers of a pool.

    Args:
        nesting_level: How many parallel calls this one is inside of, as joblib counts them.
        inner_max_num_threads: How many native threads each worker may use.
        **pool_keywords: Arguments of ``glasspool.Pool``, but for ``processes``.

    Raises:
        TypeError: A pool has no such argument.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **pool_keywords: Any,
    ) -> None:
        unknown = sorted(pool_keywords.keys() - _POOL_KEYWORDS)
        if unknown:
            raise TypeError(
                f"the joblib backend glasspool takes the arguments of glasspool.Pool, and {unknown[0]!r} "
                "is none that it can take; how many workers there are is said by n_jobs."
            )
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self.parallel: Any = None
        # joblib makes a backend with a nesting level for one Parallel, and without for a context.
        # In a worker nothing is to stay when the task has ended.
        self._closes: bool = nesting_level is None or worker() is not None
        self._keywords: dict[str, Any] = pool_keywords
        self._lease: joblib_pools.Lease | None = None
        self._one_by_one = False
        self._recurring: Recurring | None = None
        self._open: set[_Call] = set()

    # What joblib asks -------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many workers there will be.

        Raises:
            ValueError: ``n_jobs`` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            return max(1, int(joblib.cpu_count()) + 1 + n_jobs)
        return n_jobs

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **told: Any,
    ) -> int:
        """See to a pool of ``n_jobs`` workers; return their number.

        Raises:
            FallbackToBackend: One is enough: joblib then calls everything itself.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = _Teller(parallel)
        keywords = self._pool_keywords(told)
        self._one_by_one = any(keywords.get(name) for name in _ONE_BY_ONE)
        self._recurring = Recurring()
        self._rent(n_jobs, keywords)
        return n_jobs

    def compute_batch_size(self) -> int:
        """Return how many calls are to travel together: what joblib finds best, by their durations."""
        return 1 if self._one_by_one else int(super().compute_batch_size())

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Outcome], Any] | None = None
    ) -> AsyncResult[Any]:
        """Have a batch of calls run; ``callback`` is told how it ended."""
        lease = self._lease
        if lease is None:
            raise RuntimeError("the backend has no pool: Parallel did not configure it")
        call = _Call(self._open, callback)
        self._open.add(call)
        call.result = result = _submit(lease.pool, func, self._recurring, call)
        return result

    def apply_async(
        self, func: Callable[[], Any], callback: Callable[[Outcome], Any] | None = None
    ) -> AsyncResult[Any]:
        """Do as ``submit``, by the name that joblib had for it before 1.5."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: Outcome) -> Any:
        """Return the values of a batch, or raise what one of its calls raised.

        Raises:
            JoblibWorkerDied: The worker died.
        """
        error = out.error
        if error is None:
            return out.value
        if isinstance(error, WorkerDied):
            raise _died(error) from error.__cause__
        if isinstance(error, TaskExit) and error.__cause__ is not None:
            raise error.__cause__  # SystemExit arrives as itself, as with loky
        raise error

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the calls of a Parallel that has failed or was interrupted. Does not wait.

        What runs is interrupted; the workers stay for the next call.
        """
        for call in self._open.copy():
            # A generator that joblib gives may be open beside another one on the same backend.
            if call.result is not None and getattr(call.parallel, "_aborting", True):
                self._open.discard(call)
                call.result.cancel()

    def terminate(self) -> None:
        """End a call of Parallel: what it had in shared memory goes. The workers stay."""
        self._recurring = None
        self.reset_batch_stats()

    def __reduce__(self) -> Any:
        # To a worker, as a part of something: without what belongs to this process.
        return _rebuilt, (self.nesting_level, self.inner_max_num_threads, self._keywords)

    # The pool ---------------------------------------------------------------------------------------

    def _pool_keywords(self, told: dict[str, Any]) -> dict[str, Any]:
        """Put together what the pool is to be told, from the context and from Parallel."""
        keywords = {name: value for name, value in told.items() if name in _POOL_KEYWORDS}
        keywords.update(self._keywords)
        if self.inner_max_num_threads is not None:
            keywords["native_threads"] = self.inner_max_num_threads
        return keywords

    def _rent(self, n_jobs: int, keywords: dict[str, Any]) -> None:
        lease = self._lease
        if lease is not None and lease.fits(n_jobs, keywords):
            return
        if lease is not None:
            lease.end()
        self._lease = lease = joblib_pools.rent(n_jobs, keywords, self._closes)
        # When joblib's context has gone, and with it this object, its workers go too.
        weakref.finalize(self, lease.end).atexit = False  # all pools end at exit anyway


def _rebuilt(
    nesting_level: int | None, inner_max_num_threads: int | None, keywords: dict[str, Any]
) -> GlasspoolBackend:
    return GlasspoolBackend(nesting_level, inner_max_num_threads, **keywords)


def _submit(pool: Pool, calls: Any, recurring: Recurring | None, call: _Call) -> AsyncResult[Any]:
    """Have a batch run in a pool, by value as joblib has it with loky: what is defined in ``__main__``, too.

    Raises:
        ValueError: The pool is not running.
    """
    pool._check_running()
    engine = pool._engine
    name = _name_of(calls)
    number, kind = 0, wire.APPLY | wire.BY_VALUE
    body: bytes | payload.Parcel = b""
    failure: Exception | None = None
    shared: Any = None if recurring is None else _Arguments(recurring, calls)
    value: Any = (calls,)
    if engine.callables.carry is None:
        number = engine.callables.called(run, name).number
    else:  # something surrounds each call, and travels with it
        value, kind = (engine.callables.carry(run), value), kind | wire.INLINE
    try:
        body = payload.dump_by_value(value, shared)
    except Exception as error:  # told by the call
        failure = error
    if isinstance(body, payload.Parcel):
        kind |= wire.SEGMENT
    result: AsyncResult[Any] = AsyncResult(
        pool, engine, call.returned, call.raised, number, kind, body, len(body), pool._own_policy
    )
    if not number:
        result._function = name
    if failure is None:
        engine.submit(result)
    else:
        engine.submit_failed(result, failure)
    return result


def _name_of(calls: Any) -> str:
    """Return the name of what a batch calls; scikit-learn's wrapper has that of its function."""
    items = getattr(calls, "items", None)
    return payload.callable_name(items[0][0] if items else calls)


def _died(error: WorkerDied) -> JoblibWorkerDied:
    return JoblibWorkerDied(error.certificate)
