"""Tasks for programs that run out of something."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Any

_taken: list[int] = []


def square(value: int) -> int:
    """Return the square."""
    return value * value


def pid(value: Any = None) -> int:
    """Return who runs this."""
    return os.getpid()


def first(kept: bytes, value: int) -> int:
    """Return the length of what a partial object brought along."""
    return len(kept)


def raise_large(size: int) -> None:
    """Raise an exception of that size."""
    raise ValueError("x" * size)


def take_descriptors() -> None:
    """Open descriptors until there are no more, and keep them."""
    try:
        while True:
            _taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return


def give_descriptors() -> None:
    """Close them."""
    while _taken:
        os.close(_taken.pop())


_MEMFD_CREATE = {"x86_64": (0xC000003E, 319), "aarch64": (0xC00000B7, 279)}


def forbid_memfd_create(error: int) -> None:
    """Have the kernel refuse ``memfd_create`` in this process and its children (``seccomp(2)``)."""
    architecture, number = _MEMFD_CREATE[platform.machine()]
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 4),  # load the architecture
            (0x15, 0, 3, architecture),
            (0x20, 0, 0, 0),  # load the number of the call
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0x00050000 | error),  # refuse
            (0x06, 0, 0, 0x7FFF0000),  # allow
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 6, ctypes.addressof(code)), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.addressof(filter_), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is not to be had")
