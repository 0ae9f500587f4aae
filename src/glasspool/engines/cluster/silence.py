"""Silence: what is thought of a node whose agent does not answer.

The cluster's library tells of nodes that are lost, each in its own time (Ray after some health checks
in a row, Dask after the connection has broken or ``worker-ttl``). It does not notice an agent that is alive
and does nothing: stopped, or without memory to go on. So each agent is asked for its clock from time to time;
one that has not answered for a while is shown as silent and is given nothing more, and one that has not
answered for much longer counts as lost. A task on it could wait for ever otherwise.

An agent answers from the loop of its actor, which runs no code of the user's: it is never busy for so long.
"""

from __future__ import annotations

import os
import time

from glasspool.engines.cluster.nodes import RemoteNode

VARIABLE = "GLASSPOOL_NODE_TIMEOUT"
"""The variable of the environment that says after how many seconds of silence a node counts as lost."""

LIMIT_S = 120.0

PING_S = 10.0
"""A node is asked so often."""

LATE_S = 2.0
"""Who looks so much later than was due has been away itself (a laptop that slept): silence proves nothing."""


class Silence:
    """How long nodes may be silent, as the program's environment says. The dispatcher's."""

    def __init__(self) -> None:
        self.limit_s: float = _limit_s()
        self.ping_s: float = min(PING_S, self.limit_s / 5)

    def look(self, node: RemoteNode, due: float) -> bool:
        """Note whether a node is silent, and tell whether it counts as lost.

        Args:
            node: The one to look at.
            due: When this look was due, on the clock of ``time.monotonic()``; 0: it is the first one.
        """
        now = time.monotonic()
        if not due or now - due > LATE_S:
            node.heard_at = now
        quiet_s = now - node.heard_at
        node.is_silent = quiet_s > 2.5 * self.ping_s
        return quiet_s > self.limit_s


def _limit_s() -> float:
    try:
        told = float(os.environ.get(VARIABLE, LIMIT_S))
    except ValueError:
        return LIMIT_S
    return told if told > 0 else LIMIT_S
