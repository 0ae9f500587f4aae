"""Tasks that wait in a queue of a manager, which the program fills slowly."""

import stage


def task(queue) -> int:
    count = 0
    while queue.get() is not None:
        count += 1
    return count


def main() -> None:
    context = stage.context()
    with context.Manager() as manager:
        queue = manager.Queue()
        pool = context.Pool(2)
        results = [pool.apply_async(task, (queue,)) for _ in range(2)]
        for item in range(1000):
            queue.put(item)
            if item == 2:
                stage.ready()
            stage.nap(0.7)
        results[0].get()


if __name__ == "__main__":
    main()
