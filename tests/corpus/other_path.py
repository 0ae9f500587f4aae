"""A module that is found by a folder which the program has added to sys.path."""

import multiprocessing
import os
import sys
import tempfile

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "found_there.py"), "w") as file:
            file.write("def triple(x):\n    return 3 * x\n")
        sys.path.append(folder)
        import found_there

        with glasspool.Pool(1, context=CONTEXT) as pool:
            print(pool.map(found_there.triple, range(3)))
