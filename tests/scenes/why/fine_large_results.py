"""Results of 30 MB, one after another."""

import stage


def large(item: int) -> bytes:
    return bytes(30_000_000)


def main() -> None:
    pool = stage.context().Pool(2)
    results = pool.imap_unordered(large, iter(int, 1))
    for number, _ in enumerate(results):
        if number == 2:
            stage.ready()


if __name__ == "__main__":
    main()
