"""A busy stock pool that is looked at while it works: run by ``bench.attach``, as a program.

Each line on standard input is one round of work, answered by one line of JSON: how long it took, and what
went wrong in it. It ends with its input, so with the program that measures.
"""

import ctypes
import json
import multiprocessing
import os
import select
import subprocess
import sys
import threading
import time

TASKS = {"threads": 1500, "calls": 30}
"""Tasks of a round: it takes a second or two on two processors."""

_WORKERS = 2

_SLEEP_US = 20_000


def with_threads(number):
    """Compute something, half of it in a thread that is started and ended for it."""
    answer = []
    thread = threading.Thread(target=lambda: answer.append(sum(range(number, number + 20_000))))
    thread.start()
    mine = sum(range(number, number + 20_000))
    thread.join()
    return mine + answer[0]


def expected(number):
    """Return what ``with_threads`` must return."""
    return 2 * (20_000 * number + 20_000 * 19_999 // 2)


def with_calls(number):
    """Make calls that a stop, or a signal, would cut short; return what was cut short."""
    libc = ctypes.CDLL(None, use_errno=True)
    wrong = [name for name, call in _CALLS.items() if not _lasts(call, libc)]
    answer = subprocess.run(["/bin/echo", str(number)], capture_output=True, check=True).stdout
    if answer != b"%d\n" % number:
        wrong.append("subprocess")
    ours, theirs = os.pipe()
    os.write(theirs, b"x" * 1000)
    if len(os.read(ours, 2000)) != 1000:
        wrong.append("pipe")
    os.close(ours)
    os.close(theirs)
    return wrong


def _lasts(call, libc):
    began = time.monotonic()
    result = call(libc)
    # Timers of the system round down to milliseconds.
    return result == 0 and time.monotonic() - began >= _SLEEP_US / 1e6 - 0.0015


def _epoll(libc):
    # The one in C: Python's would begin again after EINTR.
    ours, theirs = os.pipe()
    with select.epoll() as waits:
        waits.register(ours, select.EPOLLIN)
        room = ctypes.create_string_buffer(64)
        result = libc.epoll_wait(waits.fileno(), room, 1, _SLEEP_US // 1000)
    os.close(ours)
    os.close(theirs)
    return result


_CALLS = {
    "usleep": lambda libc: libc.usleep(_SLEEP_US),
    "usleep with the GIL": lambda libc: ctypes.PyDLL(None).usleep(_SLEEP_US),
    "poll": lambda libc: libc.poll(None, 0, _SLEEP_US // 1000),
    "epoll_wait": _epoll,
}


def one_round(pool, kind, tasks):
    """Do one round, and tell what went wrong."""
    numbers = range(tasks)
    if kind == "threads":
        answers = pool.map(with_threads, numbers, chunksize=1)
        return sum(
            answer != expected(number) for number, answer in zip(numbers, answers, strict=True)
        )
    return [wrong for wrong in pool.map(with_calls, numbers, chunksize=1) if wrong]


def main(method, kind, tasks):
    """Work as told until the input ends."""
    with multiprocessing.get_context(method).Pool(_WORKERS) as pool:
        one_round(pool, kind, int(tasks))  # all is loaded and warm
        print(json.dumps({"pid": os.getpid()}), flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            wrong = one_round(pool, kind, int(tasks))
            took_s = time.perf_counter() - began
            print(json.dumps({"took_s": took_s, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
