"""From measurements to table, JSON, picture and page: pure, so on numbers made up here."""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import page, plot, price, schedules
from bench.__main__ import main
from bench.cases import CASES, Aim, Case, Metric
from bench.contenders import BARE, CONTENDERS, chunk_of
from bench.measures import FULL, QUICK
from bench.report import (
    Report,
    amount,
    document,
    duration,
    remarks,
    report_from,
    rows_of,
    table,
    times,
)
from bench.run import Outcome

CASE = Case(
    "burst",
    {
        "total": Metric("{tasks:,} calls", aims=(Aim("stock", 5), Aim("bare", 0.5))),
        "held": Metric("memory", "B", (Aim("most", 100),)),
    },
    lambda setting: {},
)


def rows(**outcomes: Outcome):
    """Sort outcomes by metric."""
    return rows_of(CASE, FULL, 2, outcomes)


def outcome(*totals: float, held: float = 50.0, **more):
    """Return an outcome with a round for each total."""
    return Outcome([{"total": total, "held": held} for total in totals], **more)


def report(made, names=("stock", "glasspool"), **options) -> Report:
    """Return a run of these rows."""
    return Report(
        day="2026-01-02",
        options={"rounds": 3, "workers": 2, "quick": False, **options},
        machine={"system": "Linux", "processor": "P", "usable": 2, "load": [0.1, 0.2, 0.3]},
        versions={"python": "3.11", "glasspool": "1"},
        names=names,
        rows=tuple(made),
    )


def test_ratios_are_of_medians_and_round_by_round():
    """Above 1 is better than stock; each round is compared with the same round of stock."""
    row = rows(stock=outcome(4.0, 8.0, 6.0), glasspool=outcome(2.0, 2.0, 1.0))[0]
    assert row.words == "20,000 calls"
    assert row.median("stock") == 6.0
    assert row.ratio("glasspool") == 3.0
    assert row.ratios("glasspool") == (2.0, 4.0, 6.0)


def test_nothing_by_nothing_is_one_and_something_by_nothing_is_infinite():
    """A pool at rest may need nothing at all."""
    row = rows(stock=outcome(0.0), glasspool=outcome(0.0), loky=outcome(1.0))[0]
    assert row.ratio("glasspool") == 1.0
    assert row.ratio("glasspool", "loky") == math.inf
    assert times(math.inf) == "∞"


def test_a_contender_without_numbers_has_a_word_and_a_reason():
    """A cell without numbers says why in the remarks, and has no ratio."""
    made = rows(
        stock=outcome(1.0),
        glasspool=outcome(0.5),
        ray=Outcome([], "hangs", "cut off after 1 s"),
        dask=Outcome([], "–", "has none"),
        bare=Outcome([], "–"),
    )
    _, line, _ = table(made, ["stock", "glasspool", "ray", "dask", "bare"]).splitlines()
    assert line.split()[2:] == ["1", "s", "500", "ms", "hangs", "–", "–", "2.00", "2.00", "(stock)"]
    assert made[0].ratio("ray") is None
    assert remarks(made) == [
        "burst, ray: hangs: cut off after 1 s",
        "burst, dask: has no counterpart: has none",
    ]


def test_what_was_scaled_is_marked():
    """A star tells that a part was measured."""
    made = rows(stock=outcome(1.0), dask=outcome(9.0, scaled="2 of 4"))
    assert "9 s*" in table(made, ["stock", "dask"])
    assert remarks(made) == ["burst, dask: * did 2 of 4"]


def test_aims_are_judged_against_stock_by_hand_and_as_numbers():
    """Each kind of aim has its own rule; without numbers nothing is claimed."""
    time, held = rows(stock=outcome(6.0), glasspool=outcome(1.0), bare=outcome(0.4))
    assert time.reached("stock", 5) == (6.0, True)
    assert time.reached("bare", 0.5) == (0.4, False)
    assert held.reached("most", 100) == (50.0, True)
    assert rows(stock=outcome(6.0))[0].reached("stock", 5) is None
    assert page.aims([time]).splitlines()[2:] == [
        "| 20,000 calls | 5.00 x stock | 6.00 x | ✓ |",
        "| 20,000 calls | 0.50 x by hand | 0.40 x | ✗ |",
    ]


def test_json_comes_back_as_it_was():
    """What a page is made of is all in the file, which also has medians and ratios."""
    made = report(rows(stock=outcome(1.0, 2.0), glasspool=outcome(0.0, 0.0)))
    text = document(made)
    assert report_from(text) == made
    first = json.loads(text)["rows"][0]
    assert first["median"] == {"stock": 1.5, "glasspool": 0.0}
    assert first["ratio"] == {"stock": 1.0, "glasspool": None}
    with pytest.raises(ValueError, match="schema"):
        report_from(text.replace('"schema": 2', '"schema": 1'))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2, "2 s"), (0.0123, "12.3 ms"), (1.5e-5, "15 µs"), (2.5e-7, "250 ns"), (0, "0 s")],
)
def test_times_have_three_digits_and_a_unit(seconds, words):
    """The unit is the largest that leaves a whole part."""
    assert duration(seconds) == words


def test_other_units():
    """Bytes and counts are whole, shares of the ideal have three digits."""
    assert amount(1830.4, "B") == "1,830 B"
    assert amount(1.0345, "x") == "1.034"
    assert amount(7, "") == "7"


def test_many_contenders_get_a_table_without_ranges_and_the_best_other():
    """With many columns only medians are shown, and who comes next to ours; by hand is no pool."""
    names = ["stock", "glasspool", "loky", "ray", BARE]
    made = rows(
        stock=outcome(6.0, 7.0),
        glasspool=outcome(2.0, 2.0),
        loky=outcome(5.0, 5.0),
        ray=outcome(9.0, 9.0),
        bare=outcome(0.1, 0.1),
    )
    head, first, _ = table(made, names).splitlines()
    assert head.endswith("best other / glasspool")
    assert first.endswith("2.50 (loky)")
    assert "6.5 s " in first


def test_losses_are_listed_by_themselves():
    """A row in which another pool is better is on the list, with a word where ranges overlap."""
    lost = rows(stock=outcome(1.0, 1.0), glasspool=outcome(2.0, 2.0))[:1]
    noisy = rows(stock=outcome(1.0, 1.0, 3.0), glasspool=outcome(2.0, 2.0, 2.0))[:1]
    won = rows(stock=outcome(2.0), glasspool=outcome(1.0))[:1]
    title = "Beside the standard library's pool, 2 workers:\n\n"
    assert page.losses([report(lost)]) == title + "- 20,000 calls: stock 1 s, glasspool 2 s (0.50)"
    assert page.losses([report(noisy)]).endswith("(0.50, within the noise)")
    assert page.losses([report(won)]) == title + "In no row."


def test_the_page_tells_how_it_was_made():
    """Commands, machine, versions, tables and remarks stand on it, a section for each run."""
    pair = report(rows(stock=outcome(2.0), glasspool=outcome(1.0)))
    names = ("stock", "glasspool", "loky")
    many = report(
        rows(stock=outcome(2.0), glasspool=outcome(1.0), loky=outcome(3.0)), names, workers=16
    )
    text = page.page(
        [(Path("a.json"), pair), (Path("b.json"), many)], ["a.svg", "b.svg"], "By hand."
    )
    for words in (
        "python -m bench --rounds 3 --json a.json",
        "python -m bench --rounds 3 --contenders all --workers 16 --json b.json",
        "python -m bench.page a.json b.json",
        "![Beside other libraries, 16 workers: ratios to the standard library's pool](b.svg)",
        "load at the end 0.10, 0.20, 0.30",
        "By hand.",
    ):
        assert words in text
    assert text.count("## Where we lose") == 1


def test_the_picture_is_well_formed_and_keeps_inside():
    """Every ratio stands between the labels and the right edge, whatever its size."""
    names = ("stock", "glasspool", "loky", BARE)
    made = rows(
        stock=outcome(1.0, 1.0),
        glasspool=outcome(0.001, 0.0),
        loky=outcome(5000.0, 5000.0),
        bare=outcome(0.01, 0.01),
    )
    root = ElementTree.fromstring(plot.picture(made, names))
    places = [
        float(value)
        for element in root.iter()
        for key, value in element.attrib.items()
        if key in ("x", "x1", "x2", "cx")
    ]
    assert len(places) > 5
    assert all(0 <= place <= float(root.attrib["width"]) for place in places)


def test_the_scale_is_logarithmic():
    """Ten times as good is as far from 1 as ten times as bad, and 1 is always on it."""
    scale = plot.scale_of([0.1, 10.0])
    assert scale.at(10) - scale.at(1) == pytest.approx(scale.at(1) - scale.at(0.1))
    assert 1 in list(plot.scale_of([30.0]).ticks())


def test_no_schedule_is_shorter_than_the_bound():
    """All hands busy or the longest alone; in order a long one at the end stands out."""
    assert schedules.bound([1.0, 1.0, 4.0], 2) == 4.0
    assert schedules.bound([1.0] * 6, 2) == 3.0
    assert schedules.in_order([4.0, 1.0, 1.0], 2) == 4.0
    assert schedules.in_order([1.0, 1.0, 4.0], 2) == 5.0
    naps = [schedules.shuffled(3, (3, 1.0), (2, 5.0)) for _ in range(2)]
    assert naps[0] == naps[1]
    assert sorted(naps[0]) == [1.0, 1.0, 1.0, 5.0, 5.0]


def test_chunks_of_libraries_whose_default_is_one():
    """A few items go singly; many go in four chunks for each worker."""
    assert chunk_of(2_000, 2) == 1
    assert chunk_of(500_000, 2) == 62_500


def test_the_price_is_that_of_the_lines_in_the_worker():
    """Each line that is timed stands in the loop of the worker, in this order."""
    from glasspool.engines.local.worker import Worker

    source = [line.strip() for line in inspect.getsource(Worker._run_row).splitlines()]
    places = [source.index(line) for line in price.LINES]
    assert places == sorted(places)


def test_every_case_and_contender_is_whole():
    """Words can be filled in with all sizes, and names are their keys."""
    for name, case in CASES.items():
        assert case.name == name
        for metric in case.metrics.values():
            for sizes in (FULL, QUICK):
                assert not re.search(r"[{}]", sizes.put_in(metric.words, 2))
            assert not replace(metric, aims=()).aims
    assert all(contender.name == name for name, contender in CONTENDERS.items())


def test_a_library_that_is_not_installed_is_left_out(monkeypatch, capsys):
    """One line says so, and how to install it; with nobody left there is nothing to do."""
    monkeypatch.setattr(type(CONTENDERS["loky"]), "is_installed", lambda self: False)
    assert main(["--contenders", "loky", "--only", "import"]) == 2
    assert capsys.readouterr().err == "loky: left out, it is not installed: pip install loky\n"
