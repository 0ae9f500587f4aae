"""Two pools in an ExitStack, one feeding the other."""

import contextlib
import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def square(x):
    return x * x


def half(x):
    return x / 2


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(glasspool.Pool(1, context=CONTEXT)) for _ in range(2))
        print(list(second.imap(half, first.imap(square, range(4)))))
