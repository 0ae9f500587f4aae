"""A reader of imap that has paused: all results are there, it takes one at times."""

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    results = pool.imap(stage.touch, range(100))
    next(results)
    stage.ready()
    stage.nap(60)
    next(results)


if __name__ == "__main__":
    main()
