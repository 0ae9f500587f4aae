"""Called in workers by ``test_cluster_tls``."""

from __future__ import annotations

import psutil


def ports(_: int) -> list[int]:
    """Return the ports on which the worker, and what it comes from up to the agent, listen."""
    found: list[int] = []
    process: psutil.Process | None = psutil.Process()
    for _generation in range(2):  # the worker, and the process that starts workers
        if process is None:
            break
        told = process.net_connections("inet")
        found += [one.laddr.port for one in told if one.status == psutil.CONN_LISTEN]
        process = process.parent()
    return found
