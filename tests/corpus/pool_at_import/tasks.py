"""Tasks of the package."""


def square(x):
    return x * x
