"""Random numbers that are the same whatever the number of workers, and state in every worker."""

import random

from glasspool import Pool

sides = 6


def choose(number):
    """Set how many sides the die has, in this worker."""
    global sides
    sides = number


def roll(item):
    """Roll the die."""
    return random.randint(1, sides)


if __name__ == "__main__":
    for workers in (1, 3):
        with Pool(workers, seed=2024) as pool:
            pool.run_on_all(choose, 20)
            print(workers, "workers:", pool.map(roll, range(10)))
