"""The job of ``llm-rec analyze sequence``: what it writes, prints and refuses."""

import json

import pytest
import torch
from torch import nn

from llm_rec.analysis.sequence_analysis import SequenceAnalysisConfig
from llm_rec.errors import ConfigError
from llm_rec.recipes.analyze_sequence import AnalyzeSequenceJob, analyse_run
from llm_rec.recipes.sequence_runs import SequenceRun, TiedTrial
from tests.llm_rec.analysis.sequences import CATEGORIES, LENGTH, PARTS, Pooling, View, material

CONFIG = SequenceAnalysisConfig(
    max_length=LENGTH, top=3, positions=4, k=4, min_target=1, min_cell=1, clusters=(2,), num_seeds=1
)


def trial(steps):
    """The two roles of a fresh model, tied: a model with one set of tables."""
    model = Pooling(seed=1)

    def losses():
        for step in range(steps):
            batch = PARTS["train"][step % 2]
            yield nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels)

    tables = [(role.category, role.item, role.position) for role in (model.attention, model.representation)]
    pairs = tuple((a.weight, r.weight) for a, r in zip(*tables, strict=True))
    return TiedTrial(pairs, slice(2, CATEGORIES), torch.optim.Adam(model.parameters(), lr=0.01), losses())


def test_figures_and_page_are_written_and_the_means_printed(tmp_path, capsys):
    job = AnalyzeSequenceJob(name="dare", gradient_steps=12, analysis=CONFIG)
    found = analyse_run(job, SequenceRun(View(Pooling()), material(), trial), tmp_path)
    assert len(found.gradients.cosine) == 12
    assert len(found.gradients.row_pairs) == CATEGORIES - 2
    figures = json.loads((tmp_path / "sequence.json").read_text())
    assert figures["own_category"]["information"] == found.maps.information.tolist()
    assert figures["target_correlation"]["phi"] == found.correlation.phi.tolist()
    assert figures["search"]["whole score"]["ndcg"] == found.search["whole score"].ndcg.tolist()
    assert figures["clusters"][0]["clusters"] == 2
    assert figures["gradients"]["cosine"] == found.gradients.cosine.tolist()
    assert figures["means"]["domination"] == found.gradients.domination
    page = (tmp_path / "sequence.html").read_text()
    assert "Behaviour sequences, dare" in page
    assert "Conflict by iteration" in page
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"domination: {found.gradients.domination:.4f}" in printed
    assert f"page: {tmp_path / 'sequence.html'}" in printed


def test_what_a_model_lacks_is_empty_in_the_figures(tmp_path, capsys):
    job = AnalyzeSequenceJob(name="dien", analysis=CONFIG)
    analyse_run(job, SequenceRun(View(Pooling(), plain=True), material()), tmp_path)
    figures = json.loads((tmp_path / "sequence.json").read_text())
    assert figures["gradients"] is None
    assert figures["own_category"]["attention"] is None
    assert figures["search"] == {}
    assert "search: the model ranks no events, or no row is counted" in capsys.readouterr().out.replace("\n", " ")


def test_refusals_name_the_value_and_the_repair(tmp_path):
    with pytest.raises(ConfigError, match="gradient_steps must not be negative, got -1"):
        AnalyzeSequenceJob(gradient_steps=-1)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        AnalyzeSequenceJob(batch_size=0)
    job = AnalyzeSequenceJob(name="dien", gradient_steps=5, analysis=CONFIG)
    with pytest.raises(ConfigError, match="run dien has no two roles to tell apart; leave --gradient-steps out"):
        analyse_run(job, SequenceRun(View(Pooling()), material()), tmp_path)
