"""The desk: answers questions about a pool on the Unix socket beside its scoreboard.

One question per connection, a line of JSON; the answer is one JSON document. Only processes of the
same user are answered (the kernel tells who asks), and nobody can hold the desk for longer than
``PATIENCE_S``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

PATIENCE_S = 0.5
QUESTION_BYTES = 64 * 1024


def listen(path: str) -> socket.socket:
    """Open the desk at a path, for this user alone.

    Raises:
        OSError: It cannot be opened there.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(path)
        os.chmod(path, 0o600)
        server.listen(16)
    except OSError:
        server.close()
        raise
    return server


def answer(server: socket.socket, respond: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Accept one connection and answer its question."""
    try:
        client, _ = server.accept()
    except OSError:
        return
    with client, contextlib.suppress(OSError, ValueError):
        client.settimeout(PATIENCE_S)
        if not _same_user(client):
            return
        question = json.loads(_read_line(client))
        if not isinstance(question, dict):
            raise ValueError("a question is a JSON object")
        try:
            reply = respond(question)
        except Exception as error:  # the asker is told; the pool goes on
            reply = {"error": f"{type(error).__name__}: {error}"}
        client.sendall(json.dumps(reply).encode() + b"\n")


def ask(path: str, question: dict[str, Any], timeout: float = 2.0) -> dict[str, Any]:
    """Ask a pool, from any process of the same user.

    Raises:
        OSError: Nobody answers there, or not within ``timeout`` seconds.
        ValueError: The answer is not JSON.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        client.connect(path)
        client.sendall(json.dumps(question).encode() + b"\n")
        parts = []
        while part := client.recv(1 << 16):
            parts.append(part)
    reply = json.loads(b"".join(parts))
    if not isinstance(reply, dict):
        raise ValueError("the answer is not a JSON object")
    return reply


def _same_user(client: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the folder, mode 0700, is the guard then
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (0, os.geteuid())


def _read_line(client: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = client.recv(4096)
        if not part or len(line) > QUESTION_BYTES:
            raise ValueError("no question")
        line += part
    return line
