"""What the documents tell people to type works: options parse, targets exist, Python runs, links lead somewhere."""

import re
import runpy
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_rec.artifacts import read_json
from llm_rec.cli import VERBS, main
from llm_rec.data import FrequencyBuckets
from llm_rec.data.synthetic import planted_world
from llm_rec.metrics.significance import Difference
from llm_rec.metrics.slices import target_slices
from llm_rec.metrics.summary import summarise
from llm_rec.report.report import Comparison, Report

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "scripts" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[tuple[str, ...]]:
    """Words of every line of a bash block that starts with `program`, comments gone, continuation lines joined."""
    found = []
    for path in DOCUMENTS:
        for block in blocks(path, "bash"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [tuple(shlex.split(line, comments=True)[1:]) for line in lines if line.startswith(program + " ")]
    return found


def run(code: str, folder: Path) -> None:
    """Run a Python block as a program of its own."""
    (folder / "block.py").write_text(code)
    runpy.run_path(str(folder / "block.py"))


@pytest.mark.parametrize("words", sorted(set(commands("llm-rec"))), ids=" ".join)
def test_every_llm_rec_line_parses(words: tuple[str, ...], monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    if "--help" in words:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
    elif words[0] == "config":
        main(words)
    else:
        main(["config", "show", *words])
    assert capsys.readouterr().out


def test_every_verb_is_in_the_table_of_the_readme() -> None:
    rows = re.findall(r"^\| `([a-z -]+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert rows == list(VERBS)


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = {words[0] for words in commands("make")}
    assert {"demo", "test"} <= named <= set(targets)


def test_every_extra_exists() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("[project.scripts]")[0]
    extras = set(re.findall(r"^([a-z]+) =", section, flags=re.MULTILINE))
    named = {name for path in DOCUMENTS for name in re.findall(r"\.\[([a-z]+)\]", path.read_text())}
    assert "demo" in named <= extras


def test_every_script_that_is_named_exists() -> None:
    named = {name for path in DOCUMENTS for name in re.findall(r"python (scripts/\S+\.py)", path.read_text())}
    missing = {name for name in named if not (ROOT / name).is_file()}
    assert named
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "llm_rec").iterdir() if not path.name.startswith("_")}
    named = {name.rstrip("/") for name in re.findall(r"`([a-z_]+/?)`", text)}
    assert rooms - {"py.typed", "doctor"} <= named
    paths = re.findall(r"`([a-z_/]+/[a-z_]+\.py)`", text)
    assert paths
    assert not [p for p in paths if not any((ROOT / top / p).is_file() for top in (".", "llm_rec"))]


def test_report_json_has_the_keys_of_its_document(tmp_path: Path, monkeypatch, capsys) -> None:
    counts = np.array([0, 0, 3, 12])
    slices = target_slices(np.array([1, 2, 3]), counts, FrequencyBuckets.fit(counts))
    values = {name: np.array([0.0, 0.5, 1.0]) for name in ("recall@10", "ndcg@10")}
    report = Report.of("sasrec", {"test": summarise(values, slices, samples=10)})
    report.save(tmp_path / "workspace" / "runs" / "sasrec")
    text = (ROOT / "docs" / "report.md").read_text()
    plain = read_json(tmp_path / "workspace" / "runs" / "sasrec" / "report.json")
    rows = " ".join(re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE))
    documented = set(re.findall(r"`([a-z_]+)[.`]", rows))
    assert set(plain) <= documented
    assert {f.name for f in fields(Comparison)} <= documented
    sliced = text.replace("`bucket_1` ... `bucket_10`", " ".join(f"`bucket_{n}`" for n in range(1, 11)))
    assert all(f"`{name}`" in sliced for name in slices)
    assert all(f"`{field.name}`" in text for field in fields(Difference))
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "docs" / "report.md", "python")
    run(block, tmp_path)
    assert capsys.readouterr().out.startswith("sasrec: 0.2500 (0.")


def test_the_python_blocks_run_as_they_stand(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    world = planted_world(40, 30, num_clusters=3, seed=3)
    titles = pd.DataFrame({"sku": world.catalog.item_ids, "title": world.catalog.texts, "brand": "none"})
    titles.to_csv(tmp_path / "items.csv", index=False)
    world.log.export(tmp_path / "log.parquet", world.catalog)
    log = pd.read_parquet(tmp_path / "log.parquet").rename(columns={"user_id": "customer", "item_id": "sku"})
    log.to_csv(tmp_path / "events.csv", index=False)
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "README.md", "python")
    assert len(code) == 2
    for block in code:
        run(block, tmp_path)
    first, *items = capsys.readouterr().out.splitlines()
    assert 0 <= float(first) <= 1
    assert len(items) == 3
    assert all(re.fullmatch(r"item-\d+ .* none -?\d+\.\d+", item.replace(" by none", " none")) for item in items)
    assert not {"item-1", "item-2"} & {item.split()[0] for item in items}
