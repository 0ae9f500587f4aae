"""The scoreboard: what each worker does, in shared memory that outlives it.

One file per pool, mode 0600, in a folder of mode 0700 (``folder()``). The parent makes it, each
worker writes its own *record*, and any process of the same user may read it at any time, also after
the death of the worker or of the whole pool. Nothing in it is ever unpickled. Every field is a
64-bit little-endian word at an aligned offset, so one store changes it at once.

Layout (offsets in bytes; ``docs/internals/scoreboard.md`` has the reasons)::

    0      header, 4096 bytes: HEADER, then name, boot id, made_at, command line as text
    4096   calls: CALLS entries of 64 bytes: the name of callable N stands in entry N
    20480  records, each RECORD_BYTES:
             0     64 words, named by the constants W_*
             512   threads: THREADS entries of 64 bytes: native id, ident, task, name
             2560  ring: RING entries of 64 bytes: what task SEQ of this worker was, and how it went
    then   lanes of workers that have several: for each record, LANES of it one after the other, LANE_BYTES
           each: 56 words, named by the same W_*, then the ring entry of the task that runs there, with
           ``seq + 1`` 0 while none does

A ring entry is ``task id, call | lane << 32, begun_ns, ended_ns, seq + 1, bytes | status << 56, called_ns,
boxed_ns``. The first five words are written in this order when the task begins, the others and then
``ended_ns`` when it has been boxed. The last two are written only where they are measured: what an earlier
task left there is older than ``begun_ns``, and so is known for what it is. The entry of task SEQ is at
``SEQ % RING``: its word ``seq + 1`` tells whether the task has begun, and as it is written last, what stands
before it is whole. A reader of an old entry looks afterwards whether the worker has come round to the place
just before it.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from glasspool.engines.local import kernel

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"GLSPOOL\x03"
HEADER = struct.Struct("<8s15Q")
HEADER_BYTES = 4096
TEXT_AT = 512
CALLS = 256
CALL_BYTES = 64
RECORDS_AT = HEADER_BYTES + CALLS * CALL_BYTES
WORDS = 64
THREADS = 32
THREAD_BYTES = 64
THREADS_AT = WORDS * 8
RING = 1024
RING_AT = THREADS_AT + THREADS * THREAD_BYTES
ENTRY = struct.Struct("<8Q")
BEGIN = struct.Struct("<5Q")
# Offsets within an entry, in words.
E_ENDED, E_SEQ, E_RESULT, E_CALLED, E_BOXED = 3, 4, 5, 6, 7
ENTRY_WORDS = ENTRY.size // 8
REBUILDING = 1 << 63
"""In the top bit of ``called_ns``, which is ``begun_ns`` then: the arguments are being rebuilt."""
THREAD = struct.Struct("<3Q40s")
RECORD_BYTES = RING_AT + RING * ENTRY.size
LANE_WORDS = 64
LANE_BYTES = LANE_WORDS * 8
LANE_ENTRY = LANE_WORDS - ENTRY_WORDS
"""Where the entry of the running task is among the words of a lane."""

# The words of a record. The worker writes them, but for W_SKIP_UNTIL and W_INTERRUPT (1 + the number of
# the task that is to be interrupted), which are the parent's.
(
    W_STATE,
    W_PID,
    W_SLOT,
    W_GENERATION,
    W_IDENT,
    W_NATIVE,
    W_STARTED_NS,
    W_INIT_BEGUN_NS,
    W_INIT_ENDED_NS,
    W_DONE,
    W_BUSY_NS,
    W_ITEM,
    W_SKIP_UNTIL,
    W_STARTTIME,
    W_INTERRUPT,
    # How the worker spends its time (``account``): ACCOUNT, then single instants.
    W_UNTIL_NS,
    W_WAIT_NS,
    W_RECEIVE_NS,
    W_RUN_NS,
    W_SEND_NS,
    W_READY_NS,
    W_RETURNED_NS,
    W_EXIT_NS,
    # What the running task said of itself (``progress``).
    W_PROGRESS_SEQ,
    W_PROGRESS_ITEM,
    W_PROGRESS_DONE,
    W_PROGRESS_TOTAL,
) = range(27)

ACCOUNT = struct.Struct("<5Q")
"""W_UNTIL_NS to W_SEND_NS: how long what took, up to an instant. In the instant's top bit: the worker waits
since then."""
WAITS = 1 << 63

PROGRESS = struct.Struct("<2d")
"""W_PROGRESS_DONE and W_PROGRESS_TOTAL, the latter not a number where it was not said."""

FREE, STARTING, INITIALIZING, READY, LEAVING = range(5)
STATE_WORDS = ("free", "starting", "initializing", "ready", "leaving")

# W_ITEM holds the index of the running item within its chunk, and in the top byte how finely it is
# written: per item, or only at the start of a block of items that run in a tight loop.
GRAIN_ITEM = 1 << 56
ITEM_MASK = (1 << 56) - 1

DONE, FAILED, SKIPPED = 1, 2, 3


ELSEWHERE = ("ray", "dask")
"""Stands in place of a start method: the pool's workers are on a cluster, and have no records here."""


class BadBoard(Exception):
    """The file is not a scoreboard that can be read: ``reason`` says why, in a few words."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self._path = os.fspath(path)
        self.reason = reason

    @property
    def path(self) -> Path:
        """The file."""
        from pathlib import Path

        return Path(self._path)


def folder(create: bool = False) -> Path:
    """Return the folder of this user's scoreboards.

    ``GLASSPOOL_DIR`` if it is set, else ``glasspool`` in the runtime folder of the session
    (``XDG_RUNTIME_DIR``), else ``glasspool-UID`` in ``/dev/shm`` or the temporary folder.

    Raises:
        PermissionError: The folder belongs to somebody else.
        OSError: It cannot be made.
    """
    from pathlib import Path

    path = _folder_name()
    if create:
        _make_folder(path)
    return Path(path)


def folders() -> tuple[str, ...]:
    """Return where scoreboards of this user may be: what is chosen, then what comes in its place."""
    chosen = os.environ.get("GLASSPOOL_DIR")
    found = [chosen] if chosen else []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        found.append(os.path.join(runtime, "glasspool"))
    found.append(f"/dev/shm/glasspool-{os.geteuid()}")
    temporary = _temporary_folder()
    if temporary is not None:
        found.append(os.path.join(temporary, f"glasspool-{os.geteuid()}"))
    return tuple(dict.fromkeys(found))


def _possible_folders() -> tuple[str, ...]:
    """Return where scoreboards of this user can be, if nothing chose a place for them.

    Names only: to find out which temporary folder can be written to, ``tempfile`` would load a
    dozen of modules.
    """
    runtime, mine = os.environ.get("XDG_RUNTIME_DIR"), f"glasspool-{os.geteuid()}"
    told = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    bases = ("/dev/shm", *(base for base in told if base), "/tmp", "/var/tmp", "/usr/tmp")
    found = [os.path.join(os.path.abspath(base), mine) for base in bases]
    if runtime:
        found.insert(0, os.path.join(runtime, "glasspool"))
    return tuple(dict.fromkeys(found))


def _temporary_folder() -> str | None:
    import tempfile

    try:
        found = tempfile.gettempdir()
    except OSError:  # nothing is writable
        return None
    # Its last resort is the current folder, which is no place to litter.
    return None if found == os.getcwd() else found


def _make_folder(path: str) -> None:
    os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the folder belongs to another user", path)
    if status.st_mode & 0o077:
        os.chmod(path, 0o700)


def _folder_name() -> str:
    # Paths are plain strings here: a pool that starts has no time to load pathlib.
    chosen = os.environ.get("GLASSPOOL_DIR")
    if chosen:
        return chosen
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return os.path.join(runtime, "glasspool")
    base = "/dev/shm"
    if not os.access(base, os.W_OK | os.X_OK):
        base = _temporary_folder() or base
    return os.path.join(base, f"glasspool-{os.geteuid()}")


def process_start_ticks(pid: int) -> int:
    """Return when the process started, in clock ticks since the boot; 0 if that is unknown.

    With the boot id it tells a process from a later one that got the same number. Source:
    ``proc_pid_stat(5)``, field 22.
    """
    try:
        return int(kernel.read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def boot_id() -> str:
    """Return the kernel's random id of this boot, or an empty string."""
    try:
        return kernel.read_file("/proc/sys/kernel/random/boot_id").decode().strip()
    except OSError:
        return ""


class Header(NamedTuple):
    """What the first page says of the pool.

    ``size`` is the number of slots. The first ``records`` records are in use, the file has room for
    ``capacity``; beyond the former there is no memory, so they are not to be touched. ``lanes`` is how
    many lanes each worker has; 0 where the tasks run in its main thread.
    """

    pid: int
    start_ticks: int
    size: int
    records: int
    made_ns: int
    name: str
    boot_id: str
    made_at: str
    command: str
    start_method: str
    initializer: str
    capacity: int
    lanes: int = 0


class ThreadEntry(NamedTuple):
    """A thread that a task started, as its worker noted it."""

    native_id: int
    ident: int
    task: int
    name: str


class Entry(NamedTuple):
    """One task in the ring of a worker. ``ended_ns`` is 0 while it runs.

    ``called_ns`` and ``boxed_ns`` are 0 where they were not measured, or are still to come;
    ``is_rebuilding`` while it runs: its arguments are being rebuilt.
    """

    seq: int
    task: int
    call: int
    lane: int
    begun_ns: int
    ended_ns: int
    bytes: int
    status: int
    called_ns: int = 0
    boxed_ns: int = 0
    is_rebuilding: bool = False


class Board:
    """A mapped scoreboard, to write (the pool and its workers) or to read (everybody else)."""

    def __init__(self, path: str, memory: mmap.mmap, header: Header, fd: int = -1) -> None:
        self.fd: int = fd  # the maker's, to reserve memory by; -1 everywhere else
        self.file = path
        self.header: Header = header
        self.lanes: int = header.lanes
        self.trouble: str | None = None
        self.memory = memory
        self.view: memoryview[int] = memoryview(memory)
        usable = len(memory) // 8 * 8
        self.words: memoryview[int] = self.view[:usable].cast("Q")

    @classmethod
    def create(
        cls,
        name: str,
        size: int,
        records: int,
        *,
        capacity: int = 0,
        made_at: str = "",
        command: str = "",
        start_method: str = "",
        initializer: str = "",
        lanes: int = 0,
    ) -> Board:
        """Make the file of a new pool and map it.

        There is memory for ``records`` records; ``reserve`` adds more, up to ``capacity``. Each has
        ``lanes`` lanes.
        If that is impossible in the folder of this user, it is made in another one (``folders``), or
        as a last resort without a name; ``trouble`` says so.

        Raises:
            OSError: There are not enough descriptors, or there is no room for it anywhere.
        """
        capacity = max(records, capacity)
        may_be_nameless = start_method == "fork"  # any other worker has to find it
        path, memory, fd, trouble = _make_somewhere(
            f"{name}.{os.getpid()}.board",
            RECORDS_AT + capacity * (RECORD_BYTES + lanes * LANE_BYTES),
            RECORDS_AT + records * RECORD_BYTES,
            may_be_nameless,
        )
        header = Header(
            pid=os.getpid(),
            start_ticks=process_start_ticks(os.getpid()),
            size=size,
            records=records,
            made_ns=time.time_ns(),
            name=name,
            boot_id=boot_id(),
            made_at=made_at,
            command=command,
            start_method=start_method,
            initializer=initializer,
            capacity=capacity,
            lanes=lanes,
        )
        _write_header(memory, header)
        board = cls(path, memory, header, fd)
        board.trouble = trouble
        try:
            board._reserve_lanes(0, records)
        except BaseException:
            board.unlink()
            board.close()
            raise
        return board

    @classmethod
    def attach(cls, path: str | os.PathLike[str]) -> Board:
        """Map the file of a pool to write in it (a worker that did not inherit the mapping).

        Raises:
            BadBoard: As in ``open``.
        """
        return cls._map(os.fspath(path), os.O_RDWR, mmap.ACCESS_WRITE)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Board:
        """Map the file of a pool to read it.

        Raises:
            BadBoard: It is missing, not permitted, damaged, foreign or of another version.
        """
        return cls._map(os.fspath(path), os.O_RDONLY, mmap.ACCESS_READ)

    @classmethod
    def _map(cls, path: str, flags: int, access: int) -> Board:
        try:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise BadBoard(path, (error.strerror or "cannot be opened").lower()) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise BadBoard(path, "not a regular file")
            if status.st_uid != os.geteuid():
                raise BadBoard(path, "belongs to another user")
            if status.st_size < RECORDS_AT:
                raise BadBoard(path, "too short to be a scoreboard")
            memory = mmap.mmap(fd, status.st_size, access=access)
        except (OSError, ValueError) as error:
            raise BadBoard(path, str(error)) from None
        finally:
            os.close(fd)
        try:
            return cls(path, memory, _read_header(path, memory))
        except BadBoard:
            memory.close()
            raise

    @property
    def path(self) -> Path:
        """The file."""
        from pathlib import Path

        return Path(self.file)

    @property
    def socket_file(self) -> str:
        """The Unix socket beside the file, on which the pool answers questions; none without one."""
        if not self.file:
            return ""
        return self.file.removesuffix(".board") + ".sock"

    @property
    def socket_path(self) -> Path:
        """The same as a path."""
        from pathlib import Path

        return Path(self.socket_file)

    def close(self) -> None:
        """Unmap the file. Safe to call twice; views that others took stay valid until they end."""
        self.close_fd()
        self.words.release()
        self.view.release()
        with contextlib.suppress(BufferError):
            self.memory.close()

    def close_fd(self) -> None:
        """Close the maker's descriptor; the mapping stays. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def unlink(self) -> None:
        """Remove the file and the socket beside it."""
        for path in filter(None, (self.file, self.socket_file)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def is_stale(self) -> bool:
        """Tell whether the process that made the file is gone."""
        header = self.header
        if header.boot_id and boot_id() and header.boot_id != boot_id():
            return True
        ticks = process_start_ticks(header.pid)
        if ticks and header.start_ticks:
            return ticks != header.start_ticks
        return not _alive(header.pid)

    # Growing --------------------------------------------------------------------------------------

    def reserve(self, record: int) -> None:
        """Make sure that there is memory for a record. Only the maker calls it, in order.

        Raises:
            OSError: There is none.
        """
        if record >= self.header.records:
            if self.file:  # else it is memory without a file, of which a process has enough or ends
                reserve_memory(self.fd, RECORDS_AT + record * RECORD_BYTES, RECORD_BYTES)
                self._reserve_lanes(record, 1)
            self.header = self.header._replace(records=record + 1)
            self.words[_RECORDS_WORD] = record + 1

    def _reserve_lanes(self, record: int, count: int) -> None:
        if self.lanes and self.file:
            size = count * self.lanes * LANE_BYTES
            reserve_memory(self.fd, self.lane(record, 0) * 8, size)

    def set_size(self, size: int) -> None:
        """Write down how many slots the pool has from now on. Only the maker calls it."""
        self.header = self.header._replace(size=size)
        self.words[_SIZE_WORD] = size

    def see_growth(self) -> None:
        """Learn what the maker has written down since about slots and records (a reader calls it)."""
        size, records = self.words[_SIZE_WORD], self.words[_RECORDS_WORD]
        if 0 < size <= self.header.capacity and 0 < records <= self.header.capacity:
            self.header = self.header._replace(size=size, records=records)

    @property
    def bar_is_drawn(self) -> bool:
        """Whether the pool's program draws progress on its terminal: workers that print mind it."""
        return bool(self.words[_BAR_WORD])

    @bar_is_drawn.setter
    def bar_is_drawn(self, is_drawn: bool) -> None:
        self.words[_BAR_WORD] = is_drawn

    # Records ------------------------------------------------------------------------------------

    def base(self, record: int) -> int:
        """Return the offset of a record, in words."""
        return (RECORDS_AT + record * RECORD_BYTES) // 8

    def ring(self, record: int) -> int:
        """Return the offset of a record's ring, in bytes."""
        return RECORDS_AT + record * RECORD_BYTES + RING_AT

    def lane(self, record: int, lane: int) -> int:
        """Return the offset of a lane, in words."""
        lanes_at = RECORDS_AT + self.header.capacity * RECORD_BYTES
        return (lanes_at + (record * self.lanes + lane) * LANE_BYTES) // 8

    def word(self, record: int, which: int) -> int:
        """Read one word of a record."""
        return self.words[self.base(record) + which]

    def set_word(self, record: int, which: int, value: int) -> None:
        """Write one word of a record."""
        self.words[self.base(record) + which] = value

    def clear(self, record: int) -> None:
        """Wipe a record for its next worker. Only the parent calls it, when no worker has it."""
        start = RECORDS_AT + record * RECORD_BYTES
        self.view[start : start + RECORD_BYTES] = bytes(RECORD_BYTES)
        if self.lanes:
            start, size = self.lane(record, 0) * 8, self.lanes * LANE_BYTES
            self.view[start : start + size] = bytes(size)

    def has_begun(self, record: int, seq: int) -> bool:
        """Tell whether the worker has begun (or skipped) its task number ``seq``."""
        found = self._seq_word(record, seq)
        # In the place of one that began long ago, and may still run in its lane, is a later one.
        return found == seq + 1 or (found > seq and self.lanes > 0)

    def _seq_word(self, record: int, seq: int) -> int:
        return self.words[(self.ring(record) + seq % RING * ENTRY.size) // 8 + E_SEQ]

    def entry(self, record: int, seq: int) -> Entry | None:
        """Read the ring entry of task ``seq``; None if it has not begun or was overwritten.

        One that was overwritten is read from its lane, if it still runs there.
        """
        at = self.ring(record) + seq % RING * ENTRY.size
        words = ENTRY.unpack_from(self.view, at)
        # The next begin overwrites an entry of which the one before it has been, and may be doing so.
        if words[E_SEQ] != seq + 1 or self._seq_word(record, seq - 1) == seq + RING:
            if not self.lanes:
                return None
            return next((entry for entry in self.running(record) if entry.seq == seq), None)
        return _entry(words)

    def _in_lane(self, record: int, lane: int) -> Entry | None:
        """Return the task that runs in a lane, or None."""
        at = self.lane(record, lane) + LANE_ENTRY
        for _ in range(3):  # as long as it is written while we read
            marked = self.words[at + E_SEQ]
            words = ENTRY.unpack_from(self.view, at * 8)
            if marked == words[E_SEQ] == self.words[at + E_SEQ]:
                return _entry(words) if marked else None
        return None

    def running(self, record: int) -> list[Entry]:
        """Return the tasks that the worker runs now, of each lane the one that it has."""
        if not self.lanes:
            entry = self.current(record)
            return [] if entry is None else [entry]
        lanes = (self._in_lane(record, lane) for lane in range(self.lanes))
        return [entry for entry in lanes if entry is not None]

    def place(self, record: int, seq: int) -> int:
        """Return the offset, in words, of what is noted of the running task ``seq`` besides its entry.

        That is W_ITEM and the progress: of its lane, if the worker has some, else of the record.
        """
        for lane in range(self.lanes):
            at = self.lane(record, lane)
            if self.words[at + LANE_ENTRY + E_SEQ] == seq + 1:
                return at
        return self.base(record)

    def entries(self, record: int, first: int, last: int) -> list[Entry]:
        """Read the ring entries of tasks from ``first`` to ``last``, without those that were overwritten.

        As ``entry`` for each, in a fraction of the time: copied at once, then looked how far the worker has
        come meanwhile. All of them have ended: a later task has begun.
        """
        ring, size = self.ring(record), ENTRY.size
        at, count = first % RING, min(last - first + 1, RING)
        copied = bytes(self.view[ring + at * size : ring + min(at + count, RING) * size])
        if at + count > RING:
            copied += bytes(self.view[ring : ring + (at + count - RING) * size])
        newest = self.newest(record, last)
        if newest is None:
            return []  # the record is being wiped
        # The entry of the task after ``oldest`` is the one that the next begin overwrites.
        oldest = newest - RING + 1
        return [
            Entry(
                marked - 1,
                task,
                call & 0xFFFFFFFF,
                call >> 32,
                begun,
                ended,
                result & ITEM_MASK,
                result >> 56,
                called if begun <= called < REBUILDING else 0,
                boxed if 0 < ended <= boxed else 0,
            )
            for seq, (task, call, begun, ended, marked, result, called, boxed) in enumerate(
                ENTRY.iter_unpack(copied), first
            )
            if marked == seq + 1 and seq > oldest
        ]

    def count_skipped(self, record: int, first: int, last: int) -> int:
        """Count which tasks from ``first`` to ``last``, all of them over, were taken back from the worker."""
        at = self.ring(record) // 8 + E_RESULT
        results = self.words[at : at + RING * ENTRY_WORDS : ENTRY_WORDS].tolist()
        return sum(results[seq % RING] >> 56 == SKIPPED for seq in range(first, last + 1))

    def last_seq(self, record: int) -> int | None:
        """Return the number of the newest task that the worker has begun, or None."""
        first = self.ring(record) // 8 + E_SEQ
        newest = max(self.words[first : first + RING * ENTRY_WORDS : ENTRY_WORDS].tolist())
        return newest - 1 if newest else None

    def newest(self, record: int, seq: int) -> int | None:
        """Return the number of the newest task begun, None if ``seq`` has not begun.

        As ``last_seq``, for who knows a task that is not long past: it reads a dozen places, not all.
        A worker begins its tasks in order, so what has begun ends at one place, wherever that is by now.
        """
        found = self._seq_word(record, seq)
        if found <= seq:
            return None
        first, most = found - 1, RING - 1
        least = 0
        while least < most:
            middle = (least + most + 1) // 2
            if self.has_begun(record, first + middle):
                least = middle
            else:
                most = middle - 1
        return first + least

    def current(self, record: int) -> Entry | None:
        """Return the task that the worker runs now, or None."""
        seq = self.last_seq(record)
        entry = None if seq is None else self.entry(record, seq)
        return entry if entry is not None and not entry.ended_ns else None

    def finished(self, record: int) -> Iterator[Entry]:
        """Yield what the ring still holds of finished tasks, oldest first."""
        last = self.last_seq(record)
        if last is None:
            return
        for seq in range(max(0, last - RING + 1), last + 1):
            entry = self.entry(record, seq)
            if entry is not None and entry.ended_ns and entry.status != SKIPPED:
                yield entry

    def progress(self, record: int, seq: int) -> tuple[float, float | None] | None:
        """Return what task ``seq`` last said of how far it is, or the item of it that runs now."""
        at = self.place(record, seq)
        for _ in range(3):  # as long as it is written while we read
            marked, item = self.words[at + W_PROGRESS_SEQ], self.words[at + W_PROGRESS_ITEM]
            done, total = PROGRESS.unpack_from(self.view, (at + W_PROGRESS_DONE) * 8)
            if marked and marked == self.words[at + W_PROGRESS_SEQ]:
                if marked != seq + 1 or item != self.words[at + W_ITEM]:
                    return None  # another task's, or another item's
                return _as_progress(done, total)
        return None

    # Threads that tasks started -------------------------------------------------------------------

    def threads(self, record: int) -> Iterator[ThreadEntry]:
        """Yield the threads that the worker noted; some may have ended."""
        start = RECORDS_AT + record * RECORD_BYTES + THREADS_AT
        for index in range(THREADS):
            native, ident, task, name = THREAD.unpack_from(self.view, start + index * THREAD_BYTES)
            if native:
                yield ThreadEntry(native, ident, task, _text(name))

    def note_thread(
        self, record: int, index: int, native_id: int, ident: int, task: int, name: str
    ) -> None:
        """Note a thread in place ``index``; the worker calls it."""
        start = RECORDS_AT + record * RECORD_BYTES + THREADS_AT + index * THREAD_BYTES
        THREAD.pack_into(self.view, start, 0, ident, task, _cut(name, 40))
        self.words[start // 8] = native_id  # last: a reader takes the entry from now on

    # Names of callables ---------------------------------------------------------------------------

    def name_call(self, number: int, name: str) -> None:
        """Note the name of a callable. Numbers beyond the table have no name for outsiders."""
        if number < CALLS:
            start = HEADER_BYTES + number * CALL_BYTES
            self.view[start : start + CALL_BYTES] = _cut(name, CALL_BYTES).ljust(CALL_BYTES, b"\0")

    def call_name(self, number: int) -> str:
        """Return the name of a callable, ``?`` if the table does not have it."""
        if number >= CALLS:
            return "?"
        start = HEADER_BYTES + number * CALL_BYTES
        return _text(bytes(self.view[start : start + CALL_BYTES])) or "?"


def _entry(words: tuple[int, ...]) -> Entry:
    task, call, begun, ended, marked, size, called, boxed = words
    return Entry(
        seq=marked - 1,
        task=task,
        call=call & 0xFFFFFFFF,
        lane=call >> 32,
        begun_ns=begun,
        ended_ns=ended,
        bytes=size & ITEM_MASK,
        status=size >> 56,
        # Older than the begin: an earlier task's.
        called_ns=called if begun <= called < REBUILDING else 0,
        boxed_ns=boxed if 0 < ended <= boxed else 0,
        is_rebuilding=called == begun | REBUILDING,
    )


def _as_progress(done: float, total: float) -> tuple[float, float | None] | None:
    """Take what stands in a file for what a task said; None if no task can have said it."""
    if not 0 <= done < math.inf:
        return None
    return done, total if 0 <= total < math.inf else None


def _make_somewhere(
    name: str, size: int, reserved: int, may_be_nameless: bool
) -> tuple[str, mmap.mmap, int, str | None]:
    """Make and map a file: path, mapping, descriptor, and what is to be said if it lies elsewhere."""
    refusals: list[str] = []
    last = OSError()
    for home in _homes():
        path = os.path.join(home, name)
        try:
            memory, fd = _make_file(home, path, size, reserved)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # as it would be anywhere
            refusals.append(f"{home}: {error.strerror or error}")
            last = error
            continue
        where = f"the scoreboard is in {home}" if refusals else ""
        return path, memory, fd, f"{where} ({'; '.join(refusals)})" if refusals else None
    if not may_be_nameless:
        why = f"no scoreboard file could be made ({'; '.join(refusals)})"
        raise OSError(last.errno, why) from last
    memory = mmap.mmap(-1, size)
    trouble = (
        f"the pool cannot be seen from outside: no scoreboard file could be made "
        f"({'; '.join(refusals)}); set GLASSPOOL_DIR to a folder with room"
    )
    return "", memory, -1, trouble


def _homes() -> Iterator[str]:
    """Yield where a scoreboard may lie; to look for other places than the first takes time."""
    wanted = _folder_name()
    yield wanted
    yield from (home for home in folders() if home != wanted)


def _make_file(home: str, path: str, size: int, reserved: int) -> tuple[mmap.mmap, int]:
    _make_folder(home)
    sweep(home)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        os.ftruncate(fd, size)
        # Reserved, not only sized: a full tmpfs is an error here, and not a SIGBUS later.
        reserve_memory(fd, 0, reserved)
        return mmap.mmap(fd, size), fd
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise


def sweep(home: str, at_most: int = 64) -> None:
    """Remove the files of pools whose process is gone, which was killed with nobody to clean up."""
    names = [name for name in os.listdir(home) if name.endswith(".board")]
    for name in names[:at_most]:
        try:
            board = Board.open(os.path.join(home, name))
        except BadBoard:
            continue  # not ours to remove
        if board.is_stale():
            board.unlink()
        board.close()


def boards() -> list[Path]:
    """List the scoreboard files of this user, oldest name first.

    Where ``GLASSPOOL_DIR`` chooses a folder, only those in it.
    """
    homes = (_folder_name(),) if os.environ.get("GLASSPOOL_DIR") else _possible_folders()
    found: list[str] = []
    for home in homes:
        with contextlib.suppress(OSError):
            names = os.listdir(home)
            found += [os.path.join(home, name) for name in names if name.endswith(".board")]
    if not found:
        return []  # nothing to load a module for: whoever looks at another library's pool comes here

    from pathlib import Path

    return sorted(map(Path, found))


def reserve_memory(fd: int, start: int, size: int) -> None:
    """Make sure that a part of a file has its memory, where the system can promise that.

    Raises:
        OSError: There is none.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, size)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_SIZE_WORD, _RECORDS_WORD = 3, 4
_BAR_WORD = 32  # behind the header, before the texts; 0 in a file that knows nothing of it
_TEXTS = ("name", "boot_id", "made_at", "command", "start_method", "initializer")
_TEXT_BYTES = 512


def _write_header(memory: mmap.mmap, header: Header) -> None:
    for index, field in enumerate(_TEXTS):
        at = TEXT_AT + index * _TEXT_BYTES
        memory[at : at + _TEXT_BYTES] = _cut(getattr(header, field), _TEXT_BYTES).ljust(
            _TEXT_BYTES, b"\0"
        )
    numbers = [
        header.pid,
        header.start_ticks,
        header.size,
        header.records,
        header.made_ns,
        header.capacity,
        header.lanes,
    ]
    HEADER.pack_into(memory, 0, MAGIC, *numbers, *[0] * (15 - len(numbers)))


def _read_header(path: str, memory: mmap.mmap) -> Header:
    magic, pid, ticks, size, records, made_ns, capacity, lanes, *_ = HEADER.unpack_from(memory, 0)
    if magic[:7] != MAGIC[:7]:
        raise BadBoard(path, "not a scoreboard of glasspool")
    if magic != MAGIC:
        raise BadBoard(path, f"of another version ({magic[7]}, this is {MAGIC[7]})")
    if not 0 < pid < 1 << 31:
        raise BadBoard(path, f"damaged: no process can have the number {pid}")
    texts = {
        field: _text(memory[TEXT_AT + i * _TEXT_BYTES : TEXT_AT + (i + 1) * _TEXT_BYTES])
        for i, field in enumerate(_TEXTS)
    }
    fits = 0 < size <= capacity or texts["start_method"] in ELSEWHERE
    fits = fits and 0 < records <= capacity
    if not fits or len(memory) != RECORDS_AT + capacity * (RECORD_BYTES + lanes * LANE_BYTES):
        raise BadBoard(path, "damaged: its size does not fit its header")
    return Header(pid, ticks, size, records, made_ns, **texts, capacity=capacity, lanes=lanes)


def _cut(text: str, limit: int) -> bytes:
    # Cut between characters, and leave the zero at the end that marks it.
    return text.encode("utf-8", "replace")[: limit - 1].decode("utf-8", "ignore").encode()


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")
