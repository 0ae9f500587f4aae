"""Ask which thread of a worker runs a task: the task can ask, and each result knows."""

import glasspool


def work(number: int) -> str:
    """Say where this runs; outside of a task ``glasspool.worker()`` is None."""
    here = glasspool.worker()
    return f"{number} squared is {number * number}, says slot {here.slot} of {here.pool}"


if __name__ == "__main__":
    with glasspool.Pool(2) as pool:
        results = [pool.apply_async(work, (number,)) for number in range(4)]
        for result in results:
            print(result.get())
            info = result.info
            place = "its main thread" if info.thread.is_main else "not its main thread"
            print(f"    pid {info.pid}, {info.thread.name} ({place}), {info.run_s:.6f} s")
