"""``llm-rec tune-encoder`` and ``llm-rec encode --adapter``, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_rec.cli import main
from llm_rec.store import EmbeddingStore
from tests.llm_rec.encoders.tiny_models import make_bert

TITLES = [f"{colour} {noun}" for noun in ("kettle", "lamp", "puzzle") for colour in ("red", "tiny", "spicy", "quiet")]
TUNE = (
    *("--tuning.pairs.batch-size", "6", "--tuning.pairs.steps", "2", "--tuning.lora.rank", "2"),
    *("--tuning.trainer.epochs", "1", "--tuning.trainer.device", "cpu"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a catalog and a log, and a tiny model beside it."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "bert").mkdir()
    make_bert(folder / "bert", TITLES)
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", n) for u in range(30) for n, i in enumerate(rng.permutation(12)[:5])]
    pd.DataFrame(rows, columns=["user_id", "item_id", "order"]).to_parquet(folder / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{i}" for i in range(12)], "title": TITLES}).to_parquet(folder / "items.parquet")
    main(["data", "--preset", "folder", "--source.path", str(folder), "--workspace", str(folder / "ws")])
    return folder


def call(root: Path, verb: str, *words: str) -> None:
    main([verb, "--workspace", str(root / "ws"), "--encoder.model", str(root / "bert" / "sentence"), *words])


def test_an_adapter_is_tuned_and_encodes_under_its_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(root, "tune-encoder", "--preset", "both", "--name", "both", *TUNE)
    out = capsys.readouterr().out
    assert "validation recall@10 before" in out
    assert "llm-rec encode --adapter both --name both" in out
    call(root, "encode", "--name", "plain")
    call(root, "encode", "--name", "both", "--adapter", "both")
    stores = [EmbeddingStore.open(root / "ws" / "embeddings" / name) for name in ("plain", "both")]
    assert stores[0].manifest.inputs["encoder"] != stores[1].manifest.inputs["encoder"]
    assert np.abs(stores[0].all() - stores[1].all()).max() > 1e-6
    manifest = json.loads((root / "ws" / "adapters" / "both" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["inputs"]["catalog"]) == ("adapter", stores[0].manifest.inputs["catalog"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--adapter", "none"),
            "adapters/none: no adapter here (the folder does not exist); make one with `llm-rec tu",
        ),
        (("--adapter", "a", "--encoder.adapter", "b"), "adapter 'a' and encoder.adapter b are both set; set one"),
        (("--adapter", "a/b"), "'a/b' is not a plain name"),
    ],
)
def test_a_wrong_adapter_is_one_line(root: Path, words, message, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(root, "encode", "--name", "x", *words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_hashing_takes_no_adapter(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["encode", "--preset", "hashing", "--workspace", str(root / "ws"), "--adapter", "a"])
    assert "adapter belongs to a language model, and hashing is none" in capsys.readouterr().err
