"""The analyses together, on a planted log and models that do and do not attend to what was planted."""

import numpy as np
import pytest
import torch

from ctr_models.schema import Categorical, Schema
from llm_rec.analysis.category_information import CategoryCounter
from llm_rec.analysis.discriminability import cluster_information
from llm_rec.analysis.search_quality import estimated_gains, search_curves, summarise_search, well_counted
from llm_rec.analysis.sequence_analysis import (
    SequenceAnalysisConfig,
    SequenceMaterial,
    SequenceView,
    analyse_sequence,
    category_field,
    count_categories,
)
from llm_rec.analysis.target_attention import attention_map, attention_scores
from llm_rec.errors import ConfigError, DataError
from tests.llm_rec.analysis.sequences import (
    CATEGORIES,
    LENGTH,
    NAMES,
    PARTS,
    SCHEMA,
    Pooling,
    View,
    material,
    oracle,
    planted_truth,
)

CONFIG = SequenceAnalysisConfig(
    max_length=LENGTH, top=3, positions=5, k=4, min_target=100, min_cell=5, clusters=(2, 5), num_seeds=2
)


def test_train_rows_are_counted_once_and_alone():
    counts = count_categories(material(), CONFIG)
    counter = CategoryCounter(CATEGORIES, LENGTH)
    for batch in PARTS["train"]:
        clicked = batch.labels[:, 0].numpy() > 0.5
        counter.update(batch.ids[:, 0].numpy(), batch.history.ids[:, :, 1].numpy(), clicked)
    assert np.array_equal(counts.counts, counter.counts().counts)
    assert counts.targets.sum() == 3000


def test_every_figure_is_that_of_its_own_function():
    view = View(Pooling())
    found = analyse_sequence(view, material(), CONFIG)
    counts = count_categories(material(), CONFIG)
    assert isinstance(view, SequenceView)
    assert found.maps.targets.tolist() == counts.top_targets(3).tolist()
    assert np.array_equal(found.maps.learned, attention_map(view.attention, found.maps.targets, found.maps.targets, 5))
    assert found.correlation.target == found.maps.targets[0]
    assert found.correlation.learned.shape == (3, 5)
    parts = []
    for batch in PARTS["test"]:
        target, history = batch.ids[:, 0].numpy(), batch.history.ids[:, :, 1].numpy()
        kept = well_counted(counts, target, history, min_target=100, min_cell=5)
        scores, gains = attention_scores(view.attention, target, history), estimated_gains(counts, target, history)
        parts.append(search_curves(scores[kept], gains[kept], history[kept] > 0, k=4))
    assert np.array_equal(found.search["category and position"].ndcg, summarise_search(parts).ndcg)
    assert found.search["whole score"].rows == found.search["category and position"].rows
    assert not np.array_equal(found.search["whole score"].ndcg, found.search["category and position"].ndcg)
    (first, second) = PARTS["test"]
    clicked = np.concatenate([batch.labels[:, 0].numpy() > 0.5 for batch in (first, second)])
    features = [view.features(batch).detach() for batch in (first, second)]
    expected = cluster_information(torch.cat(features), clicked, clusters=(2, 5), num_seeds=2)
    assert found.clusters == expected
    assert not found.planted


def test_attention_that_is_what_was_planted_is_found_so():
    right, wrong = (analyse_sequence(View(model), material(), CONFIG) for model in (oracle(Pooling()), Pooling()))
    by = "category and position"
    assert right.search[by].ndcg[-1] > wrong.search[by].ndcg[-1] + 0.1
    assert right.maps.agreement > 0.7 > wrong.maps.agreement
    planted = analyse_sequence(View(oracle(Pooling())), material(planted_truth()), CONFIG)
    assert planted.planted
    assert planted.search[by].ndcg[-1] == pytest.approx(1)
    assert planted.search[by].rows < 400  # rows without a match have nothing to find
    assert planted.means()["ndcg@4, category and position"] == pytest.approx(1)
    assert planted.means()["overlap@4, category and position"] == planted.search[by].overlap[-1]


def test_a_model_without_attention_has_truth_and_clusters():
    found = analyse_sequence(View(Pooling(), plain=True), material(), CONFIG)
    assert found.maps.learned is None
    assert found.correlation.learned is None
    assert found.search == {}
    assert set(found.means()) == {"information, 2 clusters", "information, 5 clusters"}


def test_only_so_many_events_and_rows_are_looked_at():
    few = SequenceAnalysisConfig(
        max_length=3, positions=3, k=2, min_target=1, min_cell=1, clusters=(2,), num_seeds=1, max_rows=300
    )
    found = analyse_sequence(View(Pooling()), material(), few)
    clicked = np.concatenate([batch.labels[:, 0].numpy() > 0.5 for batch in PARTS["test"]])[:300]
    features = torch.cat([View(Pooling()).features(batch).detach() for batch in PARTS["test"]])[:300]
    assert found.clusters == cluster_information(features, clicked, clusters=(2,), num_seeds=1)
    assert count_categories(material(), few).length == 3


def test_limits_that_no_row_meets_leave_the_search_out():
    strict = SequenceAnalysisConfig(
        max_length=LENGTH, positions=5, min_cell=10**6, max_thin=0, clusters=(2,), num_seeds=1, min_target=10**6
    )
    assert analyse_sequence(View(Pooling()), material(), strict).search == {}


def test_refusals_name_the_value_and_the_repair():
    view = View(Pooling())
    with pytest.raises(DataError, match=r"the history has no field 'brand' \(it has: item, category\)"):
        analyse_sequence(view, material(), SequenceAnalysisConfig(category="brand"))
    with pytest.raises(DataError, match="field 'category' has 6 ids but 2 names; give one for each"):
        analyse_sequence(view, SequenceMaterial(SCHEMA, PARTS.get, NAMES[:2]), CONFIG)
    with pytest.raises(DataError, match="no train row has a past event with a category; read the log with histories"):
        analyse_sequence(view, SequenceMaterial(SCHEMA, lambda part: [], NAMES), CONFIG)
    only_train = SequenceMaterial(SCHEMA, lambda part: PARTS["train"] if part == "train" else [], NAMES)
    with pytest.raises(DataError, match="there are no test rows to analyse; encode the log with such a part"):
        analyse_sequence(view, only_train, CONFIG)
    with pytest.raises(DataError, match=r"test rows: clusters must lie in 1\.\.400, the rows to fit on"):
        analyse_sequence(
            view, material(), SequenceAnalysisConfig(max_length=LENGTH, positions=5, clusters=(401,), num_seeds=1)
        )
    for wrong, message in (
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"positions": 9, "max_length": 8}, "positions 9 must not exceed max_length 8"),
        ({"clusters": ()}, r"clusters must be numbers of at least 1, got \(\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            SequenceAnalysisConfig(**wrong)


def test_the_category_is_the_second_field_of_the_history_unless_named():
    fields = tuple(Categorical(name=name, size=5) for name in ("user", "item", "genre"))
    schema = Schema(fields=fields, history=("item", "genre"))
    assert category_field(schema, None) == "genre"
    assert category_field(schema, "brand") == "brand"
    with pytest.raises(DataError, match="^past events have an item alone; make the log with a category among its hist"):
        category_field(Schema(fields=fields, history=("item",)), None)
