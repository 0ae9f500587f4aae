"""A pool at rest, whose program waits for its next request."""

import stage


def main() -> None:
    pool = stage.context().Pool(3)
    pool.map(stage.touch, range(9))
    stage.ready()
    stage.nap(60)


if __name__ == "__main__":
    main()
