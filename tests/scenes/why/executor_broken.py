"""A worker of a ProcessPoolExecutor is killed; the program goes on without a look at its executor."""

import concurrent.futures

import stage


def main() -> None:
    executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=stage.context())
    try:
        executor.submit(stage.die).result()
    except concurrent.futures.process.BrokenProcessPool as error:
        problem = error
        stage.ready()
        stage.nap(60)
        raise problem


if __name__ == "__main__":
    main()
