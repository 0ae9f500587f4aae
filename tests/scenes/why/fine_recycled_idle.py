"""Workers that were replaced after their last task, and wait for the next."""

import stage


def main() -> None:
    pool = stage.context().Pool(2, maxtasksperchild=1)
    pool.map(stage.touch, range(10), chunksize=1)
    stage.ready()
    stage.nap(60)


if __name__ == "__main__":
    main()
