"""A service on an event loop has a pool for what takes long: awaited, cancelled, read as it comes."""

import asyncio
import time

import glasspool


def square(number, seconds=0.0):
    time.sleep(seconds)
    return number * number


async def answer(pool, number, seconds=0.0):
    """What a request would do: the worker is free again if the client gives up."""
    return await pool.apply_async(square, (number, seconds))


async def main():
    async with glasspool.Pool(2) as pool:
        print("one:", await answer(pool, 3))
        print("some:", await asyncio.gather(*[answer(pool, number) for number in range(5)]))

        begun = time.monotonic()
        try:
            await asyncio.wait_for(answer(pool, 4, seconds=60), timeout=0.2)
        except TimeoutError:
            print("too slow: the work is cancelled")
        print("the next one:", await answer(pool, 5))
        print("nobody waited for 60 s:", time.monotonic() - begun < 30)

        total = 0
        async for value in pool.imap(square, iter(range(10**9))):  # drawn as it is read
            total += value
            if value > 1000:
                break
        print("the sum of squares up to", value, "is", total)


if __name__ == "__main__":
    asyncio.run(main())
