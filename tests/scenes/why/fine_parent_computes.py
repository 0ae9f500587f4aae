"""A main thread that computes while the results of its pool come in."""

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    results = pool.imap_unordered(stage.nap, (0.001 for _ in range(200_000)))
    next(results)
    stage.ready()
    while True:
        sum(n * n for n in range(100_000))


if __name__ == "__main__":
    main()
