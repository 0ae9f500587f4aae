"""Tasks that compute for long, one in Python and one in C."""

import stage


def in_python(_: int) -> int:
    total = 0
    while True:
        total += 1


def in_c(_: int) -> int:
    return sum(range(10**12))


def main() -> None:
    pool = stage.context().Pool(2)
    results = [pool.apply_async(task, (0,)) for task in (in_python, in_c)]
    stage.ready()
    results[0].get()


if __name__ == "__main__":
    main()
