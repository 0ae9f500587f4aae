"""What a list of running pools says of each."""

from __future__ import annotations

from dataclasses import dataclass

from glasspool.snapshot import Evidence


@dataclass(frozen=True, slots=True)
class Listing:
    """One pool in the list of running pools, or one file that is none: ``problem`` says why.

    ``state`` is ``running`` or ``stale``, empty where there is a problem of another kind. ``busy``
    and ``idle`` count workers, ``done`` counts finished tasks of the workers that live; None: not known.
    ``evidence`` tells how kind and counts were found out; ``path`` is the scoreboard of a pool of ours.
    """

    name: str
    path: str
    pid: int | None = None
    kind: str = "glasspool.Pool"
    state: str = ""
    size: int = 0
    busy: int | None = 0
    idle: int | None = 0
    done: int | None = 0
    made_at: str | None = None
    started_at: float | None = None
    command: str | None = None
    problem: str | None = None
    evidence: Evidence | None = None
