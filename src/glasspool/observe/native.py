"""Native threads, which Python does not know: whose they are, and whether there are too many of them.

From outside: ``libraries`` and ``owners`` ask the operating system, ``oversubscription`` is pure and judges
what was seen. From inside: ``pools_inside`` asks threadpoolctl.

Sources of the variables' names: the manuals of the libraries (OpenBLAS's README, the OpenMP specification,
oneMKL's developer guide, BLIS's Multithreading.md, and so on).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from glasspool.observe import procfs, thread_starts
from glasspool.observe.sight import SeenProcess, SeenThread, Sight
from glasspool.snapshot import PoolInfo, ProcessInfo

INSTALL = "pip install glasspool[attach]"

AT_WORK_SHARE = 0.01
"""A thread that used less of a processor than this was not at work."""

CROWDED = 2.0
"""There are too many threads if so many times more are at work than there are processors."""

_BUSY = 0.7


@dataclass(frozen=True, slots=True)
class Library:
    """A library that has threads of its own. ``variable`` limits their number where it has such a one."""

    name: str
    variable: str | None
    file: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a thread. ``source`` is ``os`` (its first function lies in ``file``) or ``inferred``.

    ``library`` is a name such as ``OpenBLAS``, or the name of the file where that is not a known one.
    """

    library: str
    file: str
    source: str
    note: str


# How the name of a library's file begins, what it is called, and which variable limits its threads.
_KNOWN = (
    (r"lib[a-z_]*openblas", "OpenBLAS", "OPENBLAS_NUM_THREADS"),
    (r"libmkl_(rt|core|intel_thread|gnu_thread|tbb_thread)", "MKL", "MKL_NUM_THREADS"),
    (r"libblis", "BLIS", "BLIS_NUM_THREADS"),
    (r"libgomp", "libgomp (OpenMP)", "OMP_NUM_THREADS"),
    (r"libiomp5", "libiomp5 (OpenMP)", "OMP_NUM_THREADS"),
    (r"lib[a-z]*omp\.|libomp[.-]", "libomp (OpenMP)", "OMP_NUM_THREADS"),
    (r"libtbb(malloc)?[._-]", "TBB", None),
    (r"libarrow", "Arrow", "OMP_NUM_THREADS"),
    (r"(_?polars.*)\.(abi3\.)?so", "Polars", "POLARS_MAX_THREADS"),
    (r"libtorch|libc10", "PyTorch", "OMP_NUM_THREADS"),
    (r"libtensorflow|_pywrap_tensorflow", "TensorFlow", "TF_NUM_INTRAOP_THREADS"),
    (r"(workqueue|omppool|tbbpool)\.cpython", "Numba", "NUMBA_NUM_THREADS"),
    (r"(libopencv_core|cv2\.)", "OpenCV", "OPENCV_FOR_THREADS_NUM"),
    (r"libjemalloc", "jemalloc", None),
    (r"lib(py|torch_)?python3|python3?(\.\d+)?t?$", "CPython", None),
)
_NUMEXPR = ("numexpr", "NUMEXPR_NUM_THREADS")

# Libraries that name their threads for the operating system.
_NAMES = (("jemalloc_bg_thd", "jemalloc"), ("polars-", "Polars"), ("cuda-EvtHandlr", "CUDA"))


def known_library(file: str) -> Library | None:
    """Return the library with threads of its own that a file holds, None if it is not a known one."""
    name = os.path.basename(file)
    if name.startswith("interpreter.") and "/numexpr/" in file:
        return Library(*_NUMEXPR, file)
    for pattern, library, variable in _KNOWN:
        if re.match(pattern, name):
            return Library(library, variable, file)
    return None


def libraries(pid: int) -> tuple[Library, ...]:
    """List the known libraries with threads of their own that a process has loaded.

    The interpreter is not among them. Nothing if the process has ended or may not be read.
    """
    files = {one.file: None for one in thread_starts.mappings(pid) if ".so" in one.file}
    found = (known_library(file) for file in files)
    return tuple(one for one in found if one is not None and one.name != "CPython")


def owners(pid: int, tids: Iterable[int]) -> dict[int, str]:
    """Name the library that each of some native threads belongs to; what cannot be told is left out."""
    return {tid: origin.library for tid, origin in origins(pid, tids).items()}


def origins(pid: int, tids: Iterable[int]) -> dict[int, Origin]:
    """Tell who made each of some threads that Python does not know, and how that was found out.

    Only reads, and stops nothing; some milliseconds for a process with large libraries. Where the memory of
    the process may not be read, a thread's name may tell, or that only one library can have made it.
    """
    wanted = tuple(tids)
    started = thread_starts.start_files(pid, wanted)
    found = {tid: _begun_in(file) for tid, file in started.items()}
    missing = [tid for tid in wanted if tid not in found and tid != pid]
    return found | (_inferred(pid, missing) if missing else {})


def owners_of(sight: Sight) -> dict[int, str]:
    """Name the libraries of the threads of a sight that Python does not know.

    Where Python's threads could not be read, of all threads whose first function is known: those of
    ``CPython`` are Python's then.
    """
    found: dict[int, str] = {}
    for process in sight.processes:
        if process.dump.threads:
            tids = [thread.os.tid for thread in process.threads if _is_native(process, thread)]
            found |= owners(process.pid, tids)
        else:
            tids = [thread.os.tid for thread in process.threads]
            started = thread_starts.start_files(process.pid, tids)
            found |= {tid: _begun_in(file).library for tid, file in started.items()}
    return found


def with_libraries(pool: PoolInfo) -> PoolInfo:
    """Add to each thread that Python does not know the library that it belongs to, where that is known.

    Some milliseconds for each process that has such threads.
    """
    return replace(pool, processes=tuple(map(told_by_library, pool.processes)))


def told_by_library(process: ProcessInfo) -> ProcessInfo:
    """Add to the threads of a process of this machine that Python does not know their libraries."""
    tids = [thread.native_id for thread in process.threads if not thread.python]
    found = owners(process.pid, tids) if tids else {}
    if not found:
        return process
    return replace(
        process,
        threads=tuple(
            thread if thread.python else replace(thread, library=found.get(thread.native_id))
            for thread in process.threads
        ),
    )


def _begun_in(file: str) -> Origin:
    known = known_library(file)
    name = os.path.basename(file) if known is None else known.name
    return Origin(name, file, "os", f"it began in {os.path.basename(file)}")


def _inferred(pid: int, tids: Iterable[int]) -> dict[int, Origin]:
    found = {}
    loaded = libraries(pid)
    names = {library.name for library in loaded}
    for tid in tids:
        thread = procfs.thread(pid, tid)
        if thread is None:
            continue
        named = next((n for prefix, n in _NAMES if thread.name.startswith(prefix)), None)
        if named is not None:
            found[tid] = Origin(named, "", "inferred", "from the thread's name")
        elif len(names) == 1:
            note = "the only library with threads that is loaded"
            found[tid] = Origin(loaded[0].name, loaded[0].file, "inferred", note)
    return found


@dataclass(frozen=True, slots=True)
class Oversubscription:
    """More threads compute than there are processors, because libraries add their own to the workers.

    ``native`` counts the libraries' threads that were at work, ``threads`` all that were at work in the same
    processes. ``library`` and ``variable`` are None where they are not known. ``limit`` is how many threads
    each worker should have.
    """

    threads: int
    native: int
    workers: int
    processors: int
    library: str | None
    variable: str | None
    limit: int

    @property
    def sentence(self) -> str:
        """Say what is wrong."""
        whose = self.library or "native"
        return (
            f"{self.threads} threads compete for {_count(self.processors, 'processor')}: "
            f"{_count(self.workers, 'process')} of the program and {self.native} {whose} threads in them"
        )

    @property
    def remedy(self) -> str:
        """Say which limit to set."""
        if self.variable is None and self.library is not None:
            return f"Give each worker at most {_count(self.limit, 'thread')} of {self.library}."
        variable = self.variable or "OMP_NUM_THREADS, OPENBLAS_NUM_THREADS and MKL_NUM_THREADS"
        return (
            f"Set {variable}={self.limit} in the environment before the program starts, or call "
            f"threadpoolctl.threadpool_limits({self.limit}) in the pool's initializer."
        )


def oversubscription(
    sight: Sight,
    processors: int,
    *,
    owners: Mapping[int, str] | None = None,
    earlier: Sight | None = None,
    workers: int | None = None,
) -> Oversubscription | None:
    """Judge whether native threads are too many for the processors; None if not, or if they are at rest.

    Pure. A thread is at work if it used a part of a processor while the sight was taken, or since the
    ``earlier`` one, which is better.

    Args:
        sight: What was seen.
        processors: How many the processes may use: ``processors_of``.
        owners: The libraries of threads, from ``owners_of``. Without them threads are native only where
            Python's threads are known from stacks.
        earlier: A sight of the same program, some tenths of a second before.
        workers: How many workers share the processors; None counts the processes with native threads.
    """
    libraries_of = owners or {}
    used = _Used(sight, earlier)
    busy = [process for process in sight.processes if used.computes(process, libraries_of)]
    native = [thread for one in busy for thread in used.native(one, libraries_of)]
    at_work = [thread for one in busy for thread in one.threads if used.at_work(thread)]
    if not native or len(at_work) < CROWDED * processors or not used.is_contended(processors):
        return None
    names = [libraries_of[t.os.tid] for t in native if t.os.tid in libraries_of]
    library = max(sorted(set(names)), key=names.count) if names else None
    sharing = workers or _sharing(sight, libraries_of)
    return Oversubscription(
        threads=len(at_work),
        native=len(native),
        workers=len(busy),
        processors=processors,
        library=library,
        variable=variable_of(library),
        limit=max(1, processors // max(1, sharing)),
    )


def variable_of(library: str | None) -> str | None:
    """Return the environment variable that limits the threads of a library, by its name."""
    variables = {name: variable for _, name, variable in _KNOWN} | dict((_NUMEXPR,))
    return None if library is None else variables.get(library)


def processors_of(pid: int) -> int:
    """Return how many processors a process may use, by its affinity and the quota of its cgroup."""
    from glasspool.processors import usable_processors

    return usable_processors(pid)


def limits_set(pid: int) -> dict[str, str]:
    """Return the variables that limit native threads, as a process was started with them.

    What it has set since then is not seen; nothing where its environment may not be read.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().decode(errors="replace").split("\0")
    except OSError:
        return {}
    names = {variable for _, _, variable in _KNOWN if variable is not None} | {_NUMEXPR[1]}
    told = dict(word.partition("=")[::2] for word in words)
    return {name: told[name] for name in sorted(names & told.keys())}


class _Used:
    """How much of a processor each thread of a sight used, since an earlier one if there is one."""

    def __init__(self, sight: Sight, earlier: Sight | None) -> None:
        self._shares: dict[int, float] = {}
        self._sight = sight
        before = (
            {} if earlier is None else {t.os.tid: t for p in earlier.processes for t in p.threads}
        )
        lasted_s = 0.0 if earlier is None else sight.taken_at - earlier.taken_at
        for process in sight.processes:
            for thread in process.threads:
                old = before.get(thread.os.tid)
                if old is not None and old.os.start_ticks == thread.os.start_ticks and lasted_s > 0:
                    share = max(0.0, thread.os.cpu_s - old.os.cpu_s) / lasted_s
                else:
                    share = thread.cpu_share or 0.0
                self._shares[thread.os.tid] = share

    def at_work(self, thread: SeenThread) -> bool:
        return thread.os.state == "R" or self._shares[thread.os.tid] >= AT_WORK_SHARE

    def native(self, process: SeenProcess, owners: Mapping[int, str]) -> list[SeenThread]:
        """List the native threads of a process that are at work."""
        return [
            thread
            for thread in process.threads
            if self.at_work(thread) and _is_librarys(process, thread, owners)
        ]

    def computes(self, process: SeenProcess, owners: Mapping[int, str]) -> bool:
        """Tell whether native threads of a process work, and one of its own that has them work."""
        native = self.native(process, owners)
        # After a call OpenBLAS's threads look out for the next one for a while, awake. That harms little.
        return bool(native) and any(
            self.at_work(thread) and thread not in native for thread in process.threads
        )

    def is_contended(self, processors: int) -> bool:
        """Tell whether the processors have so much to do that a thread more is in the way."""
        threads = [thread for process in self._sight.processes for thread in process.threads]
        if sum(self._shares[thread.os.tid] for thread in threads) >= _BUSY * processors:
            return True
        # Other programs may take the processors: those that want one count as well.
        return sum(thread.os.state == "R" for thread in threads) > processors


def _is_native(process: SeenProcess, thread: SeenThread) -> bool:
    """Tell whether Python does not know a thread, as far as Python's threads could be read."""
    return bool(process.dump.threads) and thread.python is None and thread.os.tid != process.os.pid


def _is_librarys(process: SeenProcess, thread: SeenThread, owners: Mapping[int, str]) -> bool:
    library = owners.get(thread.os.tid)
    return library != "CPython" if library is not None else _is_native(process, thread)


def _sharing(sight: Sight, owners: Mapping[int, str]) -> int:
    having = [
        process
        for process in sight.processes
        if any(_is_librarys(process, thread, owners) for thread in process.threads)
    ]
    # The program itself hands work out, and has only loaded the library for its workers.
    workers = [process for process in having if process.pid != sight.pid]
    return len(workers or having)


def _count(number: int, word: str) -> str:
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number} {word}{ending}"


@dataclass(frozen=True, slots=True)
class NativePool:
    """The threads of one library in this process, as it says itself.

    ``api`` is ``blas`` or ``openmp``, ``threads`` how many it would use now, ``prefix`` how its file's name
    begins, ``architecture`` for which processor it computes where it tells.
    """

    library: str
    api: str
    threads: int
    file: str
    version: str | None = None
    prefix: str | None = None
    architecture: str | None = None
    threading_layer: str | None = None
    variable: str | None = None


def pools_inside() -> tuple[NativePool, ...]:
    """List the thread pools of BLAS and OpenMP libraries that are loaded into this process.

    Raises:
        ImportError: threadpoolctl is not installed; the message has the line that installs it.
    """
    try:
        import threadpoolctl
    except ImportError:
        raise ImportError(
            f"threadpoolctl tells of native thread pools, and is not installed: {INSTALL}"
        ) from None
    return tuple(_told(one) for one in threadpoolctl.threadpool_info())


def _told(one: Mapping[str, object]) -> NativePool:
    file = str(one.get("filepath") or "")
    known = known_library(file)
    threads = one.get("num_threads")

    def word(key: str) -> str | None:
        return None if one.get(key) is None else str(one[key])

    return NativePool(
        library=known.name if known is not None else str(one.get("internal_api") or "?"),
        api=str(one.get("user_api") or "?"),
        threads=threads if isinstance(threads, int) else 0,
        file=file,
        version=word("version"),
        prefix=word("prefix"),
        architecture=word("architecture"),
        threading_layer=word("threading_layer"),
        variable=known.variable if known is not None else None,
    )
