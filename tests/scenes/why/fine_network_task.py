"""A task that waits for a peer that is slow to answer."""

import socket

import stage


def task(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as line:
        stage.ready()
        return line.recv(100)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pool = stage.context().Pool(2)
        pool.apply(task, (server.getsockname()[1],))


if __name__ == "__main__":
    main()
