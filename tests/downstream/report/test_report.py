"""The report: self-contained, complete where the study is, honest where it is not."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from radpref.data.core.errors import StorageFull
from radpref.data.study.runs import latest_run
from radpref.data.study.study import Study
from radpref.downstream.cli import app
from radpref.downstream.grid import run_grid
from radpref.downstream.inference.comparisons import PairedComparison, UntestedComparison
from radpref.downstream.inference.grid_result import Rules
from radpref.downstream.inference.t_tests import compare
from radpref.downstream.report import report, tables, verdicts
from radpref.downstream.report.published import CAVEATS, PUBLISHED
from radpref.downstream.report.report import run_report
from radpref.downstream.report.table import interval, number, p_value
from tests.support.downstream import add_alignment, add_rated_sets, study_with_pools


class _Page(HTMLParser):
    """Collects tags, addresses and ids; fails on a tag that is closed without being open."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, html):
        super().__init__()
        self.open, self.addresses, self.ids, self.tags, self.alts = [], [], [], set(), []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.addresses += [found[key] for key in ("src", "href", "srcset", "action") if found.get(key)]
        self.ids += [found["id"]] if "id" in found else []
        if tag == "img":
            self.alts.append(found.get("alt"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def whole(tmp_path_factory, _tiny_template):
    """A study with every part, and its report."""
    root = tmp_path_factory.mktemp("report") / "study"
    shutil.copytree(_tiny_template, root)
    study = study_with_pools(Study(root))
    add_rated_sets(study)
    add_alignment(study)
    run_grid(study)
    yield study, run_report(study)
    study.db.close()


def test_the_page_is_whole_and_loads_nothing(whole):
    _, path = whole
    html = path.read_text(encoding="utf-8")
    page = _Page(html)
    assert not page.tags & {"script", "link", "iframe", "object"}
    folder = {file.name for file in path.parent.iterdir()}
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.ids
        elif not address.startswith("data:image/"):
            assert address in folder
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r'data:image/[^"]+', "", html))
    assert "@import" not in html
    assert "url(" not in html
    assert page.alts
    assert all(page.alts)


def test_the_verdict_comes_first_and_says_too_small(whole):
    html = whole[1].read_text(encoding="utf-8")
    assert html.index("Too small to conclude whether adding images of the preference-aligned") < html.index("<h2")
    assert "n = 3 paired seeds, and the largest observed difference" in html
    assert "From one alignment run" in html


def test_what_must_always_be_said_is_said(whole):
    html = whole[1].read_text(encoding="utf-8")
    for text in (
        "Research use, not for diagnosis", "patient’s right is at image left", "SIMULATED RATERS", "synthetic",
        "digital phantom", "Family: 9 comparisons", "0.1541", "not given",
    ):  # fmt: skip
        assert text in html, text
    assert all(caveat.split(",")[0][:40].replace("'", "&#39;") in html for caveat in CAVEATS)


def test_tables_stand_beside_the_page_with_full_precision(whole):
    study, path = whole
    names = {
        "cells",
        "comparisons",
        "power",
        "published",
        "scores",
        "agreement-simulated",
        "alignment",
        "evaluation",
        "runs",
    }
    assert names <= {file.stem for file in path.parent.glob("*.csv")}
    with (path.parent / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cells = latest_run(study, "grid").result["cells"]
    assert len(rows) == len(cells)
    assert float(rows[0]["auroc"]) == cells[0]["auroc"]
    assert {file.stem for file in (path.parent / "figures").iterdir()} == {
        "scores", "alignment", "samples", "downstream", "forest", "power",
    }  # fmt: skip


def test_a_second_report_stands_beside_the_first(whole):
    study, first = whole
    before = first.read_bytes()
    second = run_report(study)
    assert second.parent.name == f"{first.parent.name}-2"
    assert first.read_bytes() == before


def test_an_empty_study_gets_a_report_that_says_what_is_missing(study):
    html = run_report(study).read_text(encoding="utf-8")
    _Page(html)
    assert "No verdict: the downstream grid has not been run" in html
    assert html.count("Not there yet") == 6
    assert "SIMULATED" not in html


def test_scores_of_people_carry_no_simulated_banner(tiny_study):
    add_rated_sets(tiny_study, kinds=("human",), n_raters=1)
    html = run_report(tiny_study).read_text(encoding="utf-8")
    assert "SIMULATED" not in html
    assert "1 person, 24 scores" in html
    assert "not computable" in html


def test_people_and_simulated_raters_stand_in_tables_of_their_own(tiny_study):
    add_rated_sets(tiny_study, kinds=("human", "simulated"))
    html = run_report(tiny_study).read_text(encoding="utf-8")
    assert "Human raters: 2 raters" in html
    assert "Simulated raters: 2 raters" in html


def test_markup_in_names_is_shown_not_obeyed(tiny_study):
    path = tiny_study.root / "study.toml"
    path.write_text('title = "<script>alert(1)</script>"\n' + path.read_text(encoding="utf-8"), encoding="utf-8")
    html = run_report(Study(tiny_study.root)).read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_full_disk_leaves_no_half_report(study, monkeypatch):
    def full(path, content):
        raise StorageFull(f"no space left while writing {path}; free space and run the same command again")

    monkeypatch.setattr(report, "write_atomic", full)
    with pytest.raises(StorageFull):
        run_report(study)
    assert not list(study.reports.iterdir())


def test_wide_sheets_are_reduced(tmp_path):
    path = tmp_path / "a_b.png"
    Image.fromarray(np.zeros((10, 3000), np.uint8)).save(path)
    sheet = report._sheet(path)
    assert sheet["name"] == "a b"
    assert sheet["uri"].startswith("data:image/png;base64,")


RULES = Rules(0.05, 9, 5, 0.02, ("aligned>baseline",), 1000, 5)


def _row(verdict, n=5, seeds_needed=40):
    values = np.linspace(0.2, 0.4, n)
    difference = replace(compare(values + 0.03 + np.arange(n) % 2 / 50, values, 0.05, 9), seeds_needed=seeds_needed)
    return PairedComparison(
        comparison="aligned>baseline", a="aligned", b="baseline", task="t", fraction=1.0, multiple=2,
        **vars(difference), seeds=tuple(range(n)), metric="f1", metric_name="F1", ci_bootstrap=(0.0, 0.1),
        values_a=tuple(values), values_b=tuple(values), n_test_patients=9, family_size=9, p_bonferroni=1.0,
        p_holm=1.0, p_holm_worse=1.0, verdict=verdict,
    )  # fmt: skip


def _untested():
    place = {"comparison": "aligned>baseline", "a": "aligned", "b": "baseline", "task": "t", "fraction": 1.0}
    return UntestedComparison(
        **place, multiple=2, seeds=tuple(range(5)), n=5, reason="no finished cells", family_size=9
    )


@pytest.mark.parametrize(
    ("rows", "tone", "text"),
    [
        ([_row("better"), _row("too small to conclude")], "good", "In 1 of 2 comparisons"),
        ([_row("worse")], "bad", "it is worse"),
        ([_row("better"), _row("worse")], "even", "Mixed"),
        ([_row("no difference shown"), _row("too small to conclude")], "even", "no difference of 0.02"),
        ([_row("too small to conclude")], "open", "would need about 40."),
        ([_row("too small to conclude", n=3)], "open", "would need about 40"),
        ([_row("too small to conclude", seeds_needed=None)], "open", "would need more than 10,000"),
        ([_untested()], "open", "n = 5 paired seeds, would need at least 5."),
    ],
)
def test_headline(rows, tone, text):
    found = verdicts.headline(rows, RULES)
    assert found.tone == tone
    assert text in found.sentence


def test_alignment_claims_need_three_runs():
    assert "this checkpoint only" in verdicts.scope_note(1)
    assert "this checkpoint only" not in verdicts.scope_note(3)


def test_numbers_read_well():
    assert number(-0.1234, signed=True) == "−0.123"
    assert number(None) == number(float("nan")) == number(float("inf")) == "–"
    assert number(12345) == "12,345"
    assert interval((float("nan"), 1.0)) == interval((None, None)) == interval(None) == "–"
    assert [p_value(p) for p in (0.0002, 0.0312, 0.4)] == ["< 0.001", "0.031", "0.40"]


def test_published_figures_are_those_of_the_study():
    best = {(item.dataset, item.fraction): item for item in PUBLISHED}
    assert best["RSNA", "10 %"].difference == pytest.approx(0.181)
    assert best["CANDID-PTX", "10 %"].difference == pytest.approx(0.139, abs=5e-4)
    assert best["RSNA, radiologist DPO", "10 %"].augmented < best["RSNA, not aligned", "10 %"].augmented
    assert len(PUBLISHED) == 16


def test_nested_results_stand_side_by_side():
    measure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    table = tables.measures_table("x", "X", {"a": {"hit_rate": measure, "arm": "a"}, "b": {"drift": 1.0, "ok": True}})
    assert table.header == ("Measure", "a", "b")
    assert table.shown[0] == ["asked finding found", "0.500 (0.400 to 0.600)", "–"]
    assert len(table.shown) == 2


def test_command_prints_the_path(study):
    answer = CliRunner().invoke(app, ["report", "--study", str(study.root)])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.strip().endswith("index.html")
