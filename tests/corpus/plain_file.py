"""A file that is run by its path, and is no module of anybody's."""

factor = 5


def scaled(x):
    return x * factor


def task(x):
    return scaled(x) + 1
