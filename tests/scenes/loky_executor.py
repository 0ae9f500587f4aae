"""loky's executor of two workers, both at work, and its caller, who waits in as_completed."""

from concurrent.futures import as_completed

import staging
from loky import get_reusable_executor


def main() -> None:
    method = staging.begin()
    pool = get_reusable_executor(
        2, timeout=staging.LIFE_S, context=method, initializer=staging.set_up
    )
    futures = [pool.submit(staging.work, item) for item in (1, 2)]
    staging.tell("ready")
    list(as_completed(futures))


if __name__ == "__main__":
    main()
