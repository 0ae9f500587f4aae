"""A task that waits for the end of a program whose output it does not read."""

import subprocess
import sys

import stage


def task() -> int:
    code = "import sys; sys.stdout.write('x' * 1_000_000)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        stage.until(lambda: stage.in_call(child.pid, stage.WRITE))
        stage.ready()
        return child.wait()


def main() -> None:
    pool = stage.context().Pool(2)
    pool.apply(task)


if __name__ == "__main__":
    main()
