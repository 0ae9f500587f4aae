"""Turn recordings of pools into a timeline for Perfetto's viewer, piece by piece. Pure.

Below the program's process stand its threads, then each pool with its numbers, its maps, what waited and
what travelled; then each worker as a process of its own, by slot. Arrows lead from the submission of a task
to its run and on to its result and callback. What is not in a recording is counted on the pool's track, and
told to the viewer, which warns of it. ``docs/timeline.md`` tells users what each track means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glasspool.observe.records import Recording
from glasspool.views.perfetto import Encoder
from glasspool.views.timeline.account import Summary as Summary
from glasspool.views.timeline.account import summary as summary
from glasspool.views.timeline.account import told as told
from glasspool.views.timeline.pools import PoolTrack
from glasspool.views.timeline.threads import Threads
from glasspool.views.timeline.tracks import Tracks


def chunks(recordings: Sequence[Recording]) -> Iterator[bytes]:
    """Return the bytes of a trace in pieces of some 256 KiB.

    Args:
        recordings: What happened in each pool. They may be of several programs of one machine.
    """
    encoder = Encoder()
    first = min(recordings, key=lambda one: one.begun_ns, default=None)
    if first is None:
        return
    encoder.begin_trace(first.begun_ns, first.begun_ns + first.wall_ns)
    tracks = Tracks(encoder, recordings)
    for number, recording in enumerate(recordings):
        for _ in _written(encoder, tracks, recording, number):
            if encoder.is_full:
                yield encoder.take()
    yield encoder.take()


def _written(encoder: Encoder, tracks: Tracks, recording: Recording, number: int) -> Iterator[None]:
    pool = PoolTrack(encoder, tracks, recording)
    threads = Threads(encoder, tracks, recording, pool, number)
    pool.whole()
    yield from threads.program()
    yield from pool.numbers()
    yield from pool.jobs()
    yield from pool.waiting()
    yield from pool.returning()
    yield from threads.workers()
