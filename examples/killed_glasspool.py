"""Lose a worker in the middle of a map, and have its task run again: ask for retries."""

import os
import signal

import glasspool


def work(number: int) -> int:
    """Do what the pool is for; one task is unlucky at its first attempt."""
    if number == 7 and glasspool.worker().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


if __name__ == "__main__":
    with glasspool.Pool(2, retries=1) as pool:
        job = pool.map_async(work, range(10), chunksize=1)
        print(job.get())
        print(f"attempts: {[task.attempts for task in job.info.tasks]}")
        # Where every attempt ends so, the error says what happened to whom.
        try:
            pool.apply(os._exit, (3,))
        except glasspool.WorkerDied as error:
            print(f"{error.certificate.attempts} attempts; {error.certificate.cause}")
