"""A pool of billiard of two workers; METHOD, then busy or idle."""

import billiard
import staging


def main() -> None:
    method, state = staging.begin(), staging.option("busy")
    pool = billiard.get_context(method).Pool(2, staging.set_up)
    if state == "busy":
        pool.map_async(staging.work, [1, 2], 1)
    else:
        pool.map(staging.touch, range(8))
    staging.rest()


if __name__ == "__main__":
    main()
