"""``glasspool why PID``: what is wrong with a program's pools, in one sentence, with evidence and remedy."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glasspool.cli import codes, layout, parsing

if TYPE_CHECKING:
    from glasspool.observe.diagnosis import Clue, Finding
    from glasspool.observe.sight import Sight
    from glasspool.observe.why.verdicts import Judgement

DESCRIPTION = """\
Look at a running program for some moments, and say why its pools do not get on:
one sentence, what it rests on, what to do about it. Or that nothing is wrong:
that they are busy, with the progress, or idle. For pools of the standard
library, loky, multiprocess, billiard and glasspool. The program needs no change
and does not notice. PID may be a worker's.
"""

EXAMPLES = """\
examples:
  glasspool why 4242
  glasspool why 4242 --seconds 30   where an iterable or a callback takes its time
  glasspool why 4242 --json         with the graph of who waits for whom
"""

SCHEMA = 1


def main(arguments: Sequence[str]) -> int:
    """Judge one program, print the judgement, and return the verdict's exit code."""
    options = make_parser().parse_args(list(arguments))
    try:
        return _judge(options)
    except BrokenPipeError:
        # The reader of our output has left. The interpreter's last flush must not meet that again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.FINE
    except KeyboardInterrupt:
        return 130  # as shells count what Ctrl-C has ended


def _judge(options: argparse.Namespace) -> int:
    from glasspool.observe.why import looking

    begun = time.monotonic()
    problem = _no_program(options.pid)
    if problem is not None:
        return _complain(options, *problem)
    try:
        judgement = looking.look(options.pid, seconds=options.seconds or _default_seconds())
    except looking.Gone as error:
        return _complain(options, "gone", str(error))
    except looking.NoStacks as error:
        return _without_stacks(options, error, begun)
    if not judgement.findings and not judgement.has_pool:
        return _complain(options, "no-pool", judgement.sentence, judgement)
    code = codes.of(judgement.verdict) if judgement.findings else codes.FINE
    if options.json:
        print(json.dumps(to_dict(judgement, code), indent=1), flush=True)
    else:
        print(layout.wrapped(judgement_text(judgement)), flush=True)
    return code


def _default_seconds() -> float:
    """Return how long to look where nothing is said: the whole command shall answer within five seconds."""
    from glasspool.observe import procfs
    from glasspool.observe.why.verdicts import LONG_S, LOOK_S

    own = procfs.process(os.getpid())
    # On a busy machine to start the interpreter has taken its time already.
    began_s = time.time() - own.started_at if own is not None else 0.0
    return max(LONG_S + 0.6, LOOK_S - max(0.0, began_s - 0.2))


def _no_program(pid: int) -> tuple[str, str] | None:
    """Tell why there is nothing to judge."""
    from glasspool.observe import procfs

    seen = procfs.process(pid)
    if seen is None or seen.state in "ZX":
        return "gone", f"no such process: {pid}"
    if procfs.HAS_PROC and procfs.python_version(pid) is None:
        from glasspool.observe import rights

        if rights.denial(pid) is None:
            return "not-python", f"process {pid} ({seen.name}) is not a Python program"
    return None


def _without_stacks(options: argparse.Namespace, error: Exception, begun: float) -> int:
    """Say what can be said of a program whose stacks cannot be read."""
    from glasspool.observe.why import looking

    if not isinstance(error, looking.NoStacks):
        raise error
    judgement = looking.look_without_stacks(options.pid, error.sight)
    problem = "unreadable" if error.refusal == "unreadable" else "denied"
    if judgement.findings:
        code = codes.of(judgement.verdict)
        if options.json:
            print(json.dumps(to_dict(judgement, code), indent=1), flush=True)
        else:
            print(layout.wrapped(judgement_text(judgement)), flush=True)
        return code
    if not options.json:
        for line in _kernel_lines(error.sight):
            print(line)
        sys.stdout.flush()
    return _complain(options, problem, f"cannot tell: {error}", judgement)


def _kernel_lines(seen: Sight) -> list[str]:
    """Tell what the operating system says of each thread."""
    from glasspool.observe import procfs

    rows = [("PROCESS", "THREAD", "THE KERNEL SAYS", "CPU")]
    for process in seen.processes:
        for thread in process.threads:
            words = procfs.state_words(thread.os)
            row = (str(process.pid), str(thread.os.tid), words, f"{thread.os.cpu_s:.1f} s")
            rows.append(row)
    return layout.aligned(rows, right=(0, 1, 3))


def _complain(
    options: argparse.Namespace, problem: str, text: str, judgement: Judgement | None = None
) -> int:
    if options.json:
        told: dict[str, Any] = {} if judgement is None else to_dict(judgement, codes.of(problem))
        told = {"schema": SCHEMA, "pid": options.pid, **told}
        code = codes.of(problem)
        told |= {"verdict": None, "code": code, "sentence": text}
        told["problem"] = {"name": problem, "code": code, "text": text}
        print(json.dumps(told, indent=1), flush=True)
    return codes.complain(problem, text)


# What is printed ----------------------------------------------------------------------------------


def to_dict(judgement: Judgement, code: int) -> dict[str, Any]:
    """Return a judgement as plain dicts, lists, strings and numbers."""
    from glasspool.snapshot import as_plain

    first = judgement.findings[0] if judgement.findings else None
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "pid": judgement.pid,
        "verdict": judgement.verdict,
        "code": code,
        "sentence": judgement.sentence,
        "evidence": [as_plain(clue) for clue in judgement.evidence],
        "remedy": first.remedy if first else None,
        "findings": [_finding(finding) for finding in judgement.findings],
        "pending": [_finding(finding) for finding in judgement.pending],
        "graph": as_plain(judgement.graph),
        "progress": dict(judgement.progress),
        "looked_s": round(judgement.looked_s, 3),
        "sights": judgement.sights,
    }
    return told


def _finding(finding: Finding) -> Mapping[str, Any]:
    from glasspool.snapshot import as_plain

    plain: dict[str, Any] = as_plain(finding)
    plain["verdict"], plain["code"] = finding.kind, codes.of(finding.kind)
    return plain


def judgement_text(judgement: Judgement) -> str:
    """Write a judgement: the sentence, the evidence, the remedy, what else was found."""
    looked = f"looked {judgement.sights} times within {judgement.looked_s:.1f} s"
    if judgement.findings:
        return f"{why_text(judgement.findings)}\n\n{looked}"
    lines = [_sentence(judgement.sentence), "", *_evidence(judgement.evidence)]
    for finding in judgement.pending:
        lines += ["", f"not for long enough to be certain: {_harmless(finding.text)}"]
    return "\n".join([*lines, "", f"{looked}; --seconds looks longer"])


def why_text(findings: Sequence[Finding]) -> str:
    """Write findings, the verdict first: its sentence, evidence and remedy, then the others' sentences."""
    if not findings:
        return "Nothing is wrong."
    first, *others = findings
    lines = [_sentence(first.text), "", *_evidence(first.evidence)]
    if first.remedy:
        lines += ["", "what to do:", f"  {_sentence(first.remedy)}"]
    if others:
        lines += ["", "also:", *(f"  {_sentence(other.text)}" for other in others)]
    code = codes.of(first.kind)
    return "\n".join([*lines, "", f"verdict: {first.kind} (exit code {code})"])


def _evidence(clues: Sequence[Clue]) -> list[str]:
    rungs = {"os": "operating system"}
    lines = [f"  {_harmless(clue.text)} [{rungs.get(clue.by, clue.by)}]" for clue in clues]
    return ["evidence:", *lines] if lines else []


def _sentence(text: str) -> str:
    text = _harmless(text)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '`')) else '.'}"


def _harmless(text: str) -> str:
    # Names of threads and lines of source are the program's: nothing of theirs may steer a terminal.
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("why", DESCRIPTION, f"{EXAMPLES}\n{codes.text(verdicts=True)}")
    parsing.add_program(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=parsing.seconds(0.5, 3600),
        help="look for S seconds at most (default 4); less is taken where that suffices",
    )
    return parser
