"""The table of semantic codes, end to end on a planted folder, and the identities it rests on."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from llm_rec.ctr.item_fields import ItemFieldsConfig, ItemTables
from llm_rec.ctr.method import build_click_model
from llm_rec.data.columns import ClickLog
from llm_rec.errors import ConfigError
from llm_rec.recipes.click_tables import ItemSource, item_tables, select_clicks
from llm_rec.recipes.material import CODES_FILE
from llm_rec.recipes.semantic_tables import SemanticData, codes_path
from semantic_ids.code_table import CodeTable
from semantic_ids.quantizers import FitConfig, RQVAEConfig
from tests.scripts.loading import load

SIZES = ["--codebook-size", "3", "--dim", "4"]
# Topics are planted, so parallel books are near copies here, which `health` warns of.
pytestmark = pytest.mark.filterwarnings("ignore::semantic_ids.health.RedundantBooksWarning")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("moc_table")


def run(script: ModuleType, data: Path, out: Path, *options: str) -> int:
    words = ["--data", str(data), "--out", str(out), "--encoder", "hashing", "--jobs", "1", *SIZES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", *words, *options])
        patch.setattr(script, "HIDDEN", script.MLPConfig(widths=(8,)))
        status: int = script.main()
    return status


@pytest.fixture(scope="module")
def quick(script: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick table at scales 1 and 2, two epochs."""
    out = tmp_path_factory.mktemp("moc")
    assert run(script, data, out, "--scales", "1", "2", "3", "--quick") == 0
    return out


def read(path: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads(path.read_text()))


def test_every_row_of_two_scales_is_trained_and_moc_is_tested_against_each(quick: Path) -> None:
    frame = read(quick / "table.json")
    names = {name.removeprefix("DCNv2: ") for name in frame.model}
    at_two = {"dense-2", "ME-2", "ME-2, gate", "RQ-2", "MoC-2", "MoC-2, gate", "MoC-2, frequency gate"}
    at_one = {"no semantic", "dense-1", "ME-1 = RQ-1 = MoC-1", "MoC-1, gate", "MoC-1, frequency gate", "PQ-1"}
    assert names == at_one | at_two | {"random-1", "PQ-2", "random-2"}
    assert (frame.seeds == 1).all()
    tests = read(quick / "tests.json")
    assert set(tests[tests.model == "DCNv2: MoC-2"].baseline) == {
        f"DCNv2: {name}" for name in ("no semantic", "ME-2", "RQ-2", "PQ-2", "dense-2", "random-2")
    }
    assert set(tests.metric) == {"auc"}
    assert "| DCNv2: MoC-2, gate | lt5 | 0." in (quick / "table.md").read_text()


def test_slices_count_train_positives_not_sampled_negatives(quick: Path) -> None:
    frame = read(quick / "table.json")
    found = frame[(frame.model == "DCNv2: no semantic") & (frame.metric == "rows")].set_index("slice")["mean"]
    log = ClickLog.load(next((quick / "logs").iterdir()))
    test = log.part("test")
    items = test.ids[:, log.schema.id_columns["item"].start]
    positives = log.train_counts("item", label="label")[items]
    assert (log.train_counts("item")[items][positives == 0] > 0).any()
    assert (found["all"], found["unseen"]) == (120, (positives == 0).sum())
    assert found["lt5"] == (positives < 5).sum()


def test_spectrum_is_that_of_n_fields_and_relative_to_one_book(quick: Path) -> None:
    frame = read(quick / "table.json")
    spectra = frame[frame["method"].isin(["MoC", "VQ", "ME"])].set_index(["method", "metric"])["mean"]
    assert spectra["VQ", "width"] == 4
    assert spectra["MoC", "width"] == spectra["ME", "width"] == 8
    assert 1 <= spectra["MoC", "information_abundance"] <= 8
    ratio = spectra["MoC", "effective_rank"] / spectra["VQ", "effective_rank"]
    assert spectra["MoC", "effective_rank / 1x"] == pytest.approx(ratio)
    assert spectra["VQ", "effective_rank / 1x"] == 1
    assert frame[frame.model == "DCNv2: no semantic"].metric.isin(["width"]).sum() == 0


def test_figures_of_codes_keep_the_information_bounds(quick: Path) -> None:
    codes = read(quick / "codes.json").set_index(["model", "books", "metric"])["mean"]
    for name in ("moc-2", "rq-2", "pq-2", "random-2"):
        one, two = codes[name, 1, "plug_in"], codes[name, 2, "plug_in"]
        assert 0 <= one <= two + 1e-12
        assert two <= codes[name, 2, "item_plug_in"] + 1e-12 <= codes[name, 2, "label_entropy"] + 2e-12
        assert codes[name, 2, "novelty"] == pytest.approx(two - one)
        assert 0 <= codes[name, 2, "nmi_mean"] <= codes[name, 2, "nmi_largest"] <= 1
        assert 0 <= codes[name, 2, "collision_rate"] < 1
    assert ("moc-1", 1, "nmi_mean") not in codes.index


def test_at_scale_one_me_rq_and_moc_are_one_model(script: ModuleType, tmp_path: Path, quick: Path) -> None:
    """Codes of RQ-VAE with one level and of MoC with one book, and the trainings on them: equal to the last bit."""
    setup = script.Setup(codebook_size=3, dim=4, epochs=2, fit=FitConfig(steps=40, warmup_steps=10))
    moc = setup.quantizers([1])["moc-1"]
    level = RQVAEConfig(num_codebooks=1, codebook_size=3, autoencoder=moc.autoencoder, fit=moc.fit)
    path = next((quick / "logs").iterdir())
    codes, figures = [], []
    for name, config in (("rq-1", level), ("moc-1", moc)):
        assert script.run_codes(quick, path, {name: config}, seeds=1)[0].status == "done"
        folder = codes_path(quick, name, config, 0)
        codes.append(CodeTable.load(folder / CODES_FILE).codes)
        row = script.ClickRow(
            name="row",
            method=setup.method(script.deepfm(dim=4, hidden=script.MLPConfig(widths=(8,))), next(one_code(script))),
            log=path,
            seeds=1,
            items=ItemSource(codes=(folder,)),
        )
        result = script.run_clicks(tmp_path / name, [row])[0]
        figures.append({r.metric: r.value for r in result.records if r.metric in ("auc", "log_loss", "validation")})
    assert np.array_equal(*codes)
    assert len(np.unique(codes[0])) > 1
    assert figures[0] == figures[1]
    assert len(figures[0]) == 3


def one_code(script: ModuleType) -> Iterator[ItemFieldsConfig]:
    """Fields of the row that stands for ME, RQ and MoC at scale 1; ME's are the same with one copy."""
    found: Iterator[ItemFieldsConfig] = (s.fields for s in script.at(1) if s.name == script.ONE)
    return found


def parameters(script: ModuleType, quick: Path, fields: ItemFieldsConfig | None, items: ItemTables | None) -> int:
    log = ClickLog.load(next((quick / "logs").iterdir()))
    model = build_click_model(script.Setup(dim=4).method(script.deepfm(dim=4), fields), log.schema, items)
    assert model.sources is not None
    return sum(parameter.numel() for parameter in model.sources.parameters())


def test_downstream_parameters_match_at_every_scale(script: ModuleType, quick: Path) -> None:
    log = ClickLog.load(next((quick / "logs").iterdir()))
    number = log.schema.id_fields[1].size - 2
    rng = np.random.default_rng(0)
    counts = np.r_[0, np.ones(number, dtype=np.int64)]
    size, dim = 16, 4
    without = parameters(script, quick, None, None)
    embeddings = rng.normal(size=(number + 1, size)).astype(np.float32)
    for scale in (1, 2, 3, 7):
        one = CodeTable.from_codes(rng.integers(0, size, (number, 1)), (size,))
        many = CodeTable.from_codes(rng.integers(0, size, (number, scale)), (size,) * scale)
        found = {}
        for semantics in script.at(scale):
            if semantics.fields.gate is None and isinstance(semantics.fields.fusion, script.NoFusionConfig | None):
                codes = one if semantics.codes == "moc-1" else many
                items = ItemTables(counts, codes, embeddings)
                found[semantics.name] = parameters(script, quick, semantics.fields, items) - without
        dense = found.pop(f"dense-{scale}")
        assert dense == scale * size * dim
        assert set(found.values()) == {dense + scale * dim}  # a padding row a table


def test_each_seed_fits_and_reads_codes_of_its_own(script: ModuleType, quick: Path) -> None:
    setup = script.Setup(codebook_size=3, epochs=1, dim=4, fit=FitConfig(steps=60, warmup_steps=20))
    config = setup.quantizers([2])["moc-2"]
    path = next((quick / "logs").iterdir())
    assert [r.cell.seed for r in script.run_codes(quick, path, {"moc-2": config}, seeds=2)] == [0, 1]
    folders = tuple(codes_path(quick, "moc-2", config, seed) for seed in range(2))
    source = ItemSource(codes=folders)
    for seed, folder in enumerate(folders):
        tables = item_tables(ClickLog.load(path), source, seed)
        assert tables.codes is not None
        assert np.array_equal(tables.codes.codes, CodeTable.load(folder / CODES_FILE).codes)
    row = script.ClickRow(name="row", method=setup.method(script.deepfm(dim=4), None), log=path, seeds=2, items=source)
    alone = script.replace(row, items=ItemSource(codes=folders[:1] * 2))
    assert row.setting == alone.setting  # one row, whatever the seed
    assert row.setting != script.replace(row, items=ItemSource(codes=folders[0])).setting


def test_the_whole_grid_has_four_backbones_and_one_name_a_row(script: ModuleType, quick: Path) -> None:
    args = script.options().parse_args(["--data", "x", "--out", str(quick)])
    log = next((quick / "logs").iterdir())
    rows = list(script.table_rows(script.Setup(), SemanticData(log=log, adapter=quick), args))
    names = [row.name for row in rows]
    assert len(names) == len(set(names)) == 34 + 3 * 16
    assert {row.columns["scale"] for row in rows if row.columns["backbone"] == "DeepFM"} == {0, 1, 3}
    assert {row.columns["backbone"] for row in rows} == {"DCNv2", "DeepFM", "AutoInt+", "xDeepFM"}
    with pytest.raises(ConfigError, match=r"no row is called 'DCNv2: MoC-4'; did you mean 'DCNv2: MoC-\d'\?"):
        select_clicks(rows, ["DCNv2: MoC-4"])
