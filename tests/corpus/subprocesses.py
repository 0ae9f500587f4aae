"""A task that runs another program."""

import multiprocessing
import os
import subprocess
import sys

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def run(x):
    command = [sys.executable, "-S", "-c", f"print({x} * 2)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(run, range(2)))
