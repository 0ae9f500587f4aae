"""Each of two workers multiplies matrices on eight threads."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "8"

import time

import numpy as np
import stage


def task(begun: bool) -> None:
    matrix = np.ones((700, 700))
    matrix @ matrix
    stage.ready()
    end = time.monotonic() + 15
    while time.monotonic() < end:
        matrix @ matrix


def main() -> None:
    import threadpoolctl

    threadpoolctl.threadpool_limits(8)
    pool = stage.context().Pool(2)
    pool.map(task, [True, False], chunksize=1)


if __name__ == "__main__":
    main()
