"""A module that the workers cannot find: its folder came to sys.path after they had started."""

import multiprocessing
import os
import sys
import tempfile

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, glasspool.Pool(1, context=CONTEXT) as pool:
        pool.apply(abs, (-1,))
        with open(os.path.join(folder, "found_late.py"), "w") as file:
            file.write("def triple(x):\n    return 3 * x\n")
        sys.path.append(folder)
        import found_late

        try:
            print(pool.map(found_late.triple, range(3)))
        except glasspool.SerializationError as error:
            print("cannot import 'found_late'" in str(error))
