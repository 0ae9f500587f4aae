"""What of the programs here is otherwise on a cluster, and why: the one table of it.

``docs/engines.md`` is made from it, too.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """A test that clusters do not share.

    Attributes:
        test: Its name.
        why: Why a cluster cannot do it, or does it in another way.
        instead: The test in ``test_conformance_clusters`` that shows what a cluster does; "" if none.
    """

    test: str
    why: str
    instead: str = ""


_HANDLES = "workers are children of other machines' processes: `_pool` raises, `inspect()` has them"
_OWN = "a class of processes is the program's own, and workers are started by other processes"
_FORK = "workers are started by processes with threads, which must not fork themselves"
_PLACE = "is about processes of this machine, and the same for each engine"

_NAMES = (
    "a worker's number follows that of the process of its node, which may itself be one of many"
)

DIFFERENCES = (
    Difference("test_name_of_a_worker", _NAMES, "test_numbers_of_workers"),
    Difference("test_identity_of_a_worker", _NAMES, "test_numbers_of_workers"),
    Difference("test_identities_differ", "each node counts its workers from 1"),
    Difference("test_a_worker_is_daemonic", _HANDLES, "test_workers_seen_from_inside"),
    Difference("test_parent_of_a_worker", "the parent is a process of its node", ""),
    Difference("test_pid_of_a_worker", _HANDLES, "test_workers_seen_from_inside"),
    Difference("test_active_children", _HANDLES, "test_no_children_here"),
    Difference("test_processes_of_a_pool", _HANDLES, "test_size_without_handles"),
    Difference("test_subclass_that_makes_its_own_processes", _OWN, "test_own_processes"),
    Difference("test_context_that_makes_its_own_processes", _OWN, "test_own_processes"),
    Difference("test_workers_are_gone_after_join", _HANDLES, "test_workers_are_gone"),
    Difference("test_never_closed", "made without a context", "test_forgotten_while_it_runs"),
    Difference(
        "test_default_size", "as many as the cluster has processors", "test_size_of_a_cluster"
    ),
    Difference(
        "test_submit_after_the_end", "on one pool, as each takes a while", "test_submit_after"
    ),
    Difference("test_globals_are_inherited_under_fork", _FORK, "test_fork_is_refused"),
    Difference("test_initializer_may_be_a_lambda_under_fork", _FORK, "test_initializer_by_value"),
    Difference("test_made_by_a_manager", _PLACE),
    Difference("test_made_in_a_child_process", _PLACE),
    Difference("test_made_in_a_daemonic_process", _PLACE),
)
