"""A ProcessPoolExecutor with long tasks and many that wait."""

from concurrent.futures import ProcessPoolExecutor

import stage


def main() -> None:
    with ProcessPoolExecutor(2, mp_context=stage.context()) as executor:
        results = [executor.submit(stage.nap, 40) for _ in range(20)]
        stage.until(lambda: len(executor._processes) == 2)
        pids = list(executor._processes)
        stage.until(lambda: all(stage.in_call(pid, stage.NANOSLEEP) for pid in pids))
        stage.ready()
        results[0].result()


if __name__ == "__main__":
    main()
