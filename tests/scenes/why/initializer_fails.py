"""An initializer that raises: the pool starts workers for ever, and says nothing to its caller."""

import stage


def prepare() -> None:
    raise RuntimeError("no database")


def main() -> None:
    pool = stage.context().Pool(2, prepare)
    result = pool.apply_async(stage.touch)
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
