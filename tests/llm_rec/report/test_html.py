"""The page parses, loads nothing, runs nothing, and shows hostile text as text."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.report import svg
from llm_rec.report.html import CalibrationCurve, calibration_figure, render, write_page
from llm_rec.report.report import Comparison

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "\"><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)> & </title> --"


class Checker(HTMLParser):
    """Collects tags, attributes and visible text; fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def text(page_data) -> str:
    return render(page_data.page())


def test_every_tag_is_closed_in_order_and_there_is_one_main_heading(text):
    checker = parsed(text)
    assert checker.tags.count("h1") == 1
    assert checker.tags.count("main") == 1


def test_the_page_loads_nothing_and_runs_nothing(text):
    checker = parsed(text)
    assert not {"script", "link", "img", "iframe", "object", "form", "image", "use"} & set(checker.tags)
    names = {name for name, _ in checker.attributes}
    assert not names & {"src", "href", "srcset", "action", "style"}
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert "default-src 'none'" in text


def test_every_figure_is_there_with_a_sentence_and_a_label(text):
    titles = re.findall(r"<figure><h3>(.*?)</h3><p>(.*?)</p>", text)
    assert [title for title, _ in titles] == [
        "Recall@10 by item frequency",
        "NDCG@10 by item frequency",
        "Learning curves",
        "Gate weights, PAD",
        "Embedding map",
        "Code usage, Mixture-of-Codes",
    ]
    assert all(sentence.endswith(".") for _, sentence in titles)
    labels = [value for name, value in parsed(text).attributes if name == "aria-label"]
    assert len(labels) == len(titles)


def test_the_numbers_of_the_report_are_on_the_page(page_data, text):
    page = page_data.page()
    for report in page.comparison.reports:
        assert f"{report.metrics['test']['all']['recall@10']:.4f}".removeprefix("0") in text
        assert report.name in text
    assert f"{page.comparison.reports[0].counts['test']['unseen']:,} targets" in text
    assert "3f2a9c0d11e7b845" in text


def test_hostile_titles_names_and_settings_stay_text(page_data):
    page = page_data.page(titles=HOSTILE)
    named = replace(
        page.comparison.reports[0], name=HOSTILE, config={HOSTILE: HOSTILE}, fingerprints={HOSTILE: HOSTILE}
    )
    page = replace(page, title=HOSTILE, summary=HOSTILE, comparison=Comparison(reports=(named,)))
    page = replace(page, gates=(replace(page.gates[0], model=HOSTILE, experts=(HOSTILE, "b", "c")),))
    checker = parsed(render(page))
    assert not {"script", "img"} & set(checker.tags)
    assert not [name for name, _ in checker.attributes if name.startswith("on")]
    assert HOSTILE in checker.text


def test_figures_without_data_are_left_out(page_data):
    page = page_data.page()
    bare = replace(page.comparison.reports[0], history=(), counts={"test": {"all": 300}})
    bare_page = replace(page, comparison=Comparison(reports=(bare,)), embedding_map=None, gates=(), code_usage=())
    checker = parsed(render(bare_page))
    assert "figure" not in checker.tags
    assert "table" in checker.tags


def test_a_bucket_without_targets_leaves_a_gap_not_a_zero(page_data):
    page = page_data.page()
    report = page.comparison.reports[0]
    metrics = {"test": {**report.metrics["test"], "bucket_4": {}}}
    counts = {"test": {**report.counts["test"], "bucket_4": 0}}
    found = render(replace(page, comparison=Comparison(reports=(replace(report, metrics=metrics, counts=counts),))))
    assert "bucket 5 (" in found
    assert "bucket 4 (" not in found


def test_a_gate_with_an_empty_bucket_draws_finite_columns(page_data):
    page = page_data.page()
    weights = np.array(page.gates[0].weights)
    weights[3] = np.nan
    assert "nan" not in render(replace(page, gates=(replace(page.gates[0], weights=weights),))).lower()


def test_the_page_is_written_whole(page_data, tmp_path):
    path = write_page(tmp_path / "report.html", page_data.page())
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert list(tmp_path.iterdir()) == [path]


def test_large_catalogs_give_a_bounded_page(page_data):
    page = page_data.page(items=20_000)
    assert len(render(page)) < 900_000


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low, span, about):
    high = low + span
    values = svg.ticks(low, high, about)
    slack = 1e-6 * max(abs(low), abs(high), span)
    assert len(values) <= 2 * about + 1
    assert all(low - slack <= value <= high + slack for value in values)
    assert values == sorted(values)


def test_a_frame_without_extent_still_places_its_marks():
    frame = svg.Frame(x=(1.0, 1.0), y=(0.0, 0.0))
    assert np.isfinite([frame.at_x(1.0), frame.at_y(0.0)]).all()
    assert svg.ticks(1.0, 1.0) == [1.0]


def test_calibration_shows_every_bucket_that_has_clicks_and_names_the_losses():
    curves = [
        CalibrationCurve(model="<a>", loss="bce, pos_weight 1", bias=np.array([0.5, np.nan, -0.1])),
        CalibrationCurve(model="b", loss="pairwise, alpha 0.5, pos_weight 0.1", bias=np.array([0.0, 0.2, 0.3])),
    ]
    figure = calibration_figure(curves)
    assert "&lt;a&gt;: bce, pos_weight 1; b: pairwise, alpha 0.5, pos_weight 0.1" in figure
    assert "&lt;a&gt;, bucket 1: bias +.5000" in figure
    assert "&lt;a&gt;, bucket 2" not in figure
    assert "&lt;a&gt;, bucket 3: bias \u2212.1000" in figure
    assert figure.count("bucket 2: bias") == 1
    assert calibration_figure([]) == ""
    assert calibration_figure([CalibrationCurve(model="a", loss="bce", bias=np.array([np.nan]))]) == ""
