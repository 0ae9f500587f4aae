"""An iterable that is slow, but gives an item every second."""

import time

import stage


def items():
    for item in range(60):
        yield item
        time.sleep(1.0)


def main() -> None:
    pool = stage.context().Pool(2)
    for number, _ in enumerate(pool.imap(stage.touch, items())):
        if number == 1:
            stage.ready()


if __name__ == "__main__":
    main()
