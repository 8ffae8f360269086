"""The table of generative retrieval, end to end on a planted folder."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from llm_rec.errors import ConfigError
from llm_rec.experiment import Cell
from llm_rec.recipes import generative_tables
from llm_rec.recipes.hybrid import HybridMethodConfig
from llm_rec.recipes.presets import tiger
from semantic_ids.quantizers import RQKMeansConfig
from tests.scripts.loading import load


@pytest.fixture(scope="module", name="script")
def fixture_script() -> ModuleType:
    module = load("generative_table")
    module.QUANTIZERS = {"rqvae": RQKMeansConfig(num_codebooks=2, codebook_size=3)}
    return module


def run(script: ModuleType, data: Path, out: Path, *options: str) -> int:
    words = ["--data", str(data), "--out", str(out), "--encoder", "hashing", "--jobs", "1", "--epochs", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", *words, *options])
        status: int = script.main()
    return status


def args(script: ModuleType, *words: str):
    return script.options().parse_args(["--data", "d", *words])


def test_rows_curves_shares_and_the_hybrid(
    script: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [script.TUNED, script.MASKED, script.MODERN, script.HYBRID, "codes (bigrams)"]
    ledger = tmp_path / "cells.jsonl"
    assert run(script, data, tmp_path / "a", "--rows", *rows, "--ledger", str(ledger)) == 0
    frame = pd.DataFrame(json.loads((tmp_path / "a" / "table.json").read_text()))
    assert set(frame.model) == set(rows)
    found = frame.set_index(["model", "metric", "slice"])["mean"]
    for name in rows:
        assert found[name, "targets", "all"] == 60
        assert found[name, "targets", "unseen"] == 6
        assert 0 <= found[name, "recall@10", "all"] <= 1
    for name in ("invalid ids@10", "invalid ids@1", "lists@10 proven exact"):
        assert 0 <= found[script.MODERN, name, "all"] <= 1
    assert 0 <= found[script.HYBRID, "weight of the dense score", "all"] <= 1
    curve = frame[frame.slice == "curve"]
    assert set(curve.metric) == {"recall@10", "ndcg@10"}
    assert set(curve.model) == {script.MODERN}
    assert (curve.steps > 0).all()
    text = (tmp_path / "a" / "table.md").read_text()
    assert "| model | steps | validation metric | value |" in text
    assert capsys.readouterr().out.endswith(text + "\n")
    assert not list((tmp_path / "a" / "runs").rglob("model.safetensors"))

    assert run(script, data, tmp_path / "b", "--rows", *rows, "--ledger", str(ledger)) == 0
    assert not (tmp_path / "b" / "runs").exists()  # the ledger knew every cell
    assert (tmp_path / "b" / "table.json").read_text() == (tmp_path / "a" / "table.json").read_text()


def test_a_hybrid_alone_asks_for_its_rows(script: ModuleType, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a hybrid row needs the row 'generative .modern.'; name it in --rows too"):
        run(script, data, tmp_path, "--rows", script.HYBRID, script.MASKED)


def test_plain_rows_are_the_methods_of_other_tables(script: ModuleType) -> None:
    rows = list(script.table_rows(args(script)))
    sequential = load("sequential_table")
    others = {row.name: row.method for row in sequential.table_rows(sequential.Setup(), 1)}
    assert {row.name: row.method for row in rows if row.name in others} == {
        name: others[name] for name in (script.TUNED, script.MASKED)
    }


def test_the_paper_config_is_the_published_recipe(script: ModuleType) -> None:
    methods = {row.name: row.method for row in script.table_rows(args(script, "--config", "paper"))}
    assert methods[script.TIGER] == tiger()
    light = {row.name: row.method for row in script.table_rows(args(script))}[script.TIGER]
    assert light.trainer.epochs == 24
    assert light.trainer.warmup_steps / light.trainer.epochs == pytest.approx(10_000 / 390, rel=0.01)
    assert light.model.shape == script.LIGHT


def test_other_parts_make_another_hybrid(script: ModuleType) -> None:
    row = generative_tables.HybridRow(name="h", method=HybridMethodConfig(dense="a", generative="b"))
    one, other = (generative_tables.hybrid_cell(row, 0, {"a": mark, "b": "y"}) for mark in ("x", "z"))
    assert isinstance(one, Cell)
    assert one != other
