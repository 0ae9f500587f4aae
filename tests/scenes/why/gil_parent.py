"""The program's main thread computes in C with the interpreter lock; the pool's threads get no turn."""

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    results = pool.imap_unordered(stage.touch, range(1000))
    next(results)
    stage.ready()
    sum(range(10**12))


if __name__ == "__main__":
    main()
