"""Native threads of this process: how many BLAS and OpenMP may use, said by environment and by the libraries.

A library reads the environment as it is loaded. One that was loaded before the worker began (in the
program, under fork; or in the fork server) is limited through threadpoolctl, to what the environment
says. Under fork the template does that once, for all workers: they inherit it, and OpenBLAS, which starts
its threads when its limit is set, has none of them in a fork. A process without any such library pays one
look at the names of its modules.

Sources: the manuals of the libraries (OpenBLAS's README, the OpenMP specification, oneMKL's developer guide,
BLIS's Multithreading.md); OpenBLAS's ``goto_set_num_threads`` and ``openblas_fork_handler``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

GENERAL = "OMP_NUM_THREADS"

FOLLOWERS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Where one of these is not set, its library obeys the general one."""

NUMBA = "NUMBA_NUM_THREADS"

VARIABLES = (GENERAL, *FOLLOWERS, "VECLIB_MAXIMUM_THREADS", NUMBA)

LEAVE, LOWER, SET = 0, 1, 2
"""Rules for libraries that are loaded already: leave them; lower their number; set it."""

_LOADERS = frozenset(
    ("numpy", "scipy", "sklearn", "torch", "numexpr", "mkl", "faiss", "cv2", "lightgbm", "xgboost")
)
"""Modules that bring such a library with them."""

_GNU_OPENMP = "libgomp"

_SET_BY_IMPORT = "KMP_DUPLICATE_LIB_OK"
"""To import threadpoolctl sets this variable, which is then taken away again."""

_VARIABLE_OF = {
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
    "flexiblas": GENERAL,
    "openmp": GENERAL,
}

given: int | None = None
"""In a worker whose pool has limited it: how many native threads it may have."""

told: dict[str, int] | None = None
"""How many threads each library may use that was loaded before this worker began, by its word then.

``NOT_LIMITED`` in place of the names says that threadpoolctl is missing, or failed. None: none is loaded.
"""

NOT_LIMITED = "not limited"

_is_alone = False  # GNU's OpenMP is to use one thread in forks of this process
_loaded: list[Any] | None = None  # threadpoolctl's handles of them; None: nobody has looked
_modules = 0  # how many modules there were when somebody looked


class Loaded(NamedTuple):
    """The libraries of a worker as a view saw them, and the size of its memory then."""

    pages: int
    files: dict[str, str]  # name in the roster, by file


def variables_here() -> tuple[str, ...]:
    """Return the variables that limit native threads and may be set for workers of this process."""
    # Numba looks at its variable again and again, and refuses a new value once its threads run.
    return tuple(name for name in VARIABLES if name != NUMBA or "numba" not in sys.modules)


def variables_set(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that somebody has set, without those that a pool has set for this worker."""
    if given is not None:
        return {}
    return {name: environment[name] for name in VARIABLES if name in environment}


def look() -> None:
    """Look for libraries that this process has loaded, for its forks; they stay as they are (the parent).

    Costs some milliseconds if any are, but not again until there are more modules.
    """
    global _loaded, _modules
    if has_loaded() and _modules != len(sys.modules):
        _loaded = None
        _libraries()
        _modules = len(sys.modules)


def gnu_openmp() -> tuple[str, ...]:
    """Return the files of GNU's OpenMP among the libraries that ``look`` has found.

    In a fork its first parallel region waits for ever for the threads that it had in the parent, if it had
    any, and is to use more than one.
    """
    return tuple(
        str(library.filepath)
        for library in _loaded or ()
        if getattr(library, "prefix", None) == _GNU_OPENMP
    )


def prepare(rule: int, variables: tuple[tuple[str, str], ...], is_alone: bool = False) -> None:
    """Limit the libraries that ``look`` has found (the template, before it forks workers).

    ``is_alone`` says that GNU's OpenMP may use one thread only, whatever the variables say.
    """
    global told, _is_alone
    _is_alone = is_alone
    told = None  # what a worker inherited in whose task the pool is made
    if rule and has_loaded():
        _limit(rule, os.environ | dict(variables))


def put_on(rule: int, is_forked: bool) -> None:
    """Limit the libraries that were loaded before this worker began, to what its environment says.

    Args:
        rule: How.
        is_forked: Whether this process is a fork, and so may have loaded some.
    """
    global given
    if not rule:
        return
    given = _number(os.environ.get(GENERAL))
    if is_forked and has_loaded() and _limit(rule, os.environ) and _count_threads() > 1:
        _end_idle_threads()


def limit_thread() -> None:
    """Limit OpenMP for a further thread that runs tasks, as it begins: it counts for each thread apart.

    What is loaded after the worker began needs no such call: it has read the environment.
    """
    for library in _loaded or ():
        if library.user_api == "openmp" and told and library.internal_api in told:
            library.set_num_threads(told[library.internal_api])


def has_loaded() -> bool:
    """Tell whether a library with threads of its own is likely to be loaded; costs a microsecond."""
    return not _LOADERS.isdisjoint(sys.modules)


def _limit(rule: int, environment: Mapping[str, str]) -> bool:
    """Limit what is loaded; tell whether OpenBLAS was told a number, and has started threads perhaps."""
    global told
    outcome: dict[str, int] = {}
    started = False
    for library in _libraries():
        name = str(library.internal_api)
        try:
            to = wanted(name, environment)
            if _is_alone and to and getattr(library, "prefix", None) == _GNU_OPENMP:
                to = 1
            has, is_changed = _limited(library, to, rule)
        except (
            Exception
        ):  # a library of another make than threadpoolctl takes it for: it stays as it is
            continue
        started |= is_changed and name == "openblas"
        if has:
            outcome[name] = max(has, outcome.get(name, 0))
    told = outcome or {NOT_LIMITED: 0}
    return started


def _limited(library: Any, to: int | None, rule: int) -> tuple[int | None, bool]:
    """Limit a library; return how many threads it may use now, and whether that has changed."""
    has = library.num_threads
    if not (to and has) or has == to or (has < to and rule != SET):
        return has, False
    library.set_num_threads(to)
    return library.num_threads, True


def _libraries() -> list[Any]:
    """Return threadpoolctl's handles of the libraries that are loaded, looked for once."""
    global _loaded
    if _loaded is None:
        had = _SET_BY_IMPORT in os.environ
        try:
            import threadpoolctl

            _loaded = threadpoolctl.ThreadpoolController().lib_controllers
        except Exception:  # it is not installed, or there is a library that it cannot cope with
            _loaded = []
        if not had:
            os.environ.pop(_SET_BY_IMPORT, None)
    return _loaded


def wanted(library: str, environment: Mapping[str, str]) -> int | None:
    """Return how many threads the environment gives a library."""
    own = _number(environment.get(_VARIABLE_OF.get(library, GENERAL)))
    return own if own is not None else _number(environment.get(GENERAL))


def _number(text: str | None) -> int | None:
    # OpenMP takes a list, with a number for each level of nesting.
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def _count_threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def _end_idle_threads() -> None:
    """End the threads that OpenBLAS has started because its limit was set.

    It ends them before each fork, and starts them anew when it needs them: with one allowed, never.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)  # woken by its end, which is near
