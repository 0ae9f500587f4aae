"""``python -m bench.watching``: what it costs a pool at full burst to be watched by top and by the page.

A program of its own hands short tasks to a pool as fast as it can. It runs all the time; in turns nobody
watches it, ``glasspool top`` does (twice a second, in a terminal of 120 columns), ``glasspool serve`` does
with one open page or with ten, or all of them. Told are the tasks a second, and the processor time of the
program and its workers for each task: the former also suffers from the processors that the watcher itself
takes, if there are no more of them than workers; the latter is what the program pays.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from statistics import median

import psutil

from bench.report import machine

SETTLE_S = 2.0
LIMIT_S = 30.0

BURST = """
import os, sys, threading
import glasspool
with glasspool.Pool({workers}) as pool:
    # Not before the pool: a fork beside a thread that reads would wait for that one's lock for ever.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    done = 0
    while True:
        results = [pool.apply_async(abs, (number,)) for number in range(20_000)]
        for result in results:
            result.get()
        done += len(results)
        print(done, flush=True)
"""


class Load:
    """The program that is watched, and how far it is.

    Owns a thread that reads what the program prints; it ends with the program.
    """

    def __init__(self, workers: int) -> None:
        self._program = subprocess.Popen(
            [sys.executable, "-c", BURST.format(workers=workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._program.pid
        self._seen = [(time.monotonic(), 0)]
        self._moved = threading.Event()
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stdout = self._program.stdout
        for line in stdout or ():
            self._seen.append((time.monotonic(), int(line)))
            self._moved.set()

    def step(self) -> tuple[float, int, float]:
        """Wait for the end of a burst: when it was, tasks done, processor time of the whole family."""
        self._moved.clear()
        if not self._moved.wait(LIMIT_S):
            raise TimeoutError("the program does not get on")
        return (*self._seen[-1], self._cpu_s())

    def _cpu_s(self) -> float:
        program = psutil.Process(self.pid)
        total = 0.0
        for process in (program, *program.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def measure(self, seconds: float) -> tuple[float, float]:
        """Return tasks a second, and microseconds of processor time for each, over some seconds."""
        begun_at, begun, begun_cpu_s = self.step()
        while True:
            now, done, cpu_s = self.step()
            if now - begun_at >= seconds:
                tasks = done - begun
                return tasks / (now - begun_at), 1e6 * (cpu_s - begun_cpu_s) / tasks

    def end(self) -> None:
        """End it."""
        self._program.kill()
        self._program.wait(LIMIT_S)


@contextlib.contextmanager
def top(pid: int) -> Iterator[None]:
    """Watch in a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
    program = subprocess.Popen(
        [sys.executable, "-m", "glasspool", "top", str(pid)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=dict(os.environ, TERM="xterm-256color"),
    )
    os.close(theirs)
    reader = threading.Thread(target=_swallow, args=(ours,), name="terminal", daemon=True)
    reader.start()
    try:
        yield
    finally:
        program.kill()
        program.wait(LIMIT_S)
        reader.join(LIMIT_S)
        os.close(ours)


@contextlib.contextmanager
def pages(pid: int, count: int) -> Iterator[None]:
    """Watch by a server with so many open pages."""
    program = subprocess.Popen(
        [sys.executable, "-m", "glasspool", "serve", str(pid), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    streams = []
    try:
        url, token = _address(program)
        for _ in range(count):
            stream = urllib.request.urlopen(f"{url}/api/events?token={token}", timeout=LIMIT_S)
            streams.append(stream)  # else it is closed
            threading.Thread(target=_swallow, args=(stream.fileno(),), daemon=True).start()
        yield
    finally:
        program.kill()
        program.wait(LIMIT_S)
        for stream in streams:
            stream.close()


def _address(program: subprocess.Popen[str]) -> tuple[str, str]:
    for line in program.stdout or ():
        found = re.search(r"(http://[^/]+)/\?token=(\S+)", line)
        if found:
            return found[1], found[2]
    raise RuntimeError("the server told no address")


def _swallow(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the other end has gone
        while os.read(descriptor, 1 << 16):
            continue


@contextlib.contextmanager
def everything(pid: int) -> Iterator[None]:
    """Watch by both."""
    with top(pid), pages(pid, 1):
        yield


WATCHERS = {
    "top at 2 Hz": top,
    "serve, 1 page": lambda pid: pages(pid, 1),
    "serve, 10 pages": lambda pid: pages(pid, 10),
    "top and serve": everything,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.watching",
        description=__doc__.split("\n\n", 1)[1] if __doc__ else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=2, help="size of the pool (default: 2)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a round (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="of each watcher (default: 5)")
    options = parser.parse_args(arguments)
    print(", ".join(f"{name}: {value}" for name, value in machine().items()))
    load = Load(options.workers)
    try:
        load.measure(SETTLE_S)
        rounds = _rounds(load, options)
    finally:
        load.end()
    print(f"{'watched by':<20}{'tasks/s':>10}{'of alone':>10}{'CPU/task':>12}{'of alone':>10}")
    for name, told in rounds.items():
        rate, rate_share, cpu_us, cpu_share = (median(column) for column in zip(*told, strict=True))
        print(f"{name:<20}{rate:>10,.0f}{rate_share:>10.3f}{cpu_us:>9.2f} µs{cpu_share:>10.3f}")
    return 0


Row = tuple[float, float, float, float]


def _rounds(load: Load, options: argparse.Namespace) -> dict[str, list[Row]]:
    """Measure each watcher between two rounds in which nobody watches, in turns."""
    told: dict[str, list[Row]] = {"nobody": []}
    for number in range(options.rounds):
        before = load.measure(options.seconds)
        for name, watch in WATCHERS.items():
            with watch(load.pid):
                load.measure(SETTLE_S)
                seen = load.measure(options.seconds)
            after = load.measure(options.seconds)
            rate, cpu_us = ((one + other) / 2 for one, other in zip(before, after, strict=True))
            told.setdefault(name, []).append((seen[0], seen[0] / rate, seen[1], seen[1] / cpu_us))
            told["nobody"].append((after[0], after[0] / before[0], after[1], after[1] / before[1]))
            before = after
        print(f"round {number + 1} of {options.rounds} is done", file=sys.stderr)
    return told


if __name__ == "__main__":
    sys.exit(main())
