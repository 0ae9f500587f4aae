"""The black box and its recorder, in one process."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasspool.engines.local import blackbox
from glasspool.engines.local.blackbox import BlackBoxes
from glasspool.engines.local.recorder import Recorder


@pytest.fixture
def boxes() -> Iterator[BlackBoxes]:
    """Return the boxes of a pool."""
    made = BlackBoxes.create(3)
    yield made
    made.close()


def written(texts: list[str]) -> tuple[str, ...]:
    """Return the last lines of what was written."""
    boxes = BlackBoxes.create(2)
    recorder = Recorder(boxes, 1, False)
    for text in texts:
        recorder.note_output(text)
    lines = boxes.last_output(1)
    assert boxes.last_output(0) == ()
    boxes.close()
    return lines


@given(st.lists(st.text(st.sampled_from("ab\n"), max_size=2000), max_size=12))
def test_the_last_lines_of_the_output_are_kept(texts: list[str]) -> None:
    """The ring gives the last lines, whole, or the end of a line that is longer than the ring."""
    whole = [line for line in "".join(texts).split("\n") if line]
    kept = written(texts)
    fits = [line[:500] for line in whole]
    assert len(kept) <= blackbox.LINES
    if sum(map(len, texts)) < blackbox.OUTPUT_BYTES:
        assert list(kept) == fits[-blackbox.LINES :]
    for line in kept:
        assert any(line in one for one in whole)


def test_output_longer_than_the_ring_is_cut() -> None:
    """One huge write costs its end only, and escape codes of a terminal do not survive."""
    assert written(["x" * 1_000_000 + "\nlast\n"])[-1] == "last"
    assert written(["\x1b[31mred\x1b[0m\tand \x07 bell\udc80é\n"]) == ("red     and ? bell?é",)


def test_log_lines_come_in_their_order(boxes: BlackBoxes) -> None:
    """The last hundred of many; a traceback's last line belongs to it."""
    recorder = Recorder(boxes, 2, False)
    recorder.reserve_log()
    for number in range(300):
        record = logging.LogRecord("app", logging.INFO, "f.py", 1, "number %d", (number,), None)
        recorder._note_record(record)
    assert boxes.last_log(2) == tuple(f"INFO app: number {n}" for n in range(200, 300))
    assert boxes.last_log(1) == ()
    boxes.clear(2)
    assert boxes.last_log(2) == ()


class Speaks:
    """Must not be asked for its text."""

    def __str__(self) -> str:
        raise AssertionError("the user's code ran")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "args", "text"),
    [
        ("%s and %r", (1, "b"), "1 and 'b'"),
        ("%s", (Speaks(),), "%s (<Speaks>)"),
        ("%d", ("no number",), "%d ('no number')"),
        ("%(a)s", ({"a": 1},), "%(a)s (<dict>)"),
        (Speaks(), (), "<Speaks>"),
        ("two\nlines", (), "two\\nlines"),
        ("x" * 2000, (), "x" * 490),
    ],
)
def test_a_record_that_nobody_formatted(
    boxes: BlackBoxes, message: str, args: tuple[object, ...], text: str
) -> None:
    """Its text is made from built-in types only."""
    recorder = Recorder(boxes, 0, False)
    recorder.reserve_log()
    recorder._note_record(logging.LogRecord("a", 20, "f.py", 1, message, args, None))
    assert boxes.last_log(0)[0].startswith(f"INFO a: {text}")


def test_a_formatted_record_is_taken_as_it_is(boxes: BlackBoxes) -> None:
    """The text that a handler made is not made again; the exception is named."""
    recorder = Recorder(boxes, 0, False)
    recorder.reserve_log()
    record = logging.LogRecord("a", 40, "f.py", 1, "said %s", (Speaks(),), None)
    record.message = "said it"
    record.exc_text = "Traceback ...\nValueError: no"
    recorder._note_record(record)
    assert boxes.last_log(0) == ("ERROR a: said it | ValueError: no",)


def test_only_plain_streams_are_followed(boxes: BlackBoxes) -> None:
    """The stream stays what it is; one with a ``write`` of its own is left alone."""

    class Own(io.TextIOWrapper):
        def write(self, text: str, /) -> int:
            return super().write(text.upper())

    recorder = Recorder(boxes, 0, False)
    plain, own, other = io.TextIOWrapper(io.BytesIO()), Own(io.BytesIO()), io.StringIO()
    for stream in (plain, own, other, None, plain):
        recorder.follow_stream(stream)
    assert [stream for stream, _ in recorder._streams] == [plain]
    assert plain.write("one\n") == 4
    plain.writelines(["two\n"])
    print("three", file=plain)
    with pytest.raises(TypeError):
        plain.write(b"four")  # type: ignore[arg-type]
    plain.flush()
    assert plain.buffer.getvalue() == b"one\ntwo\nthree\n"  # type: ignore[attr-defined]
    assert boxes.last_output(0) == ("one", "two", "three")


def test_a_worker_that_cannot_answer_is_not_asked(boxes: BlackBoxes) -> None:
    """The signal would end it."""
    assert not boxes.ask(0, 1)
    assert boxes.asked_ns(0) is None
