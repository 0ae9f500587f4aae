"""Code that is executed in a namespace of its own, as notebooks and plugins do."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

CODE = """
base = 100
def helper(x):
    return x + base
def task(x):
    return helper(x) * 2
"""

if __name__ == "__main__":
    for namespace in ({"__name__": "__main__"}, {}, globals()):
        exec(CODE, namespace)
        with glasspool.Pool(1, context=CONTEXT) as pool:
            print(pool.map(namespace["task"], range(2)))
