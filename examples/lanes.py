"""Eight waits on two workers at once: each worker has four lanes, and each result says which one it had."""

import time

import glasspool


def fetch(number):
    """Wait, as for a server's answer."""
    time.sleep(0.2)
    return number


if __name__ == "__main__":
    with glasspool.Pool(2, threads=4, name="fetchers") as pool:
        pool.map(abs, range(8))  # the workers are there
        begun = time.monotonic()
        results = [pool.apply_async(fetch, (number,)) for number in range(8)]
        for result in results:
            print(result.get(), "in", result.info.thread.name)
        print(f"8 waits of 0.2 s took {time.monotonic() - begun:.1f} s")
