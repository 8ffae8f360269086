"""docs/generative.md as somebody would follow it: its commands and its Python, in order."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from llm_rec.cli import main
from llm_rec.codec import kind_of
from llm_rec.data.synthetic import planted_world
from llm_rec.recipes.workspace import Workspace
from llm_rec.sequential.items import ItemsConfig

TEXT = (Path(__file__).parents[2] / "docs" / "generative.md").read_text()
SHAPE = "--method.model.shape"
SMALL = {
    "index": ("--quantizer.codebook-size", "4", "--quantizer.fit.steps", "5", "--quantizer.fit.warmup-steps", "1"),
    "train": (
        f"{SHAPE}.dim", "8", f"{SHAPE}.num-layers", "1", f"{SHAPE}.num-decoder-layers", "1", f"{SHAPE}.num-heads", "1",
        "--method.trainer.epochs", "1", "--method.validation-targets", "5", "--evaluation.samples", "5",
    ),
    "evaluate": ("--evaluation.samples", "5"),
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_the_commands_lead_to_recommendations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    world = planted_world(12, 40, num_clusters=3, lengths=(4, 6))
    place = Workspace(Path("workspace"))
    world.catalog.save(place.catalog)
    world.log.save(place.interactions)
    main(["encode", "--preset", "hashing", "--encoder.dim", "16"])
    for line in blocks("bash")[0].splitlines():
        words = [word.replace("ann", "user-3") for word in shlex.split(line)[1:]]
        capsys.readouterr()
        main([*words, *SMALL.get(words[0], ())])
    assert len(re.findall(r"item-\d+", capsys.readouterr().out)) >= 10


def test_the_python_says_what_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "block.py").write_text(blocks("python")[0])
    runpy.run_path(str(tmp_path / "block.py"))
    same, proven, invalid = capsys.readouterr().out.splitlines()
    assert same == "same ten items: True"
    assert proven == "proven: True"
    assert re.fullmatch(r"invalid without the constraint: \d+ of 10", invalid)


def test_the_kinds_of_the_table_exist() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE))
    assert named < {kind_of(member) for member in ItemsConfig.__args__}
    assert "ngram_items" in named
