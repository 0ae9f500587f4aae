"""A process that fills a queue faster than the program takes from it."""

import stage


def produce(queue) -> None:
    while True:
        queue.put(bytes(200_000))


def main() -> None:
    context = stage.context()
    pool = context.Pool(1)
    queue = context.Queue(20)
    context.Process(target=produce, args=(queue,), daemon=True).start()
    queue.get()
    stage.ready()
    while True:
        queue.get()
        pool.apply(stage.touch)
        stage.nap(0.5)


if __name__ == "__main__":
    main()
