"""Ask which threads a pool has: every one of them has a name and says what it is for."""

import time

import glasspool


def work(number: int) -> int:
    """Take half a second."""
    time.sleep(0.5)
    return number


if __name__ == "__main__":
    with glasspool.Pool(4) as pool:
        results = [pool.apply_async(work, (number,)) for number in range(5)]
        rest = pool.map_async(work, range(5, 10), 1)
        for thread in pool.threads():
            print(f"{thread.process:<20} {thread.name:<42} {', '.join(thread.roles)}")
        for result in results:
            result.wait()
        rest.wait()
