"""A file that is run with runpy, as a function's home and as the main module."""

import multiprocessing
import os
import runpy

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

if __name__ == "__main__":
    folder = os.path.dirname(os.path.abspath(__file__))
    found = runpy.run_path(os.path.join(folder, "plain_file.py"))
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(found["task"], range(3)))
    runpy.run_path(os.path.join(folder, "script_with_guard.py"), run_name="__main__")
