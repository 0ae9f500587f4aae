"""Threads of an executor that wait for the processes of another: as it is often done, and well."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import stage


def main() -> None:
    with ProcessPoolExecutor(2, mp_context=stage.context()) as processes:
        with ThreadPoolExecutor(2) as threads:

            def outer(_: int) -> float:
                return processes.submit(stage.nap, 40).result()

            results = [threads.submit(outer, item) for item in range(3)]
            stage.until(lambda: processes._processes and len(processes._processes) == 2)
            pids = list(processes._processes)
            stage.until(lambda: all(stage.in_call(pid, stage.NANOSLEEP) for pid in pids))
            stage.ready()
            results[0].result()


if __name__ == "__main__":
    main()
