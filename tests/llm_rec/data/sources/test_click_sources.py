"""Sources of click logs, each on tiny files in its exact format."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_models.encode import VocabularyConfig
from ctr_models.schema import RESERVED, UNKNOWN, Categorical, Numeric
from llm_rec.codec import to_plain
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByFilesConfig, ByFractionsConfig, ColumnSpec, LabelSpec, LogSpec, TableFile
from llm_rec.data.sources import avazu as avazu_module
from llm_rec.data.sources import census as census_module
from llm_rec.data.sources.avazu import AvazuConfig
from llm_rec.data.sources.census import CensusConfig
from llm_rec.data.sources.click_table import ClickTableConfig, click_source
from llm_rec.data.sources.criteo import CATEGORIES, NUMBERS, CriteoConfig
from llm_rec.data.sources.frappe import FIELDS, FrappeConfig
from llm_rec.errors import DataError

HALVES = ByFractionsConfig(validation=0.25, test=0.25)


def criteo_rows(number):
    """Cells of rows as Criteo writes them: counts and 8 hexadecimal digits, both with gaps."""
    rng = np.random.default_rng(0)
    for row in range(number):
        counts = ["" if value == 3 else str(value - 2) for value in rng.integers(0, 9, 13).tolist()]
        names = ["" if value == 0 else f"{value:08x}" for value in rng.integers(0, 4, 26).tolist()]
        yield [str(row % 2), *counts, *names]


def write_bars(folder, header, rows, delimiter=","):
    for place, name in enumerate(("train.csv", "valid.csv", "test.csv")):
        part = rows[place * 10 : place * 10 + 10]
        (folder / name).write_text("\n".join(delimiter.join(row) for row in [header, *part]) + "\n")


def encoded(config, tmp_path):
    return encode_log(*click_source(config), tmp_path / "log")


def test_criteo_of_kaggle_has_tabs_gaps_and_no_header(tmp_path):
    rows = list(criteo_rows(60))
    (tmp_path / "train.txt").write_text("\n".join("\t".join(row) for row in rows) + "\n")
    log = encoded(CriteoConfig(path=tmp_path / "train.txt", min_count=2, parts=HALVES), tmp_path)
    assert sum(log.rows.values()) == 60
    assert [field.name for field in log.schema.fields] == [*NUMBERS, *CATEGORIES]
    assert all(isinstance(field, Categorical) for field in log.schema.fields)
    values = log.columns[0].encoder.state["values"]
    # counts -2 .. 6 without 1 (its cell is empty): 5 and 6 lie in bins floor(ln(v)**2) = 2 and 3, 3 and 4 in bin 1
    assert set(values) <= {"-4", "-3", "-2", "0", "1", "2", "3", None}
    assert None in log.columns[20].encoder.state["values"]


@pytest.mark.parametrize(("variant", "label"), [("x1", "label"), ("x4", "Label")])
def test_criteo_of_bars_comes_in_three_files(tmp_path, variant, label):
    write_bars(tmp_path, [label, *NUMBERS, *CATEGORIES], list(criteo_rows(30)))
    log = encoded(CriteoConfig(path=tmp_path, variant=variant, min_count=1), tmp_path)
    assert dict(log.rows) == {"train": 10, "validation": 10, "test": 10}
    kind = Numeric if variant == "x1" else Categorical
    assert [isinstance(field, kind) for field in log.schema.fields[:13]] == [True] * 13
    if variant == "x1":
        rows = list(criteo_rows(10))
        expected = [[float(cell) if cell else 0.0 for cell in row[1:14]] for row in rows]
        np.testing.assert_array_equal(log.part("train").numbers, np.array(expected, dtype=np.float32))


def test_a_split_of_bars_without_a_file_or_a_label_is_refused(tmp_path):
    write_bars(tmp_path, ["clicked", *NUMBERS, *CATEGORIES], list(criteo_rows(30)))
    with pytest.raises(DataError, match=r"train.csv: no column label or Label in the header \(clicked, I1,"):
        click_source(CriteoConfig(path=tmp_path, variant="x1"))
    (tmp_path / "valid.csv").unlink()
    with pytest.raises(DataError, match="valid.csv: no such file; a BARS split is train.csv, valid.csv, test.csv"):
        click_source(CriteoConfig(path=tmp_path, variant="x1"))


def avazu_rows(names, number):
    rng = np.random.default_rng(1)
    return [[str(10**17 + row), str(row % 2), *map(str, rng.integers(0, 3, len(names)))] for row in range(number)]


@pytest.mark.parametrize("variant", ["kaggle", "x1", "x4"])
def test_avazu_drops_the_row_name_and_keeps_22_fields(tmp_path, variant):
    names = [f"feat_{i}" for i in range(1, 23)] if variant == "x1" else list(avazu_module.FIELDS)
    rows, header = avazu_rows(names, 30), ["id", "click", *names]
    if variant == "x1":
        rows, header = [row[1:] for row in rows], ["label", *names]
    write_bars(tmp_path, header, rows)
    path = tmp_path
    if variant == "kaggle":
        path = tmp_path / "train"  # the name does not say the format
        path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    log = encoded(AvazuConfig(path=path, variant=variant, min_count=1, parts=HALVES), tmp_path)
    assert sum(log.rows.values()) == 30
    assert [field.name for field in log.schema.fields] == names
    assert len(names) == 22


@pytest.mark.parametrize(("variant", "criteo_count", "avazu_count"), [("x4", 10, 4), ("x1", 1, 1), ("kaggle", 10, 4)])
def test_published_thresholds_are_the_defaults(tmp_path, variant, criteo_count, avazu_count):
    write_bars(tmp_path, ["label"], [])
    for config, expected in (
        (CriteoConfig(path=tmp_path, variant=variant), criteo_count),
        (AvazuConfig(path=tmp_path, variant=variant), avazu_count),
    ):
        assert click_source(config).spec.columns[-1].encoder == VocabularyConfig(min_count=expected)


def test_frappe_keeps_its_parts_and_groups_users(tmp_path):
    rng = np.random.default_rng(2)
    splits = ["train"] * 20 + ["validation"] * 5 + ["test"] * 5
    columns = {name: [str(value) for value in rng.integers(0, 4, 30)] for name in FIELDS}
    extra = {"label": pa.array([row % 3 == 0 for row in range(30)]).cast(pa.int8()), "log_row": range(30)}
    pq.write_table(pa.table({**columns, **extra, "split": splits}), tmp_path / "ctr.parquet")
    log = encoded(FrappeConfig(path=tmp_path), tmp_path)
    assert dict(log.rows) == {"train": 20, "validation": 5, "test": 5}
    assert [field.name for field in log.schema.fields] == list(FIELDS)
    train = log.part("train")
    pairs = {(user, group) for user, group in zip(train.ids[:, 0].tolist(), train.groups.tolist(), strict=True)}
    assert len(pairs) == len({user for user, _ in pairs}) == len({group for _, group in pairs})


def write_census(folder):
    rng = np.random.default_rng(3)
    for name, rows in (("train", 40), ("test", 12)):
        numbers = {column: rng.integers(0, 50, rows) for column in census_module.NUMBERS}
        texts = {column: rng.choice(["?", "x", "Not in universe"], rows) for column in census_module.CATEGORIES}
        texts["marital_stat"] = rng.choice(["Never married", "Widowed"], rows)
        label = {"unknown": rng.random(rows) * 1e3, "income_above_50k": rng.integers(0, 2, rows).astype(np.int8)}
        pq.write_table(pa.table({**numbers, **texts, **label}), folder / f"{name}.parquet")


def test_census_income_has_40_fields_and_draws_validation_rows_from_train(tmp_path):
    write_census(tmp_path)
    log = encoded(CensusConfig(path=tmp_path, bins=4), tmp_path)
    assert len(log.schema.fields) == 40
    assert log.rows["test"] == 12
    assert log.rows["train"] + log.rows["validation"] == 40
    assert log.rows["validation"] > 0


def test_the_marital_label_of_census_income_is_no_field(tmp_path):
    write_census(tmp_path)
    log = encoded(CensusConfig(path=tmp_path, marital_task=True, bins=None), tmp_path)
    assert log.schema.labels == ("income", "never_married")
    assert "marital_stat" not in [field.name for field in log.schema.fields]
    assert len(log.schema.number_columns) == 7
    status = pq.read_table(tmp_path / "test.parquet")["marital_stat"].to_pylist()
    assert log.part("test").labels[:, 1].tolist() == [float(value == "Never married") for value in status]


def test_a_table_of_your_own_needs_a_spec_file(tmp_path):
    (tmp_path / "a.csv").write_text("shop,click\n007,1\n7,0\n007,1\n")
    (tmp_path / "b.tsv").write_text("shop\tclick\n7\t1\n007\t0\nnew\t0\n")
    spec = LogSpec(
        columns=(ColumnSpec(name="shop", encoder=VocabularyConfig()),),
        labels=(LabelSpec(name="click"),),
        parts=ByFilesConfig(),
    )
    (tmp_path / "spec.json").write_text(json.dumps(to_plain(spec)))
    files = (TableFile(path=tmp_path / "a.csv", part="train"), TableFile(path=tmp_path / "b.tsv", part="test"))
    log = encoded(ClickTableConfig(files=files, spec_file=tmp_path / "spec.json"), tmp_path)
    assert log.part("train").ids.ravel().tolist() == [RESERVED, RESERVED + 1, RESERVED]  # 007 is not 7
    assert log.part("test").ids.ravel().tolist() == [RESERVED + 1, RESERVED, UNKNOWN]
    assert click_source(ClickTableConfig(files=files, spec=spec)).spec == spec


def test_spec_files_that_are_none_are_named(tmp_path):
    files = (TableFile(path=tmp_path / "a.csv"),)
    with pytest.raises(DataError, match="spec.json: no such file; spec_file is a LogSpec as JSON"):
        click_source(ClickTableConfig(files=files, spec_file=tmp_path / "spec.json"))
    (tmp_path / "spec.json").write_text('{"columns": [], "splits": 1}')
    with pytest.raises(DataError, match="spec.json: splits: unknown key; did you mean 'parts'"):
        click_source(ClickTableConfig(files=files, spec_file=tmp_path / "spec.json"))
    with pytest.raises(ValueError, match="set exactly one of spec and spec_file"):
        ClickTableConfig(files=files)
    with pytest.raises(ValueError, match="set exactly one of files and paths, to at least one file"):
        ClickTableConfig(files=(), spec_file=tmp_path / "spec.json")
