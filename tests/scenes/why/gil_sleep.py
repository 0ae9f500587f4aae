"""A task in C code that sleeps and does not give the interpreter lock back."""

import ctypes

import stage


def task() -> None:
    stage.ready()
    ctypes.PyDLL(None).sleep(60)


def main() -> None:
    pool = stage.context().Pool(2)
    pool.apply(task)


if __name__ == "__main__":
    main()
