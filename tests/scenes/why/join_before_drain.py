"""The classic: a process is joined before what it has put into a queue is taken out."""

import os

import stage


def produce(queue) -> None:
    queue.put(bytes(1_000_000))


def main() -> None:
    context = stage.context()
    queue = context.Queue()
    child = context.Process(target=produce, args=(queue,))
    child.start()

    def writes() -> bool:
        try:
            threads = os.listdir(f"/proc/{child.pid}/task")
            return any(stage.in_call(int(tid), stage.WRITE) for tid in threads)
        except OSError:
            return False

    stage.until(writes)
    stage.ready()
    child.join()
    queue.get()


if __name__ == "__main__":
    main()
