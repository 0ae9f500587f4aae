"""A task that waits for a program which it has started."""

import subprocess

import stage


def task() -> None:
    subprocess.run(["sleep", "50"])


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(task)
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
