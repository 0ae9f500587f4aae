"""The program changes its folder before it makes the pool; workers are there, too."""

import multiprocessing
import os
import tempfile

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def read(name):
    with open(name) as file:
        return file.read()


if __name__ == "__main__":
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("data.txt", "w") as file:
            file.write("found")
        with glasspool.Pool(1, context=CONTEXT) as pool:
            print(pool.map(read, ["data.txt"]))
        os.chdir(here)
