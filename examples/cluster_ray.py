"""A task that kills its worker, on a cluster of Ray: the pool says where and how, and goes on.

The cluster is made for the occasion, on this machine, and ends with the pool. ``address=`` leads to one that
is there: ``"auto"`` or ``"host:6379"``. Needs ``pip install 'glasspool[ray]'``.
"""

import os
import signal

import glasspool


def square(number: int) -> int:
    """Return the square, but for one number that is the end of its worker."""
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


if __name__ == "__main__":
    with glasspool.Pool(2, engine="ray") as pool:
        results = [pool.apply_async(square, (number,)) for number in range(20)]
        total = 0
        for number, result in enumerate(results):
            try:
                total += result.get()
            except glasspool.WorkerDied as error:
                death = error.certificate
                on_a_node = "a node of Ray" if death.node else "this machine"
                print(f"square({number}) lost its worker on {on_a_node}: signal {death.signal}")
        print(f"the sum of the other squares is {total}")
