"""A module whose import never ends in a child process."""

from __future__ import annotations

import multiprocessing
import time

if multiprocessing.current_process().name != "MainProcess":
    time.sleep(600)


def initializer() -> None:
    """Do nothing: a worker never gets here."""
