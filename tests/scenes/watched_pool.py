"""A program with a pool of ours that does what its standard input says, one line at a time.

Commands: ``short N`` (N short tasks), ``fail``, ``hold`` (a task that stays until ``release``), ``kill PID``
(the worker of that task), ``another NAME`` (one more pool), ``end`` (of the first pool), ``stop`` (of the
program). Each is answered by one line when it is done.
"""

import multiprocessing
import os
import signal
import sys

import staging

import glasspool

gate = None


def keep(given) -> None:
    """Keep what the parent shares (an initializer)."""
    global gate
    gate = given
    signal.alarm(staging.LIFE_S)


def short(item: int) -> int:
    return item


def failing(item: int) -> int:
    raise ValueError(f"<i>{item}</i>")


def held(item: str) -> int:
    staging.tell(f"held {os.getpid()}")
    gate.acquire(timeout=staging.LIFE_S)
    return 1


def main() -> None:
    method = staging.begin()
    context = multiprocessing.get_context(method)
    released = context.Semaphore(0)
    pool = glasspool.Pool(2, keep, (released,), context=context, name=staging.option("watched"))
    others, running = [], None
    staging.tell("ready")
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "short":
            pool.map(short, range(int(rest)), chunksize=1)
        elif word == "fail":
            pool.apply_async(failing, (1,)).wait()
        elif word == "hold":
            running = pool.apply_async(held, ("<b>held</b>",))
            continue  # the task answers
        elif word == "release":
            released.release()
            running.get()
        elif word == "kill":
            os.kill(int(rest), signal.SIGKILL)
            running.wait()
        elif word == "another":
            others.append(glasspool.Pool(1, name=rest))
        elif word == "end":
            pool.terminate()
            pool.join()
        elif word == "stop":
            break
        staging.tell("done")


if __name__ == "__main__":
    main()
