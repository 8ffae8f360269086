"""Saved click models: equal probabilities without the training data, raw rows of any kind, exports equal to eager."""

import shutil

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from ctr_models.encode import (
    DenseConfig,
    HashConfig,
    LogBinsConfig,
    MultiValueConfig,
    NumberConfig,
    NumeralsConfig,
    QuantileConfig,
    SoftNumberConfig,
    VocabularyConfig,
)
from ctr_models.interactions import multi_embedding, presets
from ctr_models.layers import MLPConfig
from ctr_models.losses import JRCConfig
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.item_fields import ItemFieldsConfig, ItemTables
from llm_rec.ctr.log_rows import LogRowsConfig, write_log_rows
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.data import leave_one_out
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByFractionsConfig, ColumnSpec, LogSpec, TableFile
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ArtifactError, DataError
from llm_rec.frequency_gate import BucketGateConfig
from llm_rec.serving.click_export import export_click_model, exported_inputs, module_of
from llm_rec.serving.clicks import load_click_model, save_click_model
from semantic_ids.code_table import CodeTable
from semantic_ids.fusion import GateFusionConfig

ENCODERS = {
    "item": VocabularyConfig(min_count=2),
    "city": HashConfig(buckets=7),
    "age": QuantileConfig(bins=4),
    "views": LogBinsConfig(),
    "clicks": NumeralsConfig(scale="whole"),
    "price": NumberConfig(log=True),
    "rating": NumeralsConfig(levels=8, combine="concat"),
    "depth": SoftNumberConfig(meta_embeddings=3),
    "tags": MultiValueConfig(length=2, separator="|"),
    "image": DenseConfig(width=3),
}
HIDDEN = MLPConfig(widths=(8,), batch_norm=True, dropout=0.3)


def raw_rows(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    price = rng.random(rows) * 9
    price[::7] = np.nan
    return pd.DataFrame(
        {
            "item": [f"i{number}" for number in rng.integers(0, 30, rows)],
            "city": [None if number == 0 else f"c{number}" for number in rng.integers(0, 9, rows)],
            "age": rng.integers(15, 80, rows),
            "views": rng.integers(0, 300, rows),
            "clicks": rng.integers(0, 70, rows),
            "price": price,
            "rating": [None if number == 0 else number / 2 for number in rng.integers(0, 11, rows)],
            "depth": rng.normal(size=rows),
            "tags": ["|".join(f"t{t}" for t in rng.integers(0, 5, n)) for n in rng.integers(0, 4, rows)],
            "image": [vector.tolist() for vector in rng.normal(size=(rows, 3))],
            "label": rng.integers(0, 2, rows),
        }
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    raw_rows().to_parquet(folder / "rows.parquet")
    columns = tuple(ColumnSpec(name=name, encoder=encoder) for name, encoder in ENCODERS.items())
    spec = LogSpec(columns=columns, parts=ByFractionsConfig(validation=0.2, test=0.2))
    return encode_log((TableFile(path=folder / "rows.parquet"),), spec, folder / "log")


def saved(log, folder, method, items=None):
    torch.manual_seed(0)
    model = build_click_model(method, log.schema, items)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_click_model(folder, model.eval(), method, log, items, overwrite=True)
    return model


MODELS = {
    "dcn_v2": ClickMethodConfig(model=presets.dcn_v2(dim=4, num_layers=2, hidden=HIDDEN)),
    "deepfm": ClickMethodConfig(model=presets.deepfm(dim=4, hidden=HIDDEN)),
    "lr": ClickMethodConfig(model=presets.lr()),
    "jrc": ClickMethodConfig(model=presets.dnn(dim=4, hidden=HIDDEN), loss=JRCConfig()),
    "lazy": ClickMethodConfig(model=presets.pfl(dim=4, hidden=HIDDEN), tables="lazy_adam"),
    "multi": ClickMethodConfig(model=multi_embedding.multi_dcn_v2(num_tables=2, dim=4, num_layers=1)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_scores_raw_rows_as_the_model_scored_encoded_ones(log, tmp_path, name):
    method = MODELS[name]
    model = saved(log, tmp_path / "model", method)
    scorer = load_click_model(tmp_path / "model")
    frame = raw_rows()
    everything = scorer.score(frame)
    assert everything.shape == (len(frame),)
    assert ((everything > 0) & (everything < 1)).all()
    for part in ("train", "test"):
        columns = log.part(part)
        logits = click_logits(model, method.loss, columns)
        expected = 1 / (1 + np.exp(-logits))
        assert np.isin(np.round(expected, 5), np.round(everything, 5)).all()
    np.testing.assert_allclose(scorer.score(frame.iloc[:3]), everything[:3], atol=1e-6)
    assert scorer.score(frame.iloc[:0]).shape == (0,)


def test_rows_may_be_lists_arrays_or_a_frame_and_hold_values_never_seen(log, tmp_path):
    saved(log, tmp_path / "model", MODELS["dcn_v2"])
    scorer = load_click_model(tmp_path / "model")
    frame = raw_rows()
    assert scorer.columns == tuple(ENCODERS)
    by_list = {name: [None if value is np.nan else value for value in frame[name].tolist()] for name in ENCODERS}
    by_array = {name: frame[name].to_numpy() for name in ENCODERS}
    np.testing.assert_array_equal(scorer.score(frame), scorer.score(by_list))
    np.testing.assert_array_equal(scorer.score(frame), scorer.score(by_array))
    new = frame.iloc[:2].assign(item=["never", None], city=["nowhere", None], tags=["x|y|z", ""], views=[10**9, None])
    assert np.isfinite(scorer.score(new)).all()


def test_rows_that_cannot_be_scored_are_named(log, tmp_path):
    saved(log, tmp_path / "model", MODELS["dcn_v2"])
    scorer = load_click_model(tmp_path / "model")
    frame = raw_rows(4)
    with pytest.raises(DataError, match="the rows have no column 'age'; a model of this log needs item, city, age"):
        scorer.score(frame.drop(columns="age"))
    with pytest.raises(DataError, match="column 'age': 'old' is not a number; repair or remove this value"):
        scorer.score(frame.assign(age=["old"] * 4))
    with pytest.raises(DataError, match=r"columns have different numbers of rows: \{'item': 3, 'city': 4"):
        scorer.score({**{name: frame[name].tolist() for name in ENCODERS}, "item": ["a", "b", "c"]})
    with pytest.raises(DataError, match="column 'image': a vector has 2 numbers, expected 3"):
        scorer.score(frame.assign(image=[[1.0, 2.0]] * 4))


def test_a_damaged_folder_is_refused(log, tmp_path):
    saved(log, tmp_path / "model", MODELS["dcn_v2"])
    for file, message in (
        ("model.safetensors", "not the weights of this model"),
        ("click_model.json", "not a saved click model"),
        ("encoders.json", "not the encoders of a click log"),
    ):
        shutil.copytree(tmp_path / "model", tmp_path / "damaged", dirs_exist_ok=True)
        (tmp_path / "damaged" / file).write_text("[1]" if file.endswith("json") else "none")
        with pytest.raises(ArtifactError, match=message):
            load_click_model(tmp_path / "damaged")
    with pytest.raises(ArtifactError, match="holds a click-log, not a click-model"):
        load_click_model(log.path)


@pytest.mark.parametrize("name", ["dcn_v2", "jrc", "multi"])
def test_exports_equal_eager_for_every_batch_size(log, tmp_path, name):
    saved(log, tmp_path / "model", MODELS[name])
    scorer = load_click_model(tmp_path / "model")
    written = export_click_model(scorer, tmp_path / "out", ("pt2", "onnx"))
    program = torch.export.load(written["pt2"]).module()
    session = onnxruntime.InferenceSession(written["onnx"])
    assert [found.name for found in session.get_inputs()] == ["ids", "numbers", "dense"]
    frame = raw_rows(50, seed=3)
    for size in (1, 2, 50):
        expected = scorer.score(frame.iloc[:size])
        inputs = exported_inputs(scorer.encode(frame.iloc[:size]), scorer.schema)
        np.testing.assert_allclose(program(*inputs.values()).detach().numpy(), expected, atol=1e-6)
        (found,) = session.run(["probabilities"], {key: value.numpy() for key, value in inputs.items()})
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_codes_texts_and_gates_are_in_the_artefact(tmp_path):
    world = planted_world(40, 24, num_clusters=3, seed=1)
    log = write_log_rows(leave_one_out(world.log), world.catalog, tmp_path / "log", LogRowsConfig(item_ids="catalog"))
    counts = log.train_counts("item", label="label")[1:]
    counts[0] = 0
    codes = CodeTable.from_codes(np.random.default_rng(0).integers(0, 5, (24, 3)), (5, 5, 5))
    fields = ItemFieldsConfig(fusion=GateFusionConfig(), texts=True, gate=BucketGateConfig(num_buckets=3))
    method = ClickMethodConfig(model=presets.dcn_v2(dim=4, num_layers=1, hidden=HIDDEN), item_fields=fields)
    model = saved(log, tmp_path / "model", method, ItemTables(counts, codes, world.embeddings))
    scorer = load_click_model(tmp_path / "model")
    torch.testing.assert_close(scorer.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    cold = world.catalog.item_ids[int(np.flatnonzero(world.unseen)[0]) - 1]
    warm = world.catalog.item_ids[int(np.flatnonzero(~world.unseen)[1]) - 1]
    scores = scorer.score({"user": ["user-0"] * 3, "item": [cold, warm, "never"]})
    assert len(set(scores.tolist())) == 3
    program = torch.export.load(export_click_model(scorer, tmp_path / "out")["pt2"]).module()
    inputs = exported_inputs(scorer.encode({"user": ["user-0"], "item": [cold]}), scorer.schema)
    np.testing.assert_allclose(program(*inputs.values()).detach().numpy(), scores[:1], atol=1e-6)
    assert list(module_of(scorer).widths) == ["ids"]
