"""Tasks that sleep for long."""

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    results = [pool.apply_async(stage.nap, (40,)) for _ in range(3)]
    stage.until(lambda: all(stage.in_call(w.pid, stage.NANOSLEEP) for w in pool._pool))
    stage.ready()
    results[0].get()


if __name__ == "__main__":
    main()
