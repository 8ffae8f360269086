"""The page about sequence models: what is drawn, escaped, and left out."""

import re
from dataclasses import replace

import numpy as np
import pytest

from llm_rec.analysis.attention_gradients import GradientReport
from llm_rec.analysis.sequence_analysis import SequenceAnalysisConfig, analyse_sequence
from llm_rec.report.heat_map import matrix_map
from llm_rec.report.sequence import gradient_figures, search_figure, sequence_page
from tests.llm_rec.analysis.sequences import LENGTH, Pooling, View, material

CONFIG = SequenceAnalysisConfig(
    max_length=LENGTH, top=3, positions=4, k=4, min_target=1, min_cell=1, clusters=(2, 4), num_seeds=1
)


def gradients(steps=900):
    rng = np.random.default_rng(0)
    cosine = rng.normal(size=steps)
    cosine[0] = np.nan
    return GradientReport(
        attention_norm=rng.random(steps),
        representation_norm=5 * rng.random(steps),
        cosine=cosine,
        pairs=np.full(steps, 3),
        negative_pairs=np.full(steps, 2),
        row_pairs=np.array([4, 0, 2]),
        row_negative_pairs=np.array([1, 0, 2]),
    )


@pytest.fixture(scope="module")
def found():
    return analyse_sequence(View(Pooling()), material(), CONFIG)


def test_the_page_holds_all_figures_of_all_models_escaped(found):
    probed = replace(found, gradients=gradients())
    page = sequence_page("Sequences <b>", [("DARE <16>", probed), ("TWIN", found)])
    # search, clusters, norms and two histograms of the probed one, five maps of each
    assert page.count("<figure>") == 2 + 3 + 2 * 5
    assert page.count('role="img"') == page.count("<figure>")
    assert "Sequences &lt;b&gt;" in page
    assert "DARE &lt;16&gt;" in page
    assert "&lt;shoes&gt;" in page
    assert "<shoes>" not in page
    assert "<script" not in page
    assert "domination" in page
    # 3 targets or behaviours by 4 positions in each map
    assert page.count("<rect") == 2 * 5 * 3 * 4


def test_every_figure_has_numbers_and_no_nan(found):
    page = sequence_page("Sequences", [("DARE", replace(found, gradients=gradients()))])
    assert "nan" not in page.lower()
    assert f"{found.search['whole score'].rows:,} rows" in page
    assert "over the ideal DCG@4 for every n; gains are their mutual information with the click" in page
    assert "over the ideal DCG@n" in search_figure([("DARE", replace(found, denominator="n"))])
    assert "gains are planted" in search_figure([("DARE", replace(found, planted=True))])


def test_a_model_without_attention_has_no_empty_figures():
    plain = analyse_sequence(View(Pooling(), plain=True), material(), CONFIG)
    page = sequence_page("Sequences", [("DIEN", plain)])
    assert search_figure([("DIEN", plain)]) == ""
    assert gradient_figures([("DIEN", plain)]) == []
    assert page.count("<figure>") == 1 + 3  # clusters; information and phi
    assert "Attention, own category" not in page


def test_long_runs_are_drawn_as_means_of_neighbouring_steps(found):
    norms, conflict, by_row = gradient_figures([("DARE", replace(found, gradients=gradients()))])
    assert norms.count("<g>") == 2 * 400
    report = gradients()
    assert f"{report.conflict:.1%} of 899 iterations" in conflict
    assert "2 rows, mean 62.5%" in by_row


def test_shades_of_a_map_go_from_the_least_to_the_largest():
    picture = matrix_map(np.array([[0.0, 1.0], [np.nan, 0.5]]), ["a", "b"], ["1", "2"], label="map", x_title="position")
    shades = [float(shade) for shade in re.findall(r'fill-opacity="([^"]+)"', picture)]
    assert shades == [0.04, 0.96, 0.04, 0.5]
    assert "<title>a, position 2: 1</title>" in picture
    assert "position; shades 0 to 1" in picture


def test_a_signed_map_has_a_colour_for_each_sign():
    picture = matrix_map(np.array([[-2.0, 0.0, 1.0]]), ["a"], ["1", "2", "3"], label="map", x_title="x", signed=True)
    assert re.findall(r'class="bar (s\d)"', picture) == ["s0", "s0", "s1"]
    assert [float(shade) for shade in re.findall(r'fill-opacity="([^"]+)"', picture)] == [0.96, 0.04, 0.5]
    empty = matrix_map(np.full((1, 1), np.nan), ["a"], ["1"], label="map", x_title="x")
    assert "x; no value" in empty
