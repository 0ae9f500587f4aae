"""``glasspool tour``: which thread does what in a pool, asked of the stock pool and of ours.

Both parts run the same real job. What is printed is what was found out, nothing is told by heart.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import current_process
from multiprocessing.pool import Pool as StockPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasspool.cli.layout import aligned
from glasspool.cli.parsing import parser
from glasspool.views import table

if TYPE_CHECKING:
    import glasspool

DESCRIPTION = """\
Answer, on a small real job, five questions that users ask of a process pool:

  1. Which thread executes my task?
  2. Which thread ran the initializer?
  3. Which threads did the pool start in my program, and what are they for?
  4. What is each of them doing right now?
  5. Which thread runs my callback, and which one iterates my iterable?

First the standard library's pool answers, as this interpreter shows it, then
glasspool's. Takes a few seconds, writes no file, and needs no network.
"""

WORKERS = 4
FILES = 100
ANSWER_S = 20.0

_initialized_by = "nobody"


@dataclass(frozen=True, slots=True)
class Count:
    """What a task found: the words of one file, and who counted them."""

    words: int
    process: str
    executed_by: str
    initialized_by: str


def note_thread() -> None:
    """Remember which thread runs the initializer (of each worker)."""
    global _initialized_by
    _initialized_by = _me()


def count_words(path: str) -> Count:
    """Count the words of a text file, and tell which thread did."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    words = Counter(re.findall("[a-z]+", text.lower()))
    return Count(words.total(), current_process().name, _me(), _initialized_by)


def main(arguments: Sequence[str]) -> int:
    """Run both parts and print what they show."""
    make_parser().parse_args(list(arguments))
    begun = time.monotonic()
    files = some_files()
    version = ".".join(map(str, sys.version_info[:3]))
    _say(
        f"The job: count the words of {len(files)} files of the standard library, on {WORKERS}",
        "workers. First on multiprocessing.Pool, then on glasspool.Pool.",
        "",
        _title(f"The standard library's pool, as Python {version} shows it"),
    )
    _stock_part(files)
    _say("", _title("The same job on glasspool"))
    _our_part(files)
    _say(
        "",
        f"That took {table.duration(time.monotonic() - begun)}. Now your own program, unchanged:",
        "  glasspool run SCRIPT [ARGS]",
    )
    return 0


def some_files() -> list[str]:
    """Return the largest source files of the standard library, largest first."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = sorted(folder.glob("*.py"), key=lambda path: path.stat().st_size, reverse=True)
    return [str(path) for path in found[:FILES]]


def _stock_part(files: list[str]) -> None:
    with StockPool(WORKERS, note_thread) as pool:
        counts = pool.map(count_words, files, chunksize=1)
        _say("", "1. Which thread executes my task? To be found out only within the task:")
        _say(*_listed((c.process, c.executed_by) for c in counts))
        _say("", "2. Which thread ran the initializer? Only from within, too:")
        _say(*_listed((c.process, c.initialized_by) for c in counts))
        _say("", "3. Which threads did the pool start here? threading.enumerate() has:")
        _say(*(f"     {thread.name}" for thread in threading.enumerate()))
        _say("   What each is for stands in the library's source.")
        _say("", "4. What is each doing right now? All that the pool tells is its repr:")
        with_some_done = pool.imap_unordered(count_words, files)
        next(with_some_done)
        _say(f"     {pool!r}")
        _say("", "5. Which thread runs my callback, and which one iterates my iterable?")
        _say(*_callback_and_iterable(pool, files))
        pool.close()
        pool.join()


def _our_part(files: list[str]) -> None:
    import glasspool

    with glasspool.Pool(WORKERS, note_thread) as pool:
        result = pool.map_async(count_words, files, chunksize=1)
        result.wait(ANSWER_S)
        _say("", "1. Which thread executes my task?  result.info")
        _say(*_executed(result.info))
        _say("", "2. Which thread ran the initializer?  pool.inspect().workers")
        _say(*_initialized(pool))
        _say("", "3. Which threads did the pool start here, for what?  pool.threads()")
        _say(*_our_threads(pool))
        _say("", "4. What is each doing right now?  print(pool.inspect())", "")
        counts = pool.imap_unordered(count_words, files)
        next(counts)
        table.print_snapshot(pool.inspect())
        _say("", "5. Which thread runs my callback, and which one iterates my iterable?")
        _say(*_callback_and_iterable(pool, files))
        pool.close()
        pool.join()


def _executed(info: Any) -> list[str]:
    seen: dict[tuple[str, str], int] = {}
    for task in info.tasks:
        if task.thread is not None:
            main = "its main thread" if task.thread.is_main else "not its main thread"
            key = (
                f"worker {task.slot}, pid {task.pid}",
                f"{task.thread.name}, {main} (native id {task.thread.native_id})",
            )
            seen[key] = seen.get(key, 0) + 1
    rows = [(f"     {who}", f"{n} tasks", thread) for (who, thread), n in sorted(seen.items())]
    return aligned(rows, right=[1])


def _initialized(pool: glasspool.Pool) -> list[str]:
    rows = []
    for worker in pool.inspect().workers:
        initializer = worker.initializer
        if initializer is not None and initializer.thread is not None:
            name = f"{initializer.thread.name} (native id {initializer.thread.native_id})"
            who = f"     worker {worker.slot}, pid {worker.pid}"
            rows.append((who, name, f"in {table.duration(initializer.run_s)}"))
    return aligned(rows)


def _our_threads(pool: glasspool.Pool) -> list[str]:
    here = os.getpid()
    rows = [
        (f"     {thread.name}", thread.state) for thread in pool.threads() if thread.pid == here
    ]
    return aligned(rows)


def _callback_and_iterable(pool: StockPool, files: list[str]) -> list[str]:
    """Ask both with the standard library's means: they answer on either pool."""
    threads: dict[str, str] = {}

    def watched(name: str, paths: Iterable[str]) -> Iterator[str]:
        threads[name] = threading.current_thread().name
        yield from paths

    def callback(count: Count) -> None:
        threads["a callback"] = threading.current_thread().name

    pool.apply_async(count_words, (files[0],), callback=callback).get(ANSWER_S)
    pool.map_async(count_words, watched("map's iterable", files[:4])).get(ANSWER_S)
    for _ in pool.imap(count_words, watched("imap's iterable", files[:4])):
        pass
    return aligned((f"     {name} runs in", thread) for name, thread in threads.items())


def _listed(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return aligned((f"     {process}", thread) for process, thread in sorted(set(pairs)))


def _me() -> str:
    return repr(threading.current_thread())


def _title(text: str) -> str:
    return f"{text}\n{'-' * len(text)}"


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    return parser("tour", DESCRIPTION)
