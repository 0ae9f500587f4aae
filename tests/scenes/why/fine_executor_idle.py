"""A ProcessPoolExecutor at rest."""

from concurrent.futures import ProcessPoolExecutor

import stage


def main() -> None:
    with ProcessPoolExecutor(2, mp_context=stage.context()) as executor:
        executor.submit(stage.touch).result()
        stage.ready()
        stage.nap(60)


if __name__ == "__main__":
    main()
