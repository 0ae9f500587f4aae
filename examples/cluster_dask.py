"""The same program on this machine and on a cluster of Dask: one argument is what differs.

The cluster is made for the occasion, on this machine, and ends with the pool. ``address=`` leads to one that
is there: ``"tcp://host:8786"``, or a ``dask.distributed.Client``. Needs ``pip install 'glasspool[dask]'``.
"""

import glasspool

LIMIT = 20_000
PART = 2_500


def count_primes(first: int) -> int:
    """Count the primes among some numbers."""
    return sum(
        number > 1 and all(number % other for other in range(2, int(number**0.5) + 1))
        for number in range(first, first + PART)
    )


def count(**where: str) -> int:
    """Count the primes below a limit on the workers of a pool."""
    with glasspool.Pool(2, **where) as pool:
        return sum(pool.map(count_primes, range(0, LIMIT, PART), chunksize=1))


if __name__ == "__main__":
    here = count()
    there = count(engine="dask")
    print(f"{here} primes below {LIMIT} on this machine, {there} on Dask")
