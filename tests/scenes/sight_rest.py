"""A stock pool with nothing to do, whose program wakes for a moment on SIGUSR1. METHOD as argument."""

import multiprocessing
import signal
import sys

if __name__ == "__main__":
    signal.alarm(60)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        pool.map(int, range(10))
        print("ready", flush=True)
        while True:
            signal.pause()
