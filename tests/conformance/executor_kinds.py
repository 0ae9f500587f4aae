"""The two kinds of executor, and a maker of either."""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
from typing import Any


def executor_class(kind: str) -> type[concurrent.futures.ProcessPoolExecutor]:
    """Return the executor class of a kind, importing ours only when it is asked for."""
    if kind == "stock":
        return concurrent.futures.ProcessPoolExecutor
    found: type[concurrent.futures.ProcessPoolExecutor] = importlib.import_module(
        "glasspool"
    ).Executor
    return found


class ExecutorMaker:
    """Makes executors of one kind, under fork unless told otherwise, and ends them with the test."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.executor_class = executor_class(kind)
        self._made: list[concurrent.futures.Executor] = []

    def __call__(self, *args: Any, **kwds: Any) -> concurrent.futures.ProcessPoolExecutor:
        kwds.setdefault("mp_context", multiprocessing.get_context("fork"))
        executor = self.executor_class(*args, **kwds)
        self._made.append(executor)
        return executor

    def end(self) -> None:
        """Shut down what the test has not."""
        while self._made:
            self._made.pop().shutdown(cancel_futures=True)
