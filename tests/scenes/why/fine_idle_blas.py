"""Workers with eight threads of a linear algebra library each, which all rest."""

import numpy as np
import stage
import threadpoolctl


def task(seconds: float) -> float:
    matrix = np.ones((300, 300))
    with threadpoolctl.threadpool_limits(8):
        matrix @ matrix
    return stage.nap(seconds)


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.map_async(task, [40, 40], chunksize=1)
    stage.until(lambda: all(stage.in_call(w.pid, stage.NANOSLEEP) for w in pool._pool))
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
