"""2,000 arrays in each direction, in a process that may have 256 descriptors open."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys

import flow_tasks as tasks

import glasspool

COUNT = 2000
LIMIT_S = 60.0


def main(method: str) -> None:
    """Send, keep unread, read and keep."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    with glasspool.Pool(2, context=multiprocessing.get_context(method)) as pool:
        given = [pool.apply_async(tasks.first, (tasks.full(i),)) for i in range(COUNT)]
        assert [result.get(LIMIT_S) for result in given] == list(range(COUNT))
        unread = [pool.apply_async(tasks.full, (i,)) for i in range(COUNT)]
        unread[-1].wait(LIMIT_S)
        kept = [result.get(LIMIT_S) for result in unread]
        kept += pool.map(tasks.full, range(COUNT), chunksize=1)
        assert [int(array[-1]) for array in kept] == [*range(COUNT), *range(COUNT)]
        kept[7][0] = 70  # each is the caller's own
        assert int(kept[7][1]) == 7
        assert len(os.listdir("/proc/self/fd")) < 100
        doubled = pool.imap(tasks.doubled, kept[:COUNT])
        assert [int(array[-1]) for array in doubled] == [2 * i for i in range(COUNT)]
        assert pool.stats()["deaths"] == 0
        pool._engine.collector.ledger.check()
    pool.join()
    print("good")


if __name__ == "__main__":
    main(sys.argv[1])
