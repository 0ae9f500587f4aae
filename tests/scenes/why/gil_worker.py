"""A task computes in C with the interpreter lock, while another thread of its process wants it."""

import threading
import time

import stage


def beat() -> None:
    while True:
        time.sleep(0.01)


def task() -> int:
    threading.Thread(target=beat, daemon=True).start()
    stage.ready()
    return sum(range(10**12))


def main() -> None:
    pool = stage.context().Pool(1)
    pool.apply(task)


if __name__ == "__main__":
    main()
