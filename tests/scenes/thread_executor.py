"""A ThreadPoolExecutor of two threads at work, and its caller, who waits for a result."""

from concurrent.futures import ThreadPoolExecutor

import staging


def main() -> None:
    staging.begin()
    pool = ThreadPoolExecutor(2)
    futures = [pool.submit(staging.work, item) for item in (1, 2)]
    staging.tell("ready")
    futures[0].result()


if __name__ == "__main__":
    main()
