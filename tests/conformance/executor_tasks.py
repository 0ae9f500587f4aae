"""What the executors of both kinds are asked to call."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

# For the programs that some tests start: pytest itself knows the folder.
sys.path.append(str(Path(__file__).parents[1]))

from gates import shared


def square(value: int) -> int:
    """Return the square."""
    return value * value


def product(first: int, second: int = 1, *, third: int = 1) -> int:
    """Return the product."""
    return first * second * third


def echo(*args: Any, **kwargs: Any) -> Any:
    """Return what came."""
    return args, kwargs


def fail(value: Any) -> NoReturn:
    """Raise a ValueError of the value."""
    raise ValueError(value)


def fail_at(value: int, bad: int) -> int:
    """Return the value, but raise at the bad one."""
    if value == bad:
        raise ValueError(value)
    return value


def leave(code: object) -> NoReturn:
    """Raise SystemExit."""
    sys.exit(code)  # type: ignore[arg-type]  # whatever it is


def interrupt() -> NoReturn:
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


def lambda_result() -> Any:
    """Return what cannot be pickled."""
    return threading.Lock()


class BadAtHome(Exception):
    """Cannot be rebuilt: it wants an argument that pickle does not keep."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


def raise_bad_at_home() -> NoReturn:
    """Raise what cannot be rebuilt."""
    raise BadAtHome(1, 2)


class Stays(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError("I stay")


def raise_stays() -> NoReturn:
    """Raise what cannot be pickled."""
    raise Stays


def stays() -> Stays:
    """Return what cannot be pickled, and says so by PicklingError."""
    return Stays()


class Unloadable:
    """Cannot be rebuilt, neither in a worker nor at home."""

    def __reduce__(self) -> Any:
        return fail, ("unloadable",)


def unloadable() -> Unloadable:
    """Return what cannot be rebuilt."""
    return Unloadable()


def wait_for_gate(value: int = 0) -> int:
    """Tell that this runs, and wait for the gate."""
    shared["started"].release()
    if not shared["gate"].wait(60):
        raise RuntimeError("the gate was never opened")
    return value


def wait_unless_first(value: int) -> int:
    """Tell that this runs; all but the first one wait for the gate."""
    return wait_for_gate(value) if value else value


def pid(value: Any = None) -> int:
    """Return who runs this."""
    return os.getpid()


def sleep(seconds: float) -> float:
    """Return after so many seconds."""
    time.sleep(seconds)
    return seconds


def exit_hard() -> NoReturn:
    """End the process without a word."""
    os._exit(3)


def remember(value: Any) -> None:
    """Keep a value in this process (an initializer)."""
    shared["remembered"] = value


def recall() -> Any:
    """Return what was kept."""
    return shared["remembered"]
