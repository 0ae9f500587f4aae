"""A pool that is closed and joined, and has work left for a while."""

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    pool.map_async(stage.nap, [0.3] * 200, chunksize=1)
    pool.close()
    stage.ready()
    pool.join()


if __name__ == "__main__":
    main()
