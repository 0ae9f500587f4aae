"""A program with much memory, whose workers are replaced all the time: each fork takes its while."""

import stage


def main() -> None:
    ballast = bytearray(b"x") * 300_000_000
    pool = stage.context().Pool(2, maxtasksperchild=2)
    for number, _ in enumerate(pool.imap_unordered(stage.nap, iter(lambda: 0.05, 1))):
        if number == 1:
            stage.ready()
    del ballast


if __name__ == "__main__":
    main()
