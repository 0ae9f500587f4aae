"""One call kills its worker: its future tells how, the others have their values, the executor goes on.

With ``concurrent.futures.ProcessPoolExecutor`` every future that had not ended would raise
``BrokenProcessPool``, and the executor could only be thrown away.
"""

import os
import signal
from concurrent.futures import as_completed

from glasspool import BrokenWorker, Executor


def work(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


if __name__ == "__main__":
    with Executor(max_workers=2) as executor:
        futures = {executor.submit(work, number): number for number in range(6)}
        for future in as_completed(futures):
            try:
                print(f"work({futures[future]}) = {future.result()}")
            except BrokenWorker as error:
                print(f"work({futures[future]}) died: {error.certificate.cause}")
        print("still at work:", list(executor.map(work, [7, 8])))
        print(executor.inspect())
