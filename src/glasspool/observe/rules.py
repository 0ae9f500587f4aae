"""The rules behind advice: each looks at one case, and says at most one thing. Pure.

A rule speaks only where acting on it would change what a person would notice: each threshold stands as a
constant with its reason. What looks alike but is no fault (a pool that waits because the program gives it
nothing to do, native threads that never run, workers that were replaced on purpose) gives no advice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from glasspool.observe.case import Advice, Case, percent
from glasspool.observe.tally import JobTally, gaps_ns, open_time, percentile
from glasspool.snapshot import ProcessInfo, ThreadInfo
from glasspool.views.table import duration, size

SHORT_TASK_S = 1e-3
"""Handing a task to a worker and its result back costs 5 to 200 µs: a task of 1 ms hardly feels that."""

GOOD_TASK_S = 10e-3
"""What a chunk should take: the cost of handing it out is below 2 % then, and the end is still even."""

MANY_TASKS = 1000
"""With fewer tasks, what each of them costs beside its running adds up to some milliseconds only."""

OVERHEAD_PART = 0.5
"""Overhead of half of the running time means that a third of the workers' time could be won."""

STARVED_PART = 0.2
"""A fifth of the workers' time is what another worker in a pool of five would bring."""

DRAWING_PART = 0.5
"""The iterable is what holds the workers up only while its thread spends most of its time in it."""

CALLBACK_PART = 0.5
"""One thread runs all callbacks, one after the other: above half of its time, they wait for each other."""

CALLBACK_LATE_S = 0.1
"""Who waits for a result begins to notice from about a tenth of a second on."""

LATE_PART = 0.05
"""In a long run, being late by less than a twentieth of it changes nothing."""

PICKLING_PART = 0.5
"""Moving data for half as long as the functions run: a third of the time could be won."""

NOTICEABLE_PART = 0.05
"""Below a twentieth of the workers' time nothing is worth a change of the program."""

LARGE_BYTES = 100_000
"""Below that, a message costs about the same whatever its size: then the number of tasks is the cost."""

SATURATED_PART = 0.8
"""Threads compete for processors only where the pool itself keeps most of them busy."""

CROWDED = 1.5
"""So many runnable threads for each processor: up to that, while one waits for a disk another one runs."""

ACTIVE_THREAD_PART = 0.05
"""A native thread that used less than this part of its worker's running time only stands by."""

MEMORY_PART = 0.8
"""Above that, the rest of the machine (and the cache of files) is pressed, and the OOM killer near."""

TAIL_PART = 0.2
"""The part of the workers' time during a job that they stood idle at its end: as for starved ones."""

LEAST_LOSS_S = 0.5
"""What is lost altogether has to be as long as that, or nobody would notice its end."""

LEAST_OVERHEAD_S = 0.1
"""A run that is shorter by less than a tenth of a second is the same run to a person."""

UNUSED_PART = 0.25
"""A quarter of the workers without a single task: they cost memory and their start for nothing."""

START_PART = 0.25
"""A quarter of the workers' lives before their first task."""

QUEUE_BYTES = 256 * 1000 * 1000
"""So many bytes of waiting arguments are more than what the pool itself takes, by far."""

QUEUE_PART = 0.1
"""... or a tenth of the machine's memory, if that is less."""


# The rules ----------------------------------------------------------------------------------------


def _starved(case: Case) -> Advice | None:
    work = case.work
    if work.starved_s < STARVED_PART * work.worker_s or work.starved_s < LEAST_LOSS_S:
        return None
    if work.drawing_s * case.workers < DRAWING_PART * work.worker_s:
        return None
    return Advice(
        "starved-by-iterable",
        "The workers wait for the iterable: it gives its items slower than they are worked on.",
        f"its thread drew items for {duration(work.drawing_s)}; meanwhile the workers were idle for "
        f"{duration(work.starved_s)} of {_of(work.worker_s, case.workers, case.unit)} "
        f"({percent(work.starved_s, work.worker_s)})",
        "Let the iterable give what is cheap (paths, numbers, offsets), and do the reading and parsing in "
        "the task; or use fewer workers: more of them cannot help.",
        case.recording.pool,
    )


def _too_small(case: Case) -> Advice | None:
    if case.tasks < MANY_TASKS or case.mean_run_s >= SHORT_TASK_S:
        return None
    overhead_s = _overhead_s(case)
    if overhead_s < OVERHEAD_PART * case.mean_run_s or case.bytes_per_task >= LARGE_BYTES:
        return None
    if overhead_s * (case.tasks + case.recording.lost) / case.workers < LEAST_OVERHEAD_S:
        return None
    items = sum(one.items for one in case.functions) / case.tasks
    chunk = max(2, round(items * GOOD_TASK_S / max(case.mean_run_s, 1e-6)))
    return Advice(
        "chunks-too-small",
        "The tasks are so short that handing them out takes longer than it should.",
        f"{case.tasks:,} tasks ran for {duration(case.mean_run_s)} on average; each took "
        f"{duration(overhead_s)} more of a worker's time "
        f"({percent(overhead_s, overhead_s + case.mean_run_s)} of it)",
        f"Hand out more at a time: map, or imap with chunksize={_round(chunk):,} or so, so that a task "
        "takes some 10 ms. A map without chunksize finds it out by itself.",
        case.recording.pool,
    )


def _overhead_s(case: Case) -> float:
    """Return what a task takes of a worker's time beside its running, on average, while there is work.

    There is work from the submission of a task until its result is there; more workers than tasks have
    none. If nobody knows when tasks were submitted, what lies between two tasks of a worker tells: where it
    is longer than a message ever takes, the worker waited for the program, and if that is so most of the
    time, the overhead is nobody's concern.
    """
    tasks = case.recording.tasks
    open_ns, at_once = open_time(tasks)
    if open_ns:
        busy = min(float(case.workers), at_once)
        return max(0.0, open_ns / 1e9 * busy / len(tasks) - case.mean_run_s)
    gaps = gaps_ns(tasks)
    short = [gap for gap in gaps if gap < SHORT_TASK_S * 1e9]
    return sum(short) / len(short) / 1e9 if short and len(short) >= len(gaps) / 2 else 0.0


def _pickling(case: Case) -> Advice | None:
    time = case.sum.time
    packing_s = (
        sum(
            span.ended_ns - span.begun_ns
            for span in case.recording.spans
            if span.kind in ("pickling", "unpickling")
        )
        / 1e9
    )
    moving_s = time.receiving_s + time.sending_s + packing_s
    if moving_s < PICKLING_PART * time.running_s or moving_s < LEAST_LOSS_S:
        return None
    if moving_s < NOTICEABLE_PART * case.sum.wall_s or case.bytes_per_task < LARGE_BYTES:
        return None
    return Advice(
        "pickling-dominates",
        "Much of the time goes into moving arguments and results, not into the functions.",
        f"{duration(moving_s)} for pickling, sending and rebuilding "
        f"({size(round(case.bytes_per_task))} a task), against {duration(time.running_s)} of running",
        "Send less: a path or an index for what the worker can read itself, data that all tasks need in "
        "the initializer, sums rather than rows as results. NumPy arrays travel in one copy, lists of "
        "Python objects are pickled one by one.",
        case.recording.pool,
    )


def _callbacks(case: Case) -> Advice | None:
    spans = [span for span in case.recording.spans if span.kind == "callback"]
    if not spans:
        return None
    busy_s = sum(span.ended_ns - span.begun_ns for span in spans) / 1e9
    begun = min(span.begun_ns for span in spans)
    window_s = (max(span.ended_ns for span in spans) - begun) / 1e9
    late_s = _lateness_s(case)
    if busy_s < CALLBACK_PART * window_s or busy_s < LEAST_LOSS_S or late_s is None:
        return None
    if late_s < max(CALLBACK_LATE_S, LATE_PART * window_s):
        return None
    name = Counter(span.function for span in spans).most_common(1)[0][0]
    return Advice(
        "callback-blocking",
        "The callbacks are slow: results wait for them, one after the other.",
        f"{len(spans):,} callbacks{f' ({name})' if name else ''} took {duration(busy_s)} of "
        f"{duration(window_s)} on the one thread that runs them; one result in 20 waited "
        f"{duration(late_s)} or more for its turn",
        "Do the work in the task, or have the callback only put the result into a queue that a thread of "
        "the program's reads.",
        case.recording.pool,
    )


def _lateness_s(case: Case) -> float | None:
    """Return how long the slowest twentieth of the results waited for their callback to begin."""
    received: dict[int, int] = {}
    for task in case.recording.tasks:
        if task.job is not None and task.received_ns is not None:
            received[task.job] = max(received.get(task.job, 0), task.received_ns)
    by_task = {t.task: t.received_ns for t in case.recording.tasks if t.received_ns is not None}
    late = []
    for span in case.recording.spans:
        if span.kind != "callback":
            continue
        came = received.get(span.job) if span.job is not None else None
        came = by_task.get(span.task) if came is None and span.task is not None else came
        if came is not None:
            late.append(max(0, span.begun_ns - came) / 1e9)
    return percentile(sorted(late), 0.95)


def _crowded(case: Case) -> Advice | None:
    picture, window_s = case.picture, case.work.worker_s / case.workers
    if picture is None or window_s < LEAST_LOSS_S:
        return None
    used_s = sum(worker.cpu_s or 0.0 for worker in picture.workers)
    active = [one for worker in picture.workers for one in _active(worker)]
    saturated = used_s >= SATURATED_PART * case.processors * window_s
    if not saturated or len(active) <= CROWDED * case.processors:
        return None
    native = sum(not one.python for one in active)
    libraries = Counter(one.library for one in active if one.library).most_common(1)
    whose = f", {native} of them native" if native else ""
    whose += f" ({libraries[0][0]})" if libraries else ""
    fewer = max(1, case.processors * len(picture.workers) // len(active))
    remedy = (
        "Let each worker have one native thread (OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 before the "
        f"libraries are imported), or make the pool with processes={fewer}."
        if native
        else f"Make the pool with processes={case.processors}: more only take memory and each "
        "other's caches."
    )
    return Advice(
        "oversubscription",
        "More threads compute than there are processors.",
        f"{len(active)} busy threads in {len(picture.workers)} workers{whose}, on {case.processors} "
        f"processors, which they kept busy ({duration(used_s)} of processor time in "
        f"{duration(window_s)})",
        remedy,
        case.recording.pool,
    )


def _active(worker: ProcessInfo) -> list[ThreadInfo]:
    """Return the threads of a worker that do more than stand by."""
    least_s = ACTIVE_THREAD_PART * max(worker.busy_s, 1.0)
    return [
        thread
        for thread in worker.threads
        if (thread.is_main if thread.cpu_s is None else thread.cpu_s >= least_s)
    ]


def _memory(case: Case) -> Advice | None:
    if case.picture is None or not case.memory_bytes:
        return None
    taken = sum(worker.rss_bytes or 0 for worker in case.picture.workers)
    if taken < MEMORY_PART * case.memory_bytes:
        return None
    return Advice(
        "memory",
        "The workers take most of the memory that there is.",
        f"{len(case.picture.workers)} workers have {size(taken)} resident (what they share with their "
        f"parent counts for each), of {size(case.memory_bytes)}",
        "Use fewer workers, or max_memory=, which replaces a worker that has grown; load what all need "
        "before the pool is made, so that fork shares it.",
        case.recording.pool,
    )


def _tail(case: Case) -> Advice | None:
    idle_s = whole_s = 0.0
    worst: tuple[float, JobTally] | None = None
    for job in case.jobs:
        if job.begun_ns is None or job.tasks < 2 * case.workers or case.workers < 2:
            continue
        whole_s += (job.ended_ns - job.begun_ns) * case.workers / 1e9
        idle = sum(job.ended_ns - last for last in job.last_ns.values()) / 1e9
        idle_s += idle
        if job.longest_ns >= 2 * job.run_ns / job.tasks and (worst is None or idle > worst[0]):
            worst = idle, job
    if worst is None or idle_s < TAIL_PART * whole_s or idle_s < LEAST_LOSS_S:
        return None
    job = worst[1]
    alone_s = (job.ended_ns - sorted(job.last_ns.values())[-2:][0]) / 1e9
    return Advice(
        "uneven-work",
        "At the end, most workers have nothing left to do and wait for the last task.",
        f"they were idle for {duration(idle_s)} of {duration(whole_s)} "
        f"({percent(idle_s, whole_s)}); the longest task took {duration(job.longest_ns / 1e9)}, the mean "
        f"is {duration(job.run_ns / job.tasks / 1e9)}, and the last one ran {duration(alone_s)} alone",
        "Hand the longest tasks out first, or cut them up; for a map, a smaller chunksize (or none: then "
        "the pool finds it).",
        case.recording.pool,
    )


def _too_few(case: Case) -> Advice | None:
    if not case.tasks or case.workers < 2:
        return None
    pids = {(task.pid, task.lane) for task in case.recording.tasks if task.pid is not None}
    unused = case.workers - len(pids)
    window_s = case.work.worker_s / case.workers
    if unused < UNUSED_PART * case.workers or window_s < LEAST_LOSS_S:
        return None
    if case.tasks >= 2 * case.workers:
        return None  # there was enough for all, and some were quicker
    items = sum(one.items for one in case.functions)
    few = f"{case.tasks:,} task{'' if case.tasks == 1 else 's'}"
    held = f" with {items:,} items" if items > case.tasks else ""
    return Advice(
        "too-few-tasks",
        f"There are fewer tasks than {case.unit}s.",
        f"{few}{held} for {case.workers} {case.unit}s, in {duration(window_s)}: {unused} never had one",
        "Use a smaller chunksize (or none), so that there are some tasks for each worker."
        if items >= case.workers
        else "Cut the work into smaller tasks, or make the pool with "
        f"{'processes' if case.lanes == 1 else 'processes * threads'}={len(pids)}.",
        case.recording.pool,
    )


def _slow_start(case: Case) -> Advice | None:
    time, wall_s = case.sum.time, case.sum.wall_s
    before_s = time.start_s + time.initializer_s
    if before_s < START_PART * wall_s or before_s < LEAST_LOSS_S * case.sum.workers:
        return None
    method = case.picture.start_method if case.picture is not None else None
    is_initializer = time.initializer_s >= time.start_s
    most = time.initializer_s if is_initializer else time.start_s
    name = (case.picture.initializer if case.picture is not None else None) or "the initializer"
    what = name if is_initializer else f"starting ({method})" if method else "starting"
    return Advice(
        "slow-start",
        "The workers spend much of their lives on getting ready.",
        f"{duration(before_s)} of {_of(wall_s, case.sum.workers)} ({percent(before_s, wall_s)}) before "
        f"the first task, {duration(most)} of it in {what}",
        "Keep one pool for the whole program; load what all workers need before the pool is made (under "
        "fork they share it), or lazily, in the first task that needs it."
        if is_initializer
        else "Keep one pool for the whole program; under spawn and forkserver each worker imports the main "
        "module again: keep it light, or use multiprocessing.set_forkserver_preload.",
        case.recording.pool,
    )


def _deaths(case: Case) -> Advice | None:
    stats = case.picture.stats if case.picture is not None else {}
    died = max(len(case.recording.deaths), int(stats.get("deaths", 0) or 0))
    again = sum(one.again for one in case.functions)
    if not died and not again:
        return None
    lost = sum(one.ends["lost"] for one in case.functions)
    wasted_s = sum(
        (death.task.run_s or 0.0) for death in case.recording.deaths if death.task is not None
    )
    causes = Counter(death.cause for death in case.recording.deaths).most_common(1)
    said = (
        [
            f"{died} worker{'' if died == 1 else 's'} died"
            + (f" (most often: {causes[0][0]})" if causes else "")
        ]
        if died
        else []
    )
    said += [f"{_tasks(lost)} lost"] if lost else []
    said += [f"{_tasks(again)} tried again"] if again else []
    said += [f"{duration(wasted_s)} of running came to nothing"] if wasted_s else []
    remedy = next((death.advice for death in case.recording.deaths if death.advice), None)
    return Advice(
        "deaths",
        "Workers died while they ran tasks." if died else "Tasks failed and were tried again.",
        ", ".join(said),
        remedy
        or (
            "The certificates below tell of each what killed it and where it was; retries= runs a lost "
            "task again."
            if died
            else "Look into the failed tasks below: each attempt costs a worker its time."
        ),
        case.recording.pool,
    )


def _queue(case: Case) -> Advice | None:
    weights = case.course.waiting_bytes
    stats = case.picture.stats if case.picture is not None else {}
    peak = max([*(weights or ()), float(stats.get("waiting_bytes", 0) or 0)])
    limit = min(QUEUE_BYTES, QUEUE_PART * (case.memory_bytes or QUEUE_BYTES / QUEUE_PART))
    if peak < limit:
        return None
    waiting = max(case.course.waiting or [0.0])
    return Advice(
        "queue-grows",
        "Tasks are submitted much faster than they are done, and their arguments fill the memory.",
        f"up to {size(round(peak))} of arguments waited, of some {round(waiting):,} tasks",
        "Use imap or imap_unordered, which draw no more than is needed (buffersize=), or send paths and "
        "indices rather than contents.",
        case.recording.pool,
    )


Rule = Callable[[Case], Advice | None]

RULES: tuple[Rule, ...] = (
    _deaths,
    _starved,
    _too_small,
    _pickling,
    _callbacks,
    _crowded,
    _memory,
    _tail,
    _too_few,
    _slow_start,
    _queue,
)


def _tasks(count: int) -> str:
    return "1 task was" if count == 1 else f"{count:,} tasks were"


def _of(worker_s: float, workers: int, unit: str = "worker") -> str:
    return f"{duration(worker_s)} ({workers} {unit}{'' if workers == 1 else 's'})"


def _round(number: int) -> int:
    """Round to one digit, for what is only meant as an order of magnitude."""
    digits = int(10 ** (len(str(number)) - 1))
    return max(1, round(number / digits)) * digits
