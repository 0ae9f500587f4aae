"""Workers that are replaced after each task."""

import stage


def main() -> None:
    pool = stage.context().Pool(2, stage.touch, maxtasksperchild=1)
    for number, _ in enumerate(pool.imap_unordered(stage.nap, iter(lambda: 0.02, 1), 1)):
        if number == 3:
            stage.ready()


if __name__ == "__main__":
    main()
