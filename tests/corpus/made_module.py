"""Functions of a module that was made at run time."""

import multiprocessing
import os
import sys
import types

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

if __name__ == "__main__":
    made = types.ModuleType("made_up")
    sys.modules["made_up"] = made
    exec("step = 3\ndef add(x):\n    return x + step\n", vars(made))
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(made.add, range(3)))
