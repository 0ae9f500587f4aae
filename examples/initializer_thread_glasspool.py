"""Ask which thread of each worker ran the initializer, when, and for how long: look at the pool."""

import time

import glasspool


def prepare() -> None:
    """Do what each worker needs once."""
    sum(range(100_000))


def work(number: int) -> int:
    """Do what the pool is for."""
    return number * number


if __name__ == "__main__":
    with glasspool.Pool(initializer=prepare) as pool:
        pool.map(work, range(100))
        for worker in pool.inspect().workers:
            told = worker.initializer
            print(f"slot {worker.slot}, pid {worker.pid}: {told.function} is {told.state}")
            if told.state == "done":
                clock = time.strftime("%H:%M:%S", time.localtime(told.begun_at))
                place = "the main thread" if told.thread.is_main else "another thread"
                print(f"    by {told.thread.name} ({place}) at {clock}, took {told.run_s:.6f} s")
