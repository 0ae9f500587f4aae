"""Pools of every library in one process; prints what `inspect` finds of them, and what is left later."""

import importlib.util
import json
import multiprocessing
import multiprocessing.pool
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import staging

import glasspool


def main() -> None:
    staging.begin()
    context = multiprocessing.get_context("fork")
    pools = [glasspool.Pool(1, context=context), context.Pool(1)]
    made = ["glasspool.Pool", "multiprocessing.Pool"]
    for name in ("multiprocess", "billiard"):
        if importlib.util.find_spec(name):
            pools.append(importlib.import_module(name).get_context("fork").Pool(1))
            made.append(f"{name}.Pool")
    pools.append(multiprocessing.pool.ThreadPool(1))
    made.append("multiprocessing.pool.ThreadPool")
    executors = [ProcessPoolExecutor(1, context), ThreadPoolExecutor(1)]
    made += ["concurrent.futures.ProcessPoolExecutor", "concurrent.futures.ThreadPoolExecutor"]
    if importlib.util.find_spec("loky"):
        executors.append(importlib.import_module("loky").ProcessPoolExecutor(1))
        made.append("loky")
    for pool in pools:
        pool.apply(staging.touch, (1,))
    for executor in executors:
        executor.submit(staging.touch, 1).result()
    event = threading.Event()
    mine = threading.Thread(target=event.wait, name="mine")
    mine.start()

    told = glasspool.inspect().to_dict()
    told["native_ids"] = [int(tid) for tid in os.listdir("/proc/self/task")]
    told["made"] = made
    event.set()
    mine.join()
    for pool in pools:
        pool.terminate()
        pool.join()
    for executor in executors:
        executor.shutdown()
    told["left"] = [pool.name for pool in glasspool.inspect().pools]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
