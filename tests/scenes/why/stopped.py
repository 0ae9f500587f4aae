"""A worker is stopped by a signal in its task."""

import os
import signal
import sys

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(stage.nap, (1.0,))
    pids = [worker.pid for worker in pool._pool]
    asleep: list[int] = []

    def sleeps() -> bool:
        asleep[:] = [pid for pid in pids if stage.in_call(pid, stage.NANOSLEEP)]
        return bool(asleep)

    stage.until(sleeps)
    os.kill(asleep[0], signal.SIGSTOP)
    stage.ready()
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    result.get()


if __name__ == "__main__":
    main()
