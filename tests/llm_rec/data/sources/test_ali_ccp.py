"""Ali-CCP on small files in its format, against a plain parser."""

import numpy as np
import pyarrow as pa
import pytest

from ctr_models.schema import RESERVED, MultiValue, Numeric
from llm_rec.cli import main
from llm_rec.data.ali_ccp_files import COMMON_FIELDS, read_packed
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_encoding import encode_log, log_fingerprint
from llm_rec.data.sources.ali_ccp import CROSS_FIELDS, ITEM_FIELDS, LIST_FIELDS, USER_FIELDS, AliCCPConfig
from llm_rec.data.sources.click_table import click_source
from llm_rec.errors import DataError

USERS = 6


def packed(features):
    return "\x01".join(f"{field}\x02{feature}\x03{value}" for field, feature, value in features)


def common_features(user, rng):
    """What is said of a user: one feature a field, now and then none, and lists of any length."""
    one = [(field, 1000 * place + user % 3, "1.0") for place, field in enumerate(USER_FIELDS[1:], start=1)]
    gone = rng.integers(0, len(one))
    lists = [(field, int(v), f"{rng.random():.3f}") for field in LIST_FIELDS for v in rng.integers(0, 9, user % 5)]
    mixed = [("101", user, "1.0"), *one[:gone], *one[gone + 1 :], *lists]
    return [mixed[place] for place in rng.permutation(len(mixed))]


def write_ali_ccp(folder, rows=80, seed=0, drop=None):
    """Both parts; equal indices mean other users in train and test. Returns rows as [click, buy, features] by part."""
    folder.mkdir(exist_ok=True)
    rng, written = np.random.default_rng(seed), {}
    for part in ("train", "test"):
        common = {f"{user:04x}ab": common_features(user + (1 if part == "test" else 0), rng) for user in range(USERS)}
        lines = [f"{key},{len(found)},{packed(found)}" for key, found in common.items()]
        (folder / f"common_features_{part}.csv").write_text("\n".join(lines) + "\n")
        lines, written[part] = [], []
        for row in range(rows):
            key = f"{rng.integers(0, USERS):04x}ab"
            click = int(rng.random() < 0.4)
            buy = int(rng.random() < 0.3)
            own = [(field, 10 * place + int(rng.integers(0, 4)), "1.0") for place, field in enumerate(ITEM_FIELDS)]
            own += [
                (field, int(rng.integers(0, 3)), f"{rng.random():.5f}") for field in CROSS_FIELDS if rng.random() < 0.8
            ]
            own += [("301", 1 + row % 4, "1.0"), ("210", 7, "1.0")]
            lines.append(f"{row},{click},{buy},{key},{len(own)},{packed(own)}")
            written[part].append((click, buy, [*own, *common[key]]))
        (folder / f"sample_skeleton_{part}.csv").write_text("\n".join(lines) + "\n")
    return written


def first(features, field, place=1):
    return next((found[place] for found in features if found[0] == field), None)


def test_columns_are_what_a_plain_parser_reads(tmp_path):
    rows = write_ali_ccp(tmp_path)["train"]
    columns = ["click", "consistent", "205", "210", "508", "508:value", "301", "101", "126", "109_14[3]", "702[1]"]
    batches = list(read_packed(tmp_path / "sample_skeleton_train.csv", columns))
    found = pa.Table.from_batches(batches).to_pydict()
    assert found["click"] == [str(click) for click, _, _ in rows]
    assert found["consistent"] == ["0" if buy and not click else "1" for click, buy, _ in rows]
    for field in ("205", "210", "508", "301", "101", "126"):
        assert found[field] == [first(features, field) for _, _, features in rows], field
    assert None in found["508"]
    values = [first(features, "508", 2) for _, _, features in rows]
    assert found["508:value"] == [None if value is None else float(value) for value in values]
    for field, length in (("109_14", 3), ("702", 1)):
        lists = [[f[1] for f in features if f[0] == field][:length] for _, _, features in rows]
        assert found[f"{field}[{length}]"] == lists
        assert {len(cells) for cells in lists} == ({0, 1, 2, 3} if length == 3 else {0, 1})


def test_blocks_do_not_change_what_is_read(tmp_path, monkeypatch):
    write_ali_ccp(tmp_path)
    columns = ["205", "101", "110_14[2]"]
    path = tmp_path / "sample_skeleton_test.csv"
    (whole,) = read_packed(path, columns)
    monkeypatch.setattr("llm_rec.data.ali_ccp_files._BLOCK", 1500)
    pieces = list(read_packed(path, columns))
    assert len(pieces) > 3
    assert pa.Table.from_batches(pieces).to_pydict() == whole.to_pydict()


def test_a_log_has_domains_tasks_and_the_parts_of_the_files(tmp_path):
    rows = write_ali_ccp(tmp_path / "raw")
    config = AliCCPConfig(path=tmp_path / "raw", min_count=1, list_length=2, values=True)
    log = encode_log(*click_source(config), tmp_path / "log", chunk_rows=13)
    assert log.schema.labels == ("click", "conversion")
    assert (log.schema.domain, log.schema.group) == ("301", "101")
    kept = {part: [r for r in found if first(r[2], "301") != 4 and (r[0] or not r[1])] for part, found in rows.items()}
    assert log.rows["test"] == len(kept["test"])
    assert log.rows["train"] + log.rows["validation"] == len(kept["train"])
    assert log.rows["validation"] > 0
    test = log.part("test")
    np.testing.assert_array_equal(test.labels, [[click, buy] for click, buy, _ in kept["test"]])
    names = [field.name for field in log.schema.fields]
    assert names == [
        *USER_FIELDS,
        *ITEM_FIELDS,
        *CROSS_FIELDS,
        "301",
        *LIST_FIELDS,
        *(f"{f}_value" for f in CROSS_FIELDS),
    ]
    domains = log.columns[names.index("301")].encoder.state["values"]
    assert sorted(domains) == ["1", "2", "3"]
    ids = test.ids[:, log.schema.id_columns["301"].start] - RESERVED
    assert [domains[place] for place in ids] == [str(first(features, "301")) for *_, features in kept["test"]]
    kinds = {field.name: type(field) for field in log.schema.fields}
    assert kinds["109_14"] is MultiValue
    assert kinds["853_value"] is Numeric
    groups = {first(features, "101"): group for (*_, features), group in zip(kept["test"], test.groups, strict=True)}
    assert len(set(groups.values())) == len(groups)


def test_rows_bought_without_a_click_and_single_tasks(tmp_path):
    rows = write_ali_ccp(tmp_path / "raw")
    config = AliCCPConfig(
        path=tmp_path / "raw", tasks=("click",), drop_inconsistent=False, domains=("1", "2", "3", "4")
    )
    log = encode_log(*click_source(config), tmp_path / "log")
    assert log.schema.labels == ("click",)
    assert log.rows["test"] == len(rows["test"])
    with pytest.raises(ValueError, match="tasks must name click, conversion, or both"):
        AliCCPConfig(path=tmp_path, tasks=())
    with pytest.raises(ValueError, match="list_length must not be negative, got -1"):
        AliCCPConfig(path=tmp_path, list_length=-1)


def test_folders_as_they_are_unpacked_and_both_files_are_in_the_fingerprint(tmp_path):
    write_ali_ccp(tmp_path)
    flat = click_source(AliCCPConfig(path=tmp_path))
    for part in ("train", "test"):
        (tmp_path / f"sample_{part}").mkdir()
        for name in ("sample_skeleton", "common_features"):
            (tmp_path / f"{name}_{part}.csv").rename(tmp_path / f"sample_{part}" / f"{name}_{part}.csv")
    files, spec = click_source(AliCCPConfig(path=tmp_path))
    assert [file.path.parent.name for file in files] == ["sample_train", "sample_test"]
    before = log_fingerprint(files, spec)
    common = tmp_path / "sample_test" / "common_features_test.csv"
    common.write_text(common.read_text().replace("\x03", "\x030", 1))
    assert log_fingerprint(files, spec) != before
    common.unlink()
    with pytest.raises(
        DataError, match="common_features_test.csv: no such file; it holds the user features of sample_sk"
    ):
        click_source(AliCCPConfig(path=tmp_path))
    (tmp_path / "sample_train" / "sample_skeleton_train.csv").unlink()
    with pytest.raises(DataError, match="no sample_skeleton_train.csv here, nor in sample_train; give the folder with"):
        click_source(AliCCPConfig(path=tmp_path))
    with pytest.raises(DataError, match="sample_skeleton_train.csv: no such file"):
        list(read_packed(flat.files[0].path, ["205"]))


@pytest.mark.parametrize(
    ("file", "old", "new", "columns", "message"),
    [
        (
            "common_features",
            "0002ab,",
            "9999zz,",
            ["101"],
            "'0002ab' is not in common_features_train.csv; the two files",
        ),
        ("common_features", "0002ab,", "0001ab,", ["101"], "common_feature_index '0001ab' has more than one line"),
        (
            "sample_skeleton",
            "301\x021\x03",
            "301\x02x1\x03",
            ["301"],
            "'301': a feature is no whole number below 2\\*\\*32",
        ),
        ("sample_skeleton", "301\x021\x031.0", "301\x021", ["301:value"], "'301': a value is missing or no number"),
        ("sample_skeleton", "0,", "", ["301"], "not lines of sample_id, click, buy, common_feature_index, feature_num"),
        ("sample_skeleton", "", "", ["price"], "no column 'price' in packed files; there are sample_id"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, file, old, new, columns, message):
    write_ali_ccp(tmp_path)
    path = tmp_path / f"{file}_train.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        list(read_packed(tmp_path / "sample_skeleton_train.csv", columns))


def test_an_empty_common_file_is_an_error(tmp_path):
    write_ali_ccp(tmp_path)
    (tmp_path / "common_features_train.csv").write_text("")
    with pytest.raises(DataError, match=r"common_features_train.csv: (no rows|not lines)"):
        list(read_packed(tmp_path / "sample_skeleton_train.csv", ["101"]))


def test_fields_of_users_are_those_of_the_common_file():
    assert {*USER_FIELDS, *LIST_FIELDS} == COMMON_FIELDS


def test_the_command_line_encodes_it(tmp_path, capsys):
    write_ali_ccp(tmp_path / "raw")
    words = ("clicks", "--workspace", str(tmp_path / "ws"), "--preset", "ali-ccp")
    main([*words, "--source.path", str(tmp_path / "raw"), "--source.min-count", "2"])
    assert "mean conversion" in capsys.readouterr().out
    log = ClickLog.load(tmp_path / "ws" / "clicks" / "ali-ccp")
    assert (log.schema.domain, log.schema.num_domains) == ("301", 3)
