"""The exit codes of ps, stack and why: one table, each number with one meaning."""

from __future__ import annotations

from glasspool.cli import codes


def test_each_number_has_one_meaning():
    """Problems are below 10, verdicts from 10 to 29, and 2 is bad usage."""
    numbers = [code for code, _ in (*codes.PROBLEMS.values(), *codes.VERDICTS.values())]
    assert len(set(numbers)) == len(numbers)
    assert {codes.of(name) for name in codes.PROBLEMS} == {3, 4, 5, 6, 7}
    assert all(10 <= codes.of(name) <= 29 for name in codes.VERDICTS)
    assert codes.of("something new") == codes.of("other") == 29


def test_the_table_fits_a_help_text():
    """Every number has its line, and every line fits 80 columns."""
    lines = codes.text(verdicts=True).splitlines()
    for code, words in (*codes.PROBLEMS.values(), *codes.VERDICTS.values()):
        assert f"  {code:>2}  {words}" in lines
    assert max(map(len, lines)) <= 80
    assert "task" not in codes.text()


def test_a_complaint_is_one_line_on_stderr(capsys):
    """Whatever the text holds."""
    assert codes.complain("no-pool", "two\nlines") == 5
    assert capsys.readouterr() == ("", "glasspool: two lines\n")
