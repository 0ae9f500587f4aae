"""Engines: where the workers of a pool live, what each can do, and what a pool needs of one.

What an engine cannot do is declared here, flag by flag, and raises ``EngineCannot`` when it is asked for;
nothing is silently ignored. ``docs/engines.md`` is made from these flags. ``Engine`` is the contract that
pools, results and feeds rely on, whatever the engine; mypy proves that the engines keep it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from glasspool.errors import EngineCannot, EngineUnavailable

if TYPE_CHECKING:
    import threading
    from collections import deque
    from collections.abc import Callable, MutableMapping, Sequence
    from multiprocessing.process import BaseProcess

    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.engines.intake import Intake
    from glasspool.engines.local.callables import Callables
    from glasspool.engines.local.outputs import Outputs
    from glasspool.engines.local.rounds import Round
    from glasspool.engines.local.showing import Showing
    from glasspool.feeding import Feed
    from glasspool.latch import Latch
    from glasspool.ledger import Task
    from glasspool.options import PoolOptions
    from glasspool.snapshot import DeathCertificate

LOCAL, DASK, RAY = "local", "dask", "ray"
NAMES = (LOCAL, DASK, RAY)


class Capabilities(NamedTuple):
    """What an engine can do, flag by flag.

    Attributes:
        name: The engine's.
        start_methods: How workers may be started; the first one is the default of a cluster.
        addresses: ``address=`` says which cluster.
        per_node: ``processes_per_node=``.
        elastic: Nodes that come are given workers, and those that go lose them.
        guided_maps: Maps without a chunk size have chunks by what items take.
        lends: A synchronous ``apply`` takes a worker for itself, past the pool's threads.
        own_processes: A subclass or a context may bring its own class of processes.
        handles: ``pool._pool`` has the workers' processes.
        run_on_all: ``run_on_all()``.
        records: ``record=``, ``report()`` and ``trace()``.
        stall_watch: ``stall_after=``: the pool warns when nothing moves.
        cell_output: What tasks print in a notebook appears in the cell that called.
        captures_output: ``capture_output=``.
        forwards_logs: ``forward_logs=``: records that are logged in workers come to the program.
    """

    name: str
    start_methods: tuple[str, ...]
    addresses: bool
    per_node: bool
    elastic: bool
    guided_maps: bool
    lends: bool
    own_processes: bool
    handles: bool
    run_on_all: bool
    records: bool
    stall_watch: bool
    cell_output: bool
    captures_output: bool
    forwards_logs: bool


_ON_CLUSTERS = Capabilities(
    name="",
    start_methods=("forkserver", "spawn"),
    addresses=True,
    per_node=True,
    elastic=True,
    guided_maps=False,
    lends=False,
    own_processes=False,
    handles=False,
    run_on_all=True,
    records=True,
    stall_watch=False,
    cell_output=False,
    captures_output=True,
    forwards_logs=True,
)

CAPABILITIES: dict[str, Capabilities] = {
    LOCAL: Capabilities(
        name=LOCAL,
        start_methods=("fork", "forkserver", "spawn"),
        addresses=False,
        per_node=False,
        elastic=False,
        guided_maps=True,
        lends=True,
        own_processes=True,
        handles=True,
        run_on_all=True,
        records=True,
        stall_watch=True,
        cell_output=True,
        captures_output=True,
        forwards_logs=True,
    ),
    DASK: _ON_CLUSTERS._replace(name=DASK),
    RAY: _ON_CLUSTERS._replace(name=RAY),
}

ON_THREADS = CAPABILITIES[LOCAL]._replace(
    name="a ThreadPool",
    start_methods=(),
    lends=False,
    own_processes=False,
    run_on_all=False,
    records=False,
    stall_watch=False,
)
"""What a ``ThreadPool`` can do: it is a class of its own, and its engine is not asked for by name."""

_INSTEAD: dict[str, str] = {
    "start_methods": "its processes have threads, beside which nothing may fork. Leave context= out, or give",
    "addresses": f"it is this machine. With an address, give engine= as well: {DASK!r} or {RAY!r}",
    "per_node": "it has one node. Use processes=",
    "own_processes": "workers are started by processes of the cluster. Prepare them by initializer=",
    "handles": "its workers are no children of this process. inspect().workers has them, with node and pid",
    "run_on_all": "initializer= is called in each worker, also in those that come later",
    "records": "each node keeps its own records. inspect() and stats() tell of all nodes",
    "stall_watch": "nobody watches several nodes at once. timeout= bounds each task; leave stall_after= out",
    "captures_output": "what tasks write is in the logs of the cluster's processes",
    "forwards_logs": "what workers log is in the logs of the cluster's processes. Leave it out",
}
"""For each flag that may be asked for: why not, and what there is in its place."""


def require(can: Capabilities, flag: str, what: str) -> None:
    """Refuse what an engine cannot do.

    Raises:
        EngineCannot: The flag is not set.
    """
    if not getattr(can, flag):
        where = f"engine={can.name!r}" if can.name in NAMES else can.name
        raise EngineCannot(f"{what}: not with {where}, as {_INSTEAD[flag]}.")


def require_start(can: Capabilities, method: str) -> None:
    """Refuse a start method that an engine does not have.

    Raises:
        EngineCannot: It does not.
    """
    if method not in can.start_methods:
        why = f"{_INSTEAD['start_methods']} one of: {', '.join(can.start_methods)}"
        raise EngineCannot(
            f"workers started by {method} (context=): not with engine={can.name!r}, as {why}."
        )


def named(engine: Any, address: Any) -> tuple[str, Any]:
    """Return an engine's name and the address of its cluster, from what a pool was told.

    A ``dask.distributed.Client`` may stand for both.

    Raises:
        EngineUnavailable: There is no such engine.
        EngineCannot: The engine takes no address.
    """
    if not isinstance(engine, str) and type(engine).__module__.partition(".")[0] == "distributed":
        engine, address = DASK, engine if address is None else address
    if engine not in NAMES:
        raise EngineUnavailable(f"there is no engine {engine!r}; there is: {', '.join(NAMES)}")
    if address is not None:
        require(CAPABILITIES[engine], "addresses", f"address={address!r}")
    return str(engine), address


class Engine(Protocol):
    """What a pool, its results, its feeds and its views need of an engine.

    What is read here may be read by any thread; what is called may be called by any, and does not block
    unless it says so. ``collector`` is the part that owns the ledger: everybody hands in what he has for it
    by its mailbox.
    """

    on_shutdown: Callable[[Any], None] | None
    on_disposed: Callable[[Any], None] | None

    # What it is: fixed when it is made.
    @property
    def can(self) -> Capabilities: ...
    @property
    def is_cluster(self) -> bool: ...
    @property
    def is_threads(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def made_at(self) -> str: ...
    @property
    def options(self) -> PoolOptions: ...
    @property
    def start_method(self) -> str: ...
    @property
    def maxtasksperchild(self) -> int | None: ...
    @property
    def initializer(self) -> str | None: ...

    # Its state.
    @property
    def size(self) -> int: ...
    @property
    def places(self) -> int: ...
    @property
    def done(self) -> Latch: ...
    @property
    def is_usable(self) -> bool: ...
    @property
    def cut_short(self) -> bool: ...
    @property
    def deaths(self) -> deque[DeathCertificate]: ...
    @property
    def died_in_all(self) -> int: ...
    @property
    def callers(self) -> dict[int, tuple[str, float]]: ...
    @property
    def feeders(self) -> MutableMapping[threading.Thread, Feed]: ...
    @property
    def owed(self) -> dict[Any, None]: ...
    @property
    def calling_back(self) -> Any: ...
    @property
    def threads(self) -> dict[str, threading.Thread]: ...

    # Its parts.
    @property
    def collector(self) -> Intake: ...
    @property
    def callables(self) -> Callables: ...
    @property
    def outputs(self) -> Outputs | None: ...
    @property
    def showing(self) -> Showing: ...
    @property
    def next_id(self) -> Callable[[], int]: ...

    # Work.
    def submit(self, task: Task) -> None: ...
    def submit_all(self, tasks: Sequence[Task]) -> None: ...
    def submit_failed(self, task: Task, error: BaseException) -> None: ...
    def forget_callable(self, number: int) -> None: ...
    def where(self, task: Task) -> RemoteNode | None: ...
    def call_back(self, job: Any) -> None: ...
    def is_callback_thread(self) -> bool: ...
    def run_on_all(self, function: Callable[[], object]) -> Round: ...

    # Life. ``join_threads`` and ``join_callbacks`` block; ``resize`` may, for the start of processes.
    def resize(self, size: int) -> None: ...
    def close(self) -> None: ...
    def terminate(self, why: str = ...) -> None: ...
    def give_up(self) -> None: ...
    def drain(self) -> None: ...
    def nudge(self) -> None: ...
    def before_waiting(self) -> None: ...
    def join_threads(self) -> None: ...
    def join_callbacks(self) -> None: ...
    def join_words(self) -> None: ...
    def abandon_in_child(self) -> None: ...

    # Being seen.
    def os_name(self, role: str) -> str: ...
    def own_threads(self) -> dict[threading.Thread, tuple[tuple[str, ...], str]]: ...
    def processes(self) -> list[BaseProcess]: ...
