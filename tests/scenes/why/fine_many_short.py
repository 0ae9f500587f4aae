"""Very many very short tasks."""

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    for number, _ in enumerate(pool.imap_unordered(stage.touch, iter(int, 1))):
        if number == 10:
            stage.ready()


if __name__ == "__main__":
    main()
