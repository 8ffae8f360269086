"""Models of sequences as the analyses see them: vectors read of them give the scores they search by."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr_models.embeddings import EmbeddingTable, LinearTerm, NormalInit, schema_vectors
from ctr_models.model import build_ctr_model
from ctr_models.sequences.events import EventTables
from ctr_models.sequences.presets import dare, din, din_unsearched, tin, twin_4e, twin_projection
from llm_rec.analysis.attention_gradients import paired_parameters
from llm_rec.analysis.sequence_analysis import SequenceAnalysisConfig, SequenceView, analyse_sequence
from llm_rec.analysis.sequence_view import ModelView
from llm_rec.analysis.target_attention import attention_scores
from llm_rec.errors import DataError
from tests.llm_rec.analysis.sequences import LENGTH, PARTS, SCHEMA, material

MODELS = {
    "dare": dare(dim=4, max_length=LENGTH, top_k=3),
    "narrow": dare(dim=4, max_length=LENGTH, top_k=3, attention_dims=(2, 3, 2)),
    "joint": dare(dim=4, max_length=LENGTH, top_k=3, scale="joint"),
    "four": twin_4e(dim=4, max_length=LENGTH, top_k=3),
    "projection": twin_projection(dim=4, max_length=LENGTH, top_k=3),
    "tin": tin(dim=4, max_length=LENGTH),
}


def build(config):
    torch.manual_seed(0)
    return build_ctr_model(
        config,
        SCHEMA,
        build_sources=lambda schema, dim, tables: schema_vectors(schema, dim, tables),
        build_linear=LinearTerm,
        build_events=lambda events, schema, dim, tables: EventTables(
            events, schema, dim, tables, init=NormalInit(std=1.0)
        ),
    )


def silence_items(model):
    """Scores are those of category and position once items weigh nothing."""
    with torch.no_grad():
        for module in model.sequence.modules():
            if isinstance(module, EmbeddingTable) and "item" in module.rows:
                module.embedding.weight[module.rows["item"]] = 0
    return model


@pytest.mark.parametrize("name", MODELS)
def test_vectors_read_of_a_model_give_its_scores(name):
    view = ModelView(silence_items(build(MODELS[name])), SCHEMA, "category")
    assert isinstance(view, SequenceView)
    batch = PARTS["test"][0]
    history = batch.history.ids[:, :, 1].numpy()
    found = attention_scores(view.attention, batch.ids[:, 0].numpy(), history, semantic_dim=view.semantic_dim)
    with torch.no_grad():
        expected = view.scores(batch).numpy()
    if MODELS[name].sequence.events.position == "add":  # the item's part holds the position, too: a shift by position
        parts = view.source.events.layout.dim
        times = view.source.events.representation.events.times.weight.detach().double().numpy()[:, :parts]
        expected = expected - (times[1 : LENGTH + 1][::-1] @ times[0]) / view.semantic_dim**0.5
    assert np.allclose(found[history > 0], expected[history > 0], atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_analysis_runs_on_every_model(name):
    config = SequenceAnalysisConfig(
        max_length=LENGTH, top=3, positions=4, k=3, min_target=1, min_cell=1, clusters=(2,), num_seeds=1
    )
    view = ModelView(build(MODELS[name]), SCHEMA, "category")
    found = analyse_sequence(view, material(), config)
    assert set(found.search) == {"category and position", "whole score"}
    assert found.maps.learned is not None
    assert view.features(PARTS["test"][0]).shape[1] == view.source.num_fields * 4


def test_models_that_attend_otherwise_have_features_alone():
    batch = PARTS["test"][0]
    mlp = ModelView(build(din(dim=4, max_length=LENGTH, top_k=3)), SCHEMA, "category")
    assert mlp.attention is None
    assert mlp.scores(batch).shape == batch.history.mask.shape
    plain = ModelView(build(din_unsearched(dim=4, max_length=LENGTH)), SCHEMA, "category")
    assert plain.attention is None
    assert plain.scores(batch) is None
    short = ModelView(build(dare(dim=4, max_length=3, top_k=2)), SCHEMA, "category")
    assert torch.isinf(short.scores(batch)[:, : LENGTH - 3]).all()


def test_the_roles_of_dare_are_pairs_of_tables():
    tables = build(MODELS["dare"]).sequence.events
    pairs = paired_parameters(tables.attention, tables.representation)
    assert [tuple(table.shape) for table, _ in pairs] == [(26, 4), (2000, 4)]
    narrow = build(MODELS["narrow"]).sequence.events
    with pytest.raises(ValueError, match="the roles have other tables"):
        paired_parameters(narrow.attention, narrow.representation)


def test_refusals_name_the_value_and_the_repair():
    model = build(MODELS["dare"])
    with pytest.raises(DataError, match="'item' is no field of past events beside the item"):
        ModelView(model, SCHEMA, "item")
    plain = build(replace(MODELS["dare"], sequence=None, auxiliary=()))
    with pytest.raises(DataError, match="this model reads no behaviour sequence; choose a run of a model with one"):
        ModelView(plain, SCHEMA, "category")
