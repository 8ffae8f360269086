"""Tables of click models, end to end on made-up logs: rows, choices by validation, figures, measures, resumption."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from ctr_models.interactions.named import PRESETS
from ctr_models.losses import BCEConfig, JRCConfig, click_loss
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.data.columns import ClickLog
from llm_rec.data.sources.frappe import FIELDS
from llm_rec.errors import ConfigError, DataError
from llm_rec.recipes.click_logs import click_log
from tests.scripts.loading import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ipa() -> ModuleType:
    return load("ipa_table")


@pytest.fixture(scope="module")
def collapse() -> ModuleType:
    return load("collapse_table")


@pytest.fixture(scope="module")
def ranking() -> ModuleType:
    return load("ranking_loss_table")


@pytest.fixture(scope="module")
def frappe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 rows of ten fields; users like items of their own parity."""
    folder = tmp_path_factory.mktemp("frappe")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.integers(0, 4 + place, 600) for place, name in enumerate(FIELDS)})
    liked = (frame["user"] + frame["item"]) % 2 == 0
    frame["label"] = (rng.random(600) < np.where(liked, 0.6, 0.1)).astype(np.int64)
    frame["split"] = np.array(["train", "validation", "test"])[np.minimum(np.arange(600) % 5, 2)]
    frame.astype(dict.fromkeys(FIELDS, "str")).to_parquet(folder / "ctr.parquet")
    return folder


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("movies")
    items = {"item_id": [f"i{i}" for i in range(20)], "title": [f"film {i}" for i in range(20)]}
    pd.DataFrame({**items, "genres": ["Action|War", "Drama"] * 10}).to_parquet(folder / "items.parquet")
    rng = np.random.default_rng(0)
    events = [(f"u{u}", f"i{i}", k) for u in range(12) for k, i in enumerate(rng.permutation(20)[:8].tolist())]
    pd.DataFrame(events, columns=["user_id", "item_id", "order"]).to_parquet(folder / "interactions.parquet")
    users = {"user_id": [f"u{u}" for u in range(12)], "gender": ["F", "M"] * 6, "age": ["1", "25", "50"] * 4}
    pd.DataFrame({**users, "occupation": ["a"] * 12}).to_parquet(folder / "users.parquet")
    return folder


def run(script: ModuleType, data: list[Path], out: Path, *options: str) -> int:
    words = ["--data", *map(str, data), "--out", str(out), "--jobs", "1", "--epochs", "1", *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", *words])
        status: int = script.main()
    return status


def read_table(out: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads((out / "table.json").read_text()))


def read_tests(out: Path) -> set[tuple[str, str]]:
    tests = pd.DataFrame(json.loads((out / "tests.json").read_text()))
    return set(zip(tests.model, tests.baseline, strict=True))


def test_the_best_setting_by_validation_gets_all_seeds_and_pfl_is_tested(
    ipa: ModuleType, frappe: Path, tmp_path: Path
) -> None:
    rows = ["FM", "PFL", "DCNv2 (BARS setting)"]
    assert run(ipa, [frappe], tmp_path, "--seeds", "2", "--rows", *rows) == 0
    tuning = json.loads((tmp_path / "tuning.json").read_text())
    for name, number in {"FM": 4, "PFL": 3}.items():
        tried = {entry["candidate"]: entry["validation"] for entry in tuning["tried"] if entry["row"] == name}
        assert len(tried) == number
        assert tried[tuning["chosen"][name]] == max(tried.values())
    frame = read_table(tmp_path)
    assert set(frame.model) == set(rows)
    assert (frame.seeds == 2).all()
    assert read_tests(tmp_path) == {("PFL", "FM")}
    text = (tmp_path / "table.md").read_text()
    assert "| DCNv2 (BARS, published) | 5 | 0.98382 ± 0.00043 |" in text

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(before) == (4 + 1) + (3 + 1) + 2  # seed 0 of the chosen is a cell of the tuning
    assert run(ipa, [frappe], tmp_path, "--seeds", "2", "--rows", *rows) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == before
    assert (tmp_path / "table.md").read_text() == text


def test_every_preset_builds_and_is_tuned_by_dropout_where_it_has_any(
    ipa: ModuleType, frappe: Path, tmp_path: Path
) -> None:
    log = ClickLog.load(click_log(frappe, tmp_path))
    batch = next(ClickBatches(log, "train", ClickBatchConfig(batch_size=8)).epoch(1))
    args = ipa.options().parse_args(["--data", str(frappe)])
    assert len(ipa.PRESETS) == sum(not name.startswith("multi_") for name in PRESETS)
    for name in ipa.PRESETS:
        points = ipa.grid(name, 10)
        with_dropout = ipa.preset(name, 10, 0.4) != ipa.preset(name, 10, 0.0)
        assert len(set(points)) == (3 if with_dropout else 4)
        assert any(point.dropout for point in points) == with_dropout
        model = build_click_model(ipa.method(ipa.preset(name, 10, 0.0), points[0], args), log.schema)
        assert torch.isfinite(model(batch)).all(), name


def test_peers_get_the_encoded_rows_and_our_equal_setting(ipa: ModuleType, frappe: Path, tmp_path: Path) -> None:
    path = click_log(frappe, tmp_path)
    log = ClickLog.load(path)
    with np.load(ipa.write_rows(path, tmp_path / "peers" / "rows.npz")) as arrays:
        assert arrays["sizes"].tolist() == [field.size for field in log.schema.id_fields]
        assert np.array_equal(arrays["test_ids"], log.part("test").ids)
        assert np.array_equal(arrays["train_labels"], log.part("train").labels[:, 0])
    args = ipa.options().parse_args(["--data", str(frappe)])
    rows = {row.name: row.method for row in ipa.fixed_rows(path, 10, args)}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "peers"))
        peer = load("peers/fuxictr_quality").options().parse_args(["--rows", "x", "--model", "dcnv2"])
    for name in ("DCNv2", "DeepFM", "FM"):
        method = rows[f"{name} (equal setting)"]
        assert method.model.dim == peer.dim
        assert method.batches.batch_size == peer.batch_size
        assert (method.trainer.epochs, method.trainer.learning_rate) == (peer.epochs, peer.learning_rate)
        assert method.trainer.clip_norm == peer.clip_norm
        assert method.embedding_l2 == method.trainer.weight_decay == 0
    deep = rows["DeepFM (equal setting)"].model.towers[-1].hidden
    assert list(deep.widths) == peer.hidden


def test_collapse_compares_sets_with_width_and_draws_figures(
    collapse: ModuleType, frappe: Path, movies: Path, tmp_path: Path
) -> None:
    rows = ["DNN single", "DCNv2 single", "DCNv2 multi", "DCNv2 multi: weight alignment"]
    assert run(collapse, [frappe, movies], tmp_path, "--quick", "--rows", *rows) == 0
    frame = read_table(tmp_path)
    found = set(zip(frame.model, frame.data, frame.factor, strict=True))
    assert (rows[3], frappe.name, 3) in found
    assert (rows[3], movies.name, 3) not in found
    assert (rows[2], movies.name, 1) not in found
    same = f"(data {frappe.name}, factor 3)"
    assert (f"DCNv2 multi {same}", f"DCNv2 single {same}") in read_tests(tmp_path)
    assert (f"DCNv2 multi {same}", f"DCNv2 single (data {frappe.name}, factor 1)") in read_tests(tmp_path)
    assert (f"{rows[3]} {same}", f"DCNv2 multi {same}") in read_tests(tmp_path)
    abundance = frame[frame.metric == "abundance"]
    assert ((abundance["mean"] >= 1) & (abundance["mean"] <= 30)).all()
    assert set(frame[frame.metric == "abundance_projected"].model) == set(rows[1:])
    text = (tmp_path / "table.md").read_text()
    assert f"| {frappe.name} | DCNv2 | 3x: " in text
    pages = [path.read_text() for path in (tmp_path / "figures").glob("*.html")]
    assert len(pages) == 7
    assert all("<script" not in page and "Spectra, " in page and "Sub-embeddings, " in page for page in pages)


def test_claims_are_judged_by_the_spread_over_seeds(collapse: ModuleType) -> None:
    assert collapse.difference({0: 0.9, 1: 0.91}, {0: 0.8, 1: 0.81}, 3) == "3x: +0.10000 ± 0.00000, higher"
    assert collapse.difference({0: 0.9, 1: 0.7}, {0: 0.8, 1: 0.8}, 3).endswith("within noise")
    assert collapse.difference({0: 0.7}, {0: 0.8, 1: 0.8}, 10) == "10x: -0.10000 (one seed)"


def test_the_full_grid_of_collapse_has_what_the_reduced_leaves_out(
    collapse: ModuleType, frappe: Path, census: Path, tmp_path: Path
) -> None:
    def names(grid: str, data: Path, *, first: bool) -> set[tuple[str, object]]:
        words = ["--data", str(data), "--out", str(tmp_path), "--grid", grid]
        rows = collapse.data_rows(data, collapse.options().parse_args(words), first=first)
        return {(row.name, row.columns["factor"]) for row in rows}

    wide = ("DCNv2 single", 10)
    assert wide not in names("reduced", census, first=False)
    assert names("full", census, first=False) - names("reduced", census, first=False) == {wide}
    assert wide in names("reduced", frappe, first=True)
    assert {factor for name, factor in names("reduced", frappe, first=True) if name == "NFwFM multi"} == {3, 10}
    whole = names("full", frappe, first=True)
    assert {factor for name, factor in whole if name == "DCNv2 multi: me-si"} == {2, 3, 4, 10}
    assert {factor for name, factor in whole if name == "xDeepFM multi"} == {2, 3, 4, 10}
    assert {factor for name, factor in whole if name == "IPNN multi"} == {1, 2, 3, 4, 10}


def test_losses_are_compared_with_bce_at_each_level_of_both_knobs(
    ranking: ModuleType, frappe: Path, movies: Path, tmp_path: Path
) -> None:
    rows = ["BCE", "JRC"]
    assert run(ranking, [frappe, movies], tmp_path, "--quick", "--rows", *rows, "--batch-size", "64") == 0
    frame = read_table(tmp_path)
    assert list(dict.fromkeys(frame.model)) == rows
    assert set(frame.level) == {"weight 0.1", "weight 1.0", "positives 0.1"}
    rates = frame[(frame.metric == "positive_rate") & (frame.data == movies.name)].set_index(["model", "level"])["mean"]
    assert rates["BCE", "weight 1.0"] == pytest.approx(0.5)
    assert rates["BCE", "weight 0.1"] == rates["JRC", "positives 0.1"] == pytest.approx(0.1 / 1.1)
    plain = frame[(frame.level == "weight 1.0") & (frame.model == "BCE")].set_index(["metric", "data"])["mean"]
    assert plain["log_loss", frappe.name] == pytest.approx(plain["weighted_log_loss", frappe.name])
    same = f"(data {frappe.name}, level weight 0.1)"
    assert (f"JRC {same}", f"BCE {same}") in read_tests(tmp_path)
    chosen = json.loads((tmp_path / "tuning.json").read_text())["chosen"]
    assert chosen[f"BCE, {frappe.name}, weight 0.1"] == "plain"
    assert chosen[f"JRC, {frappe.name}, weight 0.1"] in ("alpha 0.5", "alpha 0.9")


@pytest.mark.parametrize("loss", [BCEConfig(pos_weight=0.4), JRCConfig(pos_weight=0.4)])
def test_negative_gradients_are_those_of_autograd(
    ranking: ModuleType, frappe: Path, tmp_path: Path, loss: BCEConfig | JRCConfig
) -> None:
    log = ClickLog.load(click_log(frappe, tmp_path))
    torch.manual_seed(0)
    model = build_click_model(ClickMethodConfig(loss=loss), log.schema).eval()
    found = {r.metric: r.value for r in ranking.NegativeGradients(loss, 50, batches=3)(model, log)}
    means = []
    source = ClickBatches(log, "train", ClickBatchConfig(batch_size=50))
    for _, batch in zip(range(3), source.epoch(1), strict=False):
        logits = model(batch).detach().requires_grad_()
        click_loss(loss, logits, batch.labels[:, 0]).total.backward()
        size = logits.grad[:, -1].abs()
        means.append([size[batch.labels[:, 0] == label].mean().item() for label in (0, 1)])
    expected = np.mean(means, axis=0)
    assert found["negative_gradient"] == pytest.approx(expected[0], rel=1e-4)
    assert found["positive_gradient"] == pytest.approx(expected[1], rel=1e-4)


def test_a_folder_of_no_known_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of ctr\.parquet, train\.parquet, interactions\.parquet is here"):
        click_log(tmp_path, tmp_path / "logs")


def test_unknown_rows_are_refused(ipa: ModuleType, frappe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no row is called 'PFX'"):
        run(ipa, [frappe], tmp_path, "--rows", "PFX")
