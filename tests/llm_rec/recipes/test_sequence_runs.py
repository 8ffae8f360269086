"""A run's model, rows and trial, from a click log with histories."""

import json

import numpy as np
import pytest
import torch

from ctr_models.losses import CrossEntropyConfig
from ctr_models.schema import Categorical, Schema
from ctr_models.sequences.presets import dare, din_unsearched, tin
from llm_rec.analysis.category_information import category_rows
from llm_rec.analysis.sequence_analysis import SequenceAnalysisConfig
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.data.columns import ClickColumns, ClickLog, ClickWriter
from llm_rec.data.event_store import EventStore
from llm_rec.errors import DataError
from llm_rec.recipes.analyze_sequence import AnalyzeSequenceJob, analyse_run
from llm_rec.recipes.click_runs import ClickMaterial
from llm_rec.recipes.sequence_runs import id_names, sequence_run

SIZES = {"user": 22, "item": 40, "category": 6}
SCHEMA = Schema(
    fields=tuple(Categorical(name=name, size=size) for name, size in SIZES.items()), history=("item", "category")
)
EVENTS, LENGTH = 30, 8


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """20 users of 30 events; each row looks back on those before it; category is 2 + item % 4."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("log")
    items = rng.integers(2, SIZES["item"], 20 * EVENTS)
    events = EventStore.of(np.stack([items, 2 + items % 4], axis=1).astype(np.int32), None)
    sizes = {"train": 800, "test": 200}
    with ClickWriter(path, SCHEMA, (), sizes, events=events) as writer:
        for part, number in sizes.items():
            user, seen = rng.integers(0, 20, number), rng.integers(0, EVENTS, number)
            item = rng.integers(2, SIZES["item"], number)
            empty = np.zeros((number, 0), dtype=np.float32)
            windows = np.stack([1 + user * EVENTS, 1 + user * EVENTS + seen], axis=1)
            ids = np.stack([user + 2, item, 2 + item % 4], axis=1).astype(np.int32)
            labels = (rng.random((number, 1)) < 0.4).astype(np.float32)
            writer.append(part, ClickColumns(ids, empty, empty, labels, windows=windows.astype(np.int64)))
    return ClickLog(path, SCHEMA, (), sizes, "none")


def opened(log, model, loss=None, **tables):
    method = ClickMethodConfig(
        model=model, loss=loss or CrossEntropyConfig(), batches=ClickBatchConfig(batch_size=100), **tables
    )
    torch.manual_seed(0)
    trained = build_click_model(method, log.schema)
    return sequence_run(trained, method, ClickMaterial(log, None, {}), "category", batch_size=64, seed=0)


def test_a_run_is_analysed_with_its_gradients(log, tmp_path):
    run = opened(log, dare(dim=4, max_length=LENGTH, top_k=3, attention_dims=(2,)), tables="lazy_adam")
    config = SequenceAnalysisConfig(
        max_length=LENGTH, top=3, positions=4, k=3, min_target=1, min_cell=1, clusters=(2,), num_seeds=1
    )
    job = AnalyzeSequenceJob(name="dare", gradient_steps=12, analysis=config)
    found = analyse_run(job, run, tmp_path)
    assert len(found.gradients.cosine) == 12
    assert len(found.gradients.row_pairs) == SIZES["category"]
    assert (found.gradients.pairs > 0).all()
    figures = json.loads((tmp_path / "sequence.json").read_text())
    assert figures["own_category"]["categories"] == [str(place) for place in found.maps.targets.tolist()]
    assert set(figures["search"]) == {"category and position", "whole score"}


def test_rows_come_in_order_with_their_histories_every_time(log):
    run = opened(log, tin(dim=4, max_length=LENGTH))
    for _ in range(2):
        rows = [category_rows(batch, SCHEMA, "category") for batch in run.material.batches("test")]
        assert np.array_equal(np.concatenate([part.target for part in rows]), log.part("test").ids[:, 2])
        assert max(part.history.shape[1] for part in rows) == LENGTH


def test_a_single_table_model_is_probed_with_two(log):
    for model in (tin(dim=4, max_length=LENGTH), din_unsearched(dim=4, max_length=LENGTH)):
        report = opened(log, model).trial(3).report()
        assert len(report.cosine) == 3
        assert (report.representation_norm > 0).all()


def test_names_are_the_values_of_the_vocabulary_or_numbers(log):
    assert id_names(log, "category") == ("0", "1", "2", "3", "4", "5")


def test_a_model_without_a_sequence_is_refused(log):
    with pytest.raises(DataError, match="this run's model reads no behaviour sequence; choose a run of a model with"):
        opened(log, ClickMethodConfig().model)
