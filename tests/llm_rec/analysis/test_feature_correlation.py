"""What fields say about a label: against loops and known truths; ids that say nothing held out; planted pairs."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from ctr_models.encode import DenseConfig, MultiValueConfig, NumberConfig, NumeralsConfig, VocabularyConfig
from llm_rec.analysis.feature_correlation import FeatureCorrelationConfig, feature_correlation, normalised_information
from llm_rec.ctr.planted import planted_clicks
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByFractionsConfig, ColumnSpec, LabelSpec, LogSpec, TableFile
from llm_rec.errors import ConfigError, DataError
from tests.llm_rec.ctr.worlds import write_log

ENCODERS = {
    "item": VocabularyConfig(),
    "noise": VocabularyConfig(),
    "row": VocabularyConfig(),
    "age": NumberConfig(),
    "level": NumeralsConfig(scale="whole"),
    "tags": MultiValueConfig(length=2, separator="|"),
    "image": DenseConfig(width=2),
}
ITEM_RATES = np.array([0.1, 0.1, 0.8, 0.5])


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Clicks depend on the item alone; `level` and `tags` say the item, `row` tells every row apart."""
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    rows = 6000
    item = rng.integers(0, 4, rows)
    frame = pd.DataFrame(
        {
            "item": item,
            "noise": rng.integers(0, 5, rows),
            "row": np.arange(rows),
            "age": np.where(item == 2, 30.0, rng.normal(size=rows)),
            "level": item,
            "tags": [f"a|b{number}" for number in item],
            "image": list(rng.normal(size=(rows, 2))),
            "label": (rng.random(rows) < ITEM_RATES[item]).astype(int),
        }
    )
    frame.to_parquet(folder / "rows.parquet")
    columns = tuple(ColumnSpec(name=name, encoder=encoder) for name, encoder in ENCODERS.items())
    spec = LogSpec(columns=columns, parts=ByFractionsConfig(validation=0.1, test=0.3))
    return encode_log((TableFile(path=folder / "rows.parquet"),), spec, folder / "log")


def test_held_out_information_finds_the_truth_where_counts_in_sample_do_not(log):
    found = feature_correlation(log, "test", FeatureCorrelationConfig())
    by_name = {record.fields[0]: record for record in found.fields}
    share = ITEM_RATES.mean()
    bits = [(p * math.log(p / q)) for rate in ITEM_RATES for p, q in ((rate, share), (1 - rate, 1 - share))]
    truth = sum(bits) / 4
    for name in ("item", "level", "tags"):
        assert by_name[name].held_out == pytest.approx(truth, abs=0.02)
        assert by_name[name].corrected == pytest.approx(truth, abs=0.02)
    assert by_name["row"].plug_in == pytest.approx(found.label_entropy)
    assert by_name["row"].held_out == 0
    assert by_name["row"].values == log.rows["train"]
    assert abs(by_name["noise"].held_out) < 0.002
    assert abs(by_name["noise"].corrected) < 0.002
    assert 0.05 < by_name["age"].held_out < truth
    assert [record.held_out for record in found.fields] == sorted((r.held_out for r in found.fields), reverse=True)
    assert found.skipped == ("image",)
    assert found.names == tuple(name for name in ENCODERS if name != "image")


def test_fields_that_say_each_other_are_told_from_chance(log):
    found = feature_correlation(log, "test", FeatureCorrelationConfig())
    at = {name: place for place, name in enumerate(found.names)}
    assert found.nmi[at["item"], at["level"]] == pytest.approx(1)
    assert found.nmi[at["item"], at["tags"]] == pytest.approx(1)
    assert found.nmi_chance[at["item"], at["level"]] < 0.01
    assert found.nmi[at["item"], at["noise"]] < 0.01
    np.testing.assert_allclose(found.nmi[at["row"]], found.nmi_chance[at["row"]])  # a value a row goes with anything
    np.testing.assert_array_equal(found.nmi, found.nmi.T)


def test_normalised_information_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 4, 300), rng.integers(0, 900, 300), np.zeros(300, dtype=np.int64), np.ones(300, np.int64)]
    codes.append(codes[0] // 2)

    def h(values):
        return -sum(n / 300 * math.log(n / 300) for n in Counter(values).values())

    found, chance = normalised_information(codes)
    for a in range(5):
        for b in range(5):
            first, second = codes[a].tolist(), codes[b].tolist()
            total = h(first) + h(second)
            expected = 2 * (total - h(list(zip(first, second, strict=True)))) / total if total else 1.0
            assert found[a, b] == pytest.approx(expected, abs=1e-12)
    assert chance[0, 4] < 0.05 < found[0, 4]


def test_a_planted_pair_says_what_its_fields_do_not(tmp_path):
    log = write_log(planted_clicks(6000, strength=2.5), tmp_path)
    found = feature_correlation(log, "test", FeatureCorrelationConfig(pairs=3))
    assert all(abs(record.held_out) < 0.01 for record in found.fields)
    assert found.pairs[0].fields == ("field_0", "field_1")
    assert found.pairs[0].gain > 0.1
    assert len(found.pairs) == 3
    assert found.pairs[1].held_out < 0.02


def test_a_share_of_the_rows_is_drawn_by_the_seed(log):
    few = [feature_correlation(log, "test", FeatureCorrelationConfig(max_rows=500, seed=seed)) for seed in (0, 0, 1)]
    assert few[0].rows == 500
    assert few[0].fields == few[1].fields != few[2].fields


def test_what_cannot_be_counted_is_named(log, tmp_path):
    with pytest.raises(ConfigError, match="pairs must not be negative and max_rows at least 1, got -1 and 200000"):
        FeatureCorrelationConfig(pairs=-1)
    with pytest.raises(ConfigError, match="there is no label 'buy'; the log has label"):
        feature_correlation(log, "test", FeatureCorrelationConfig(label="buy"))
    frame = pd.DataFrame({"a": range(50), "image": [[0.0, 1.0]] * 50, "label": [0] * 25 + [1] * 25, "none": 0})
    frame.to_parquet(tmp_path / "rows.parquet")
    files = (TableFile(path=tmp_path / "rows.parquet"),)
    for name, columns, label, message in (
        ("one", {"a": VocabularyConfig()}, "none", "all train rows have one value of label 'none'; nothing can say"),
        ("dense", {"image": DenseConfig(width=2)}, "label", "every field holds vectors; there are no values to count"),
    ):
        specs = tuple(ColumnSpec(name=column, encoder=encoder) for column, encoder in columns.items())
        spec = LogSpec(columns=specs, parts=ByFractionsConfig(test=0.2), labels=(LabelSpec(name=label),))
        with pytest.raises(DataError, match=message):
            feature_correlation(encode_log(files, spec, tmp_path / name), "test", FeatureCorrelationConfig())
