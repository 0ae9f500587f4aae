"""Snapshots as text: aligned, complete, harmless, and within the given width."""

import io
import sysconfig
from dataclasses import replace

import pytest
from rich.cells import cell_len

from glasspool.snapshot import (
    DeathCertificate,
    Evidence,
    Frame,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
)
from glasspool.views import table

STACK = (
    Frame("/home/somebody/words.py", 12, "<module>"),
    Frame(sysconfig.get_path("stdlib") + "/threading.py", 300, "Condition.wait"),
    Frame("/opt/lib/python3/site-packages/numpy/linalg.py", 7, "solve"),
)
TASK = TaskInfo(
    id=12, job=3, function="words.count", state="running", index=1, items=25, item=7, slot=0
)


def thread(pid, name, native_id, roles, state, **more):
    return ThreadInfo(pid, "process", name, native_id, tuple(roles), state, **more)


def worker(slot, state="idle", doing="waiting for work", **more):
    pid = 2000 + slot
    main = thread(pid, "MainThread", pid, ["task"], doing, is_main=True, cpu_s=0.25, **more)
    return ProcessInfo(pid, f"Worker-{slot}", "worker", (main,), state, slot=slot)


def parent(**more):
    threads = (
        thread(1000, "MainThread", 1000, ["main", "caller"], "waiting in Pool.map()", **more),
        thread(1000, "glasspool-1 worker-handler", 1001, ["worker-handler"], "watching workers"),
        thread(
            1000,
            "glasspool-1 task-handler+result-handler",
            1002,
            ["task-handler", "result-handler"],
            "waiting for results",
            pool="glasspool-1",
        ),
        thread(1000, "blas", 1003, ["native"], "sleeping in futex", python=False),
    )
    return ProcessInfo(1000, "MainProcess", "parent", threads, "running", cpu_s=1.5)


def snapshot(*processes, **more):
    values = {"size": 4, "start_method": "fork", "stats": {"waiting": 3, "done": 9}, **more}
    pool = PoolInfo("glasspool-1", "glasspool.Pool", 1000, tuple(processes), **values)
    return Snapshot((pool,), taken_at=0.0)


BUSY = snapshot(
    parent(),
    worker(0, "busy", "running", task=TASK, since_s=2.5),
    worker(1),
    worker(2),
    worker(3),
)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_every_line_fits_and_no_role_or_state_is_cut(width):
    """At every width all roles and states can be read; only names are shortened."""
    text = table.snapshot_text(BUSY, width=width)
    assert max(map(cell_len, text.splitlines())) <= width
    squeezed = " ".join(text.split())
    for word in (
        "main, caller",
        "worker-handler",
        "task-handler,",
        "result-handler",
        "native",
        "waiting in Pool.map()",
        "watching workers",
        "waiting for results",
        "sleeping in futex",
    ):
        assert word in squeezed
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_names_are_whole_where_there_is_room():
    """Only a narrow table cuts names, and says so by an ellipsis."""
    assert "glasspool-1 task-handler+result-handler" in table.snapshot_text(BUSY, width=140)
    assert "…" in table.snapshot_text(BUSY, width=80)


def test_columns_are_aligned():
    """The states of all rows begin in the column of their heading."""
    lines = table.snapshot_text(BUSY, width=120).splitlines()
    start = next(line for line in lines if "STATE" in line).index("STATE")
    for state in ("waiting in Pool.map()", "watching workers", "sleeping in futex"):
        assert next(line for line in lines if state in line).index(state) == start


def test_the_headline_tells_of_the_pool():
    """Name, kind, size, start method, state and counters stand on top."""
    head = " ".join(table.snapshot_text(BUSY, width=100).splitlines()[:2])
    for word in ("glasspool-1", "glasspool.Pool", "4 workers", "fork", "waiting 3", "done 9"):
        assert word in head


def test_a_running_task_is_told_with_item_and_duration():
    """Task, function, item and since stand with the thread that runs it."""
    text = " ".join(table.snapshot_text(BUSY, width=160).split())
    assert "running: task 12 words.count item 8 of 25, for 2.5 s" in text


def test_workers_that_look_the_same_are_folded():
    """Three idle workers share one entry with a count; `fold=False` lists each."""
    folded = table.snapshot_text(BUSY, width=100)
    assert "worker 1-3 (3 ×)" in folded
    assert folded.count("waiting for work") == 1
    unfolded = table.snapshot_text(BUSY, width=100, fold=False)
    assert unfolded.count("waiting for work") == 3
    assert "2003" in unfolded


@pytest.mark.parametrize(
    "other",
    [
        worker(2, "busy"),
        worker(2, doing="running"),
        worker(2, task=TASK),
        worker(2, stack=STACK),
    ],
)
def test_workers_that_differ_are_not_folded(other):
    """Another state, task or a stack keeps a worker apart."""
    assert "×" not in table.snapshot_text(snapshot(worker(1), other), width=100)


def test_stacks_stand_below_their_thread_outermost_first():
    """Frames follow their thread's row, with short paths, innermost last."""
    lines = table.snapshot_text(snapshot(parent(stack=STACK)), width=80).splitlines()
    at = next(n for n, line in enumerate(lines) if "MainThread" in line)
    assert "(from the operating system, just now)" in lines[at + 1]
    assert [line.split()[-1] for line in lines[at + 2 : at + 5]] == [
        "<module>",
        "Condition.wait",
        "solve",
    ]
    assert " threading.py:300" in lines[at + 3]
    assert " numpy/linalg.py:7" in lines[at + 4]
    assert "worker-handler" in lines[at + 5]


def test_a_long_path_is_cut_at_its_beginning():
    """The file's name and line are never cut away."""
    deep = Frame("/" + "very/deep/" * 20 + "file.py", 77, "work")
    text = table.snapshot_text(snapshot(parent(stack=(deep,))), width=80)
    line = next(line for line in text.splitlines() if "file.py" in line)
    assert line.endswith("deep/file.py:77  work")
    assert "…" in line
    assert cell_len(line) <= 80


def test_names_cannot_write_to_the_terminal():
    """Escape codes, newlines and markup in names are shown, not obeyed."""
    evil = thread(1000, "\x1b[31m[bold]a\nb", 1000, ["main"], "state\x1b[2J")
    text = table.snapshot_text(
        snapshot(ProcessInfo(1000, "p\x07", "parent", (evil,))), width=100, color=False
    )
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]a?b" in text


def test_deaths_and_notes_are_told():
    """Certificates, dead workers and what could not be seen stand below the tree."""
    death = DeathCertificate(2000, 0, "was killed by SIGKILL", task=TASK, signal=9)
    dead = ProcessInfo(2000, "Worker-0", "worker", state="dead", exitcode=-9, slot=0)
    shown = snapshot(dead, deaths=(death,), notes=("No stacks of workers.",))
    text = " ".join(table.snapshot_text(shown, width=100).split())
    assert "dead: was killed by SIGKILL" in text
    assert "worker 0 (pid 2000) was killed by SIGKILL while it ran task 12" in text
    assert "No stacks of workers." in text


def test_the_parents_threads_are_shown_with_their_own_pool():
    """In a snapshot of two pools the second one lists no thread that serves the first."""
    second = PoolInfo("glasspool-2", "glasspool.Pool", 1000, (parent(),), size=1)
    text = table.snapshot_text(Snapshot((*BUSY.pools, second), 0.0), width=140)
    assert text.count("glasspool-1 task-handler") == 1
    assert text.count("watching workers") == 1


def test_color_is_only_used_where_it_is_asked_for(monkeypatch):
    """A terminal gets colours unless NO_COLOR objects; other files never do."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal, file = Terminal(), io.StringIO()
    table.print_snapshot(BUSY, terminal)
    table.print_snapshot(BUSY, file)
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b" not in file.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    quiet = Terminal()
    table.print_snapshot(BUSY, quiet)
    assert "\x1b" not in quiet.getvalue()


def test_columns_in_the_environment_set_the_width(monkeypatch):
    """COLUMNS is obeyed, on a terminal and off it."""
    monkeypatch.setenv("COLUMNS", "80")
    file = io.StringIO()
    table.print_snapshot(BUSY, file)
    assert file.getvalue().rstrip("\n") == table.snapshot_text(BUSY, width=80)
    assert str(BUSY) == table.snapshot_text(BUSY, width=80)


def test_a_file_that_lacks_the_signs_gets_plain_ones():
    """An ASCII file is written without an error."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    table.print_snapshot(BUSY, file)
    file.flush()
    assert b"`- MainThread" in raw.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.0, "0 s"),
        (0.00025, "250 µs"),
        (0.35, "350 ms"),
        (0.9999, "1.0 s"),
        (12.34, "12.3 s"),
        (240.0, "4 min"),
        (9000.0, "2.5 h"),
    ],
)
def test_durations_for_people(seconds, words):
    """Durations have one unit and at most three digits that matter."""
    assert table.duration(seconds) == words


def test_tasks_threads_and_certificates_have_their_tables():
    """Each value has a rendering of its own that fits the width."""
    done = TaskInfo(None, 3, "words.count", "done", index=4, pid=2000, run_s=1.5)
    tasks = table.tasks_text([TASK, done], width=80)
    assert "12" in tasks
    assert "3.4" in tasks
    assert "words.count (25 items)" in tasks
    assert table.tasks_text([]) == "no tasks"
    threads = table.threads_text(BUSY.threads, width=80)
    assert "worker-handler" in threads
    death = DeathCertificate(
        2000, 0, "was killed by SIGKILL", task=TASK, signal=9, advice="look " * 40, pool="p"
    )
    certificate = table.certificate_text(death, width=80)
    assert "words.count" in certificate
    for text in (tasks, threads, certificate):
        assert max(map(cell_len, text.splitlines())) <= 80


FULL = DeathCertificate(
    2000,
    0,
    "was killed by SIGKILL",
    task=replace(TASK, arguments="(5, 'x')", items=1, run_s=3.2),
    signal=9,
    exitcode=-9,
    attempts=2,
    attempts_allowed=3,
    advice="Try fewer workers.",
    peak_memory_bytes=3_100_000_000,
    oom_likely=True,
    oom_evidence="its cgroup counts one OOM kill more",
    stack=(Frame("work.py", 3, "outer"), Frame("work.py", 9, "inner")),
    stack_age_s=1.5,
    stack_source="self",
    last_log=("INFO app: one", "WARNING app: two"),
    last_output=("printed",),
)


def test_all_that_is_known_of_a_death_has_its_row():
    """Memory, the OOM killer, the stack with its source and age, and the last words."""
    told = " ".join(table.certificate_text(FULL, width=120).split())
    for words in (
        "peak memory 3.1 GB",
        "OOM killer likely: its cgroup counts one OOM kill more",
        "last stack inner (work.py:9) outer (work.py:3) (from self, 1.5 s before)",
        "last log INFO app: one WARNING app: two",
        "last output printed",
        "advice Try fewer workers.",
    ):
        assert words in told


def test_a_full_certificate_is_told_in_six_lines():
    """What happened to whom, the others, memory, where it was, its last word, what to try."""
    assert FULL.text().splitlines() == [
        "worker 0 (pid 2000) was killed by SIGKILL while it ran task 12 (words.count(5, 'x')) "
        "for 3.2 s, attempt 2 of 3.",
        "Other tasks are unharmed; the worker was replaced.",
        "Most likely the kernel's OOM killer did it: its cgroup counts one OOM kill more. "
        "It had up to 3,100 MB.",
        "1.5 s before, it was in inner (work.py:9), called from outer (work.py:3).",
        "The last that it logged: WARNING app: two",
        "Try fewer workers.",
    ]


def test_of_many_deaths_the_last_are_told_in_full():
    """A picture of a pool that lost a hundred workers stays readable."""
    texts = table.deaths_text([FULL] * 100)
    assert len(texts) == 100
    assert [len(text.splitlines()) for text in texts[-6:]] == [1, 6, 6, 6, 6, 6]


@pytest.mark.parametrize("width", [1, 30, 60])
def test_a_narrow_terminal_cuts_nothing(width):
    """Below 72 columns lines are longer than the terminal, but nothing is missing."""
    text = table.snapshot_text(BUSY, width=width)
    assert text == table.snapshot_text(BUSY, width=table.LEAST_COLUMNS)
    for word in ("MainThread", "worker-handler", "result-handler", "watching workers"):
        assert word in text
    assert table.snapshot_text(Snapshot((), 0.0), width=width) == "no pools"


def test_evidence_does_not_change_the_table():
    """Two workers known in different ways still look the same."""
    known = worker(1)
    other = ProcessInfo(
        2002, "Worker-2", "worker", worker(2).threads, "idle", slot=2, evidence=Evidence("py-spy")
    )
    assert "worker 1-2 (2 ×)" in table.snapshot_text(snapshot(known, other), width=100)


def foreign(pid, *, state="idle", doing="waiting for work", **more):
    """A worker of another library's pool, with two native threads."""
    main = thread(pid, "MainThread", pid, ["task"], doing, is_main=True, **more)
    blas = [
        thread(pid, "python", pid + n, ["native"], "sleeping", python=False, library="OpenBLAS")
        for n in (1, 2)
    ]
    return ProcessInfo(pid, f"ForkPoolWorker-{pid}", "worker", (main, *blas), state)


def test_threads_that_look_the_same_are_folded():
    """Native threads of one process share a row with a count and the range of their numbers."""
    text = table.snapshot_text(snapshot(foreign(3000)), width=100)
    (row,) = [line for line in text.splitlines() if "OpenBLAS" in line]
    assert "2 × python" in row
    assert "3001-3002" in row
    assert "OpenBLAS: sleeping" in row
    assert (
        table.snapshot_text(snapshot(foreign(3000)), width=100, fold=False).count("OpenBLAS") == 2
    )


def test_foreign_workers_that_look_the_same_are_folded():
    """They need no slot for that; figures are added."""
    shown = snapshot(foreign(3000, cpu_share=0.25), foreign(3100, cpu_share=0.5))
    text = table.snapshot_text(shown, width=100)
    assert "worker (2 ×)" in text
    assert text.count("waiting for work") == 1
    assert "2 × python" in text
    assert "75 %" in text


def test_processor_time_now_has_a_column_where_it_is_known():
    """A column without a figure is left out."""
    known = snapshot(foreign(3000, cpu_share=0.984))
    assert "98 %" in table.snapshot_text(known, width=80)
    assert "NOW" in table.snapshot_text(known, width=80)
    assert "NOW" not in table.snapshot_text(BUSY, width=80)


def test_roles_that_are_only_inferred_are_marked():
    """A question mark, explained below the tree; what cannot be wrong has none."""
    guess = Evidence("inferred")
    threads = (
        thread(1000, "MainThread", 1000, ["main"], "sleeping", evidence=guess, is_main=True),
        thread(1000, "python", 1001, ["task-handler"], "sleeping", evidence=guess),
        thread(1000, "python", 1002, ["native"], "sleeping", evidence=guess, python=False),
    )
    text = table.snapshot_text(snapshot(ProcessInfo(1000, "parent", "parent", threads)), width=100)
    assert "task-handler?" in text
    assert "main?" not in text
    assert "native?" not in text
    assert "?: inferred from" in text
    assert "inferred" not in table.snapshot_text(BUSY, width=100)


def test_a_task_of_another_library_is_told_by_job_and_index():
    """Job, item or chunk, and arguments that are cut."""
    task = TaskInfo(None, 3, "f", "running", index=4, arguments="(" + "7, " * 80 + ")", pid=3000)
    text = " ".join(table.snapshot_text(snapshot(foreign(3000, task=task)), width=160).split())
    assert "job 3, item 4 f(7, 7," in text
    assert "…" in text
    chunk = replace(task, items=25, arguments=None)
    text = " ".join(table.snapshot_text(snapshot(foreign(3000, task=chunk)), width=160).split())
    assert "job 3, chunk 4 f (25 items)" in text


def test_what_the_kernel_says_stands_with_the_state():
    """In brackets, unless the state says it already."""
    waits = foreign(3000, kernel="futex")
    assert "waiting for work [futex]" in table.snapshot_text(snapshot(waits), width=160)
    asleep = foreign(3000, doing="sleeping in futex", kernel="futex")
    assert "[futex]" not in table.snapshot_text(snapshot(asleep), width=160)


def test_the_headline_tells_of_the_program():
    """Version, age and command line, as far as they are known."""
    told = replace(
        parent(), command="python x.py\x1b[2J", python_version="3.12.1", started_at=100.0
    )
    shown = replace(snapshot(told), taken_at=160.0)
    head = "\n".join(table.snapshot_text(shown, width=100).splitlines()[:2])
    assert "Python 3.12.1" in head
    assert "up 60.0 s" in head
    assert "python x.py?[2J" in head


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (Evidence("self"), "(its own word, just now)"),
        (
            Evidence("py-spy", 0.0123, None, 0.1, False),
            "(read by py-spy, 12 ms old, paused for 100 ms at most, perhaps torn)",
        ),
        (
            Evidence("py-spy", 2.5, None, 0.0, True),
            "(read by py-spy, 2.5 s old, target not paused, whole)",
        ),
        (Evidence("scoreboard"), "(from the scoreboard, just now)"),
    ],
)
def test_each_stack_says_how_it_was_got(evidence, words):
    """By whom, how old, whether the target stood still for it, and whether it is whole."""
    shown = snapshot(foreign(3000, stack=STACK, evidence=evidence))
    assert words in table.snapshot_text(shown, width=100)


def test_workers_with_the_same_stack_share_it():
    """Thirty idle workers print one stack; the age told is that of the oldest reading."""
    young = foreign(3000, stack=STACK, evidence=Evidence("py-spy", 0.010))
    old = foreign(3100, stack=STACK, evidence=Evidence("py-spy", 0.090))
    text = table.snapshot_text(snapshot(young, old), width=100)
    assert text.count("Condition.wait") == 1
    assert "90 ms old" in text


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/opt/x/lib/python3.14t/threading.py", "threading.py"),
        ("/v/lib/python3.9/site-packages/a/b.py", "a/b.py"),
        ("/home/lib/python.py", "/home/lib/python.py"),
    ],
)
def test_libraries_of_another_interpreter_are_shortened_too(path, short):
    """The program that is looked at may run on another Python than the one that looks."""
    assert table.short_path(path) == short


def test_a_worker_that_runs_a_pool_of_its_own_is_told_in_two_parts():
    """Its threads for that pool stand with that pool, the thread of its task with the first one."""
    helper = thread(2000, "Thread-1", 2009, ["task-handler"], "waiting", pool="inner")
    outer = worker(0, "busy", "running")
    both = replace(outer, threads=(replace(outer.threads[0], pool="outer"), helper))
    pools = (
        PoolInfo("outer", "multiprocessing.Pool", 1000, (parent(), both), size=1),
        PoolInfo("inner", "multiprocessing.Pool", 2000, (replace(both, role="parent"),), size=1),
    )
    text = table.snapshot_text(Snapshot(pools, 0.0), width=100)
    assert text.count("2009") == 1
    first, _, second = text.partition("\ninner")
    assert "2000  task" in " ".join(first.split()).replace("2000 task", "2000  task")
    assert "2009" in second
