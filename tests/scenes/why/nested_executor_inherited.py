"""A task that submits to the ProcessPoolExecutor which its worker has inherited over the fork."""

from concurrent.futures import ProcessPoolExecutor

import stage

EXECUTOR = None


def outer() -> object:
    return EXECUTOR.submit(stage.touch).result()


def main() -> None:
    global EXECUTOR
    EXECUTOR = ProcessPoolExecutor(2, mp_context=stage.context())
    EXECUTOR.submit(stage.touch).result()
    other = ProcessPoolExecutor(1, mp_context=stage.context())
    result = other.submit(outer)
    stage.until(lambda: other._processes)
    [pid] = other._processes
    stage.until(lambda: stage.in_call(pid, stage.FUTEX))
    stage.ready()
    result.result()


if __name__ == "__main__":
    main()
