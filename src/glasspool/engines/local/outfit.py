"""Outfit: what the workers of a pool are given besides tasks, and put on before the initializer runs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from glasspool import seeding
from glasspool.engines.local import native_limits

if TYPE_CHECKING:
    from glasspool.engines.local.capturing import CaptureFile
    from glasspool.engines.local.forwarding import Sender
    from glasspool.engines.local.worker import Setup
    from glasspool.options import PoolOptions


_node: str | None = None  # on which this process is a worker


def is_on_node() -> bool:
    """Tell whether this process is a worker on a node of a cluster."""
    return _node is not None


def whereabouts() -> str:
    """Return the words for this process, a worker, in what a program is told of it."""
    return "worker" if _node is None else f"worker on the node {_node}"


class Outfit(NamedTuple):
    """How a worker's process is set up. It travels to the worker as it starts.

    ``size`` is the number of workers that the pool was made with; the rest are the pool's options.
    """

    size: int = 1
    threads: int = 1
    capture_output: bool = False
    forward_logs: bool = False
    seed: int | None = None
    logs: Sender | None = None  # what sends log records to the parent
    capture: CaptureFile | None = None  # where what tasks write is kept
    path: tuple[str, ...] = ()  # folders from which modules are imported, too
    node: str | None = None  # the node of a cluster on which the worker is
    unset: tuple[str, ...] = ()  # variables that are not for the worker
    pool: str | None = None  # the pool for which that of the node works

    @classmethod
    def of(cls, options: PoolOptions, size: int) -> Outfit:
        """Return what the workers of a pool with these options are given."""
        return cls(
            size,
            options.threads,
            options.capture_output,
            options.forward_logs,
            options.seed,
        )

    def put_on(self, setup: Setup) -> None:
        """Set this process up, before the initializer runs (a worker's main thread)."""
        global _node
        _node = self.node
        for name in self.unset:
            os.environ.pop(name, None)
        os.environ.update(setup.env)
        sys.path += [folder for folder in self.path if folder not in sys.path]
        native_limits.put_on(setup.native_rule, setup.forked)
        seeding.plant_anew()
        if self.seed is not None:
            seeding.plant(self.seed, "initializer")
        if self.logs is not None:
            self.logs.begin(setup)
        if self.capture is not None:
            from glasspool.engines.local import capturing

            capturing.begin(self.capture, setup)
