"""Processes that share a queue of tasks; the one that waited in it is killed with the queue's lock."""

import stage


def consume(queue) -> None:
    while queue.get() is not None:
        pass


def main() -> None:
    context = stage.context()
    queue = context.Queue()
    workers = [context.Process(target=consume, args=(queue,)) for _ in range(3)]
    for worker in workers:
        worker.start()

    def reading() -> list:
        return [worker for worker in workers if stage.in_call(worker.pid, stage.READ)]

    stage.until(reading)
    [holder] = reading()
    rest = [worker for worker in workers if worker is not holder]
    stage.until(lambda: all(stage.in_call(worker.pid, stage.FUTEX) for worker in rest))
    stage.kill(holder.pid)
    holder.join()
    queue.put("work")
    stage.ready()
    rest[0].join()


if __name__ == "__main__":
    main()
