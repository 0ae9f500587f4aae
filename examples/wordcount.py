"""Count the words in the text files of a folder, in parallel.

Without arguments it reads the sources of the standard library. It knows nothing of glasspool, unless it is
told to count on a cluster::

    python examples/wordcount.py
    glasspool run examples/wordcount.py
    python examples/wordcount.py --engine dask
    python examples/wordcount.py --engine ray --address 192.0.2.1:6379
"""

import argparse
import re
import sysconfig
import time
from collections import Counter
from multiprocessing import Pool
from pathlib import Path
from typing import Any

WORD = re.compile(r"[^\W\d_]{2,}")  # two or more letters of any alphabet
FILES_PER_TASK = 32


def find_files(folder: Path, pattern: str) -> list[Path]:
    """List the matching files below a folder, largest first."""
    files = [path for path in folder.rglob(pattern) if "site-packages" not in path.parts]
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def share_out(files: list[Path]) -> list[list[Path]]:
    """Deal the files out into groups of about the same number of bytes, one for each task."""
    groups = max(1, len(files) // FILES_PER_TASK)
    return [files[first::groups] for first in range(groups)]


def count_files(files: list[Path]) -> tuple[Counter[str], int]:
    """Return how often each word occurs in some files, and the files' size in bytes."""
    counts: Counter[str] = Counter()
    size = 0
    for path in files:
        raw = path.read_bytes()
        counts.update(WORD.findall(raw.decode(errors="replace").lower()))
        size += len(raw)
    return counts, size


def make_pool(processes: int | None, engine: str, address: str | None) -> Any:
    """Return a pool of this machine, or of a cluster whose nodes can read the same files."""
    if engine == "local":
        return Pool(processes)
    import glasspool

    return glasspool.Pool(processes, engine=engine, address=address)


def count_folder(files: list[Path], pool: Any) -> tuple[Counter[str], int]:
    """Return the counts and the bytes of all files together."""
    total: Counter[str] = Counter()
    total_size = 0
    with pool:
        for counts, size in pool.imap_unordered(count_files, share_out(files)):
            total.update(counts)
            total_size += size
    return total, total_size


def print_table(counts: Counter[str], top: int) -> None:
    """Print the most frequent words, their number and their share of all words."""
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))[:top]
    width = max((len(word) for word, _ in rows), default=4)
    print(f"{'word':<{width}}  {'count':>9}  {'share':>6}")
    for word, count in rows:
        print(f"{word:<{width}}  {count:>9,}  {count / counts.total():>6.2%}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Count words in the text files of a folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=sysconfig.get_path("stdlib"))
    parser.add_argument("--pattern", default="*.py", help="which files to read (default: *.py)")
    parser.add_argument("--processes", type=int, help="how many workers (default: all processors)")
    parser.add_argument("--engine", default="local", help="local, dask or ray (default: local)")
    parser.add_argument("--address", help="which cluster (default: one made for the occasion)")
    parser.add_argument("--top", type=int, default=10, help="how many words to print (default: 10)")
    return parser.parse_args()


def main() -> None:
    """Count, and print the most frequent words and the totals."""
    arguments = parse_arguments()
    begun = time.perf_counter()
    files = find_files(Path(arguments.folder).resolve(), arguments.pattern)
    pool = make_pool(arguments.processes, arguments.engine, arguments.address)
    counts, size = count_folder(files, pool)
    took = time.perf_counter() - begun
    print_table(counts, arguments.top)
    print(f"\n{counts.total():,} words, {len(counts):,} different, in {len(files):,} files")
    print(f"{size / 1e6:.1f} MB in {took:.2f} s")


if __name__ == "__main__":
    main()
