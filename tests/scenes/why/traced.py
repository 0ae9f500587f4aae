"""A worker is held by a debugger: here a process that attaches to it and does no more."""

import ctypes
import os

import stage

ATTACH = 16


def hold(pid: int) -> None:
    if ctypes.CDLL(None, use_errno=True).ptrace(ATTACH, pid, None, None):
        os._exit(3)
    os.waitpid(pid, 0x40000000)
    stage.ready()
    stage.nap(60)


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(stage.nap, (0.5,))
    context = stage.context()
    pids = [worker.pid for worker in pool._pool]
    asleep: list[int] = []

    def sleeps() -> bool:
        asleep[:] = [pid for pid in pids if stage.in_call(pid, stage.NANOSLEEP)]
        return bool(asleep)

    stage.until(sleeps)
    context.Process(target=hold, args=(asleep[0],), daemon=True).start()
    result.get()


if __name__ == "__main__":
    main()
