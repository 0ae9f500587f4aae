"""A program with a pool that does what it is told, line by line: what the page is looked at with."""

from __future__ import annotations

import os
import sys
import time

import glasspool

EVIL = "<img src=x onerror=document.title='evil'>"


def tick(number: int) -> int:
    """End at once."""
    return number


def spoilt(number: int) -> int:
    """Fail."""
    raise ValueError(number)


def hold_on(what: str) -> str:
    """Run for longer than any test."""
    time.sleep(120)
    return what


def linger(seconds: float) -> float:
    """Take so long."""
    time.sleep(seconds)
    return seconds


def evil(what: str) -> str:
    """Do what ``hold_on`` does, under a name that is HTML."""
    return hold_on(what)


evil.__name__ = evil.__qualname__ = EVIL
globals()[EVIL] = evil


def main() -> None:
    """Make the pool, then follow orders until the end of the input."""
    pool = glasspool.Pool(int(sys.argv[1]), name=sys.argv[2])
    print("ready", os.getpid(), flush=True)
    for line in sys.stdin:
        order, _, value = line.strip().partition(" ")
        if order == "tick":
            pool.map(tick, range(int(value)), chunksize=1)
        elif order == "spoil":
            for result in [pool.apply_async(spoilt, (n,)) for n in range(int(value))]:
                result.wait()
        elif order == "linger":
            pool.apply(linger, (float(value),))
        elif order == "hold":
            pool.apply_async(hold_on, (value,))
        elif order == "evil":
            pool.apply_async(globals()[EVIL], (f"<b>{value}</b>",))
        print("did", order, flush=True)
    pool.terminate()
    pool.join()


if __name__ == "__main__":
    main()
