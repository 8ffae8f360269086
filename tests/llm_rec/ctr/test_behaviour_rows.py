"""Rows of behaviour logs: DARE's sample rule, and impressions, against loops."""

from dataclasses import replace

import numpy as np
import pytest

from ctr_models.encode import MultiValueConfig
from llm_rec.artifacts import read_manifest
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.behaviour_rows import (
    ImpressionRowsConfig,
    OffsetRowsConfig,
    offset_rows,
    write_behaviour_rows,
)
from llm_rec.data import Catalog, Interactions
from llm_rec.data.behaviours import behaviours_of
from llm_rec.data.log_spec import ColumnSpec
from llm_rec.errors import ArtifactError, DataError

KIND = ColumnSpec(name="kind", column="kinds", encoder=MultiValueConfig(length=1, separator="|"))
SMALL = OffsetRowsConfig(min_events=12, train_positives=3, train_step=4, negatives=2)


def behaviours(sizes=(12, 5, 20, 13), num_items=60, seed=0, *, timed=True):
    rng = np.random.default_rng(seed)
    kinds = ["|".join(f"k{kind}" for kind in rng.integers(0, 4, 2)) for _ in range(num_items)]
    catalog = Catalog([f"i{row}" for row in range(num_items)], [""] * num_items, {"kinds": kinds})
    times = np.concatenate([np.sort(rng.integers(0, 999, size)) for size in sizes]) if timed else None
    log = Interactions(
        [f"u{user}" for user in range(len(sizes))],
        np.cumsum([0, *sizes]),
        rng.integers(1, num_items // 2, sum(sizes)) + rng.integers(0, 2, sum(sizes)),
        times,
        num_items=num_items,
        catalog=catalog.fingerprint,
    )
    return behaviours_of(log, catalog, [KIND])


def test_the_default_is_the_published_rule():
    config = OffsetRowsConfig()
    assert config.offsets("train") == tuple(range(3, 94, 5))
    assert len(config.offsets("train")) == 19
    assert (config.offsets("validation"), config.offsets("test"), config.min_events, config.negatives) == (
        (2,),
        (1,),
        210,
        2,
    )


def test_rows_are_those_of_a_loop(tmp_path):
    log = behaviours()
    out = write_behaviour_rows(log, tmp_path / "log", SMALL)
    rows = offset_rows(log, SMALL)
    assert dict(out.rows) == {"train": 3 * 3 * 3, "validation": 9, "test": 9}
    assert out.schema.history == ("item", "kind")
    for part, offsets in (("train", (11, 7, 3)), ("validation", (2,)), ("test", (1,))):
        columns = out.part(part)
        batch = to_batch(columns, 30)
        row = 0
        for user in (0, 2, 3):
            start, end = log.offsets[user : user + 2].tolist()
            own = log.ids[start:end].tolist()
            for offset in offsets:
                place = len(own) - offset
                assert columns.ids[row].tolist() == own[place]
                assert columns.labels[row : row + 3, 0].tolist() == [1, 0, 0]
                assert columns.groups[row : row + 3].tolist() == [user] * 3
                assert columns.times[row : row + 3].tolist() == [int(log.times[start + place])] * 3
                for item, kind in columns.ids[row + 1 : row + 3].tolist():
                    assert item not in {event[0] for event in own}
                    assert log.frequencies[item] > 0
                    assert kind == log.latest[item, 1]
                for one in range(row, row + 3):
                    assert batch.history.ids[one][batch.history.mask[one]].tolist() == own[:place]
                row += 3
        assert row == len(columns) == len(rows[part])


def test_negatives_follow_the_frequency_in_the_whole_log():
    log = behaviours(sizes=(60, 25), num_items=60)
    config = OffsetRowsConfig(min_events=20, train_positives=2, train_step=1, negatives=6000)
    user = 1
    rows = offset_rows(log, config)["train"]
    drawn = np.bincount(rows.items[rows.users == user][:, 1:].ravel(), minlength=len(log.frequencies))
    left = log.frequencies.copy()
    left[np.unique(log.ids[log.offsets[1] :, 0])] = 0
    assert left.any()
    np.testing.assert_allclose(drawn / drawn.sum(), left / left.sum(), atol=0.02)


def test_the_seed_gives_the_rows_and_blocks_do_not_matter(monkeypatch):
    log = behaviours()
    first = offset_rows(log, SMALL)
    other = offset_rows(log, replace(SMALL, seed=1))
    assert not np.array_equal(first["train"].items, other["train"].items)
    monkeypatch.setattr("llm_rec.ctr.behaviour_rows._BLOCK", 7)
    again = offset_rows(log, SMALL)
    for part, found in first.items():
        np.testing.assert_array_equal(found.items, again[part].items)


def test_what_is_there_already_is_kept(tmp_path):
    log = behaviours()
    first = write_behaviour_rows(log, tmp_path / "log", SMALL)
    assert write_behaviour_rows(log, tmp_path / "log", SMALL).fingerprint == first.fingerprint
    with pytest.raises(ArtifactError, match="other data or settings; choose another --name, or pass --overwrite"):
        write_behaviour_rows(log, tmp_path / "log", replace(SMALL, seed=3))
    details = read_manifest(tmp_path / "log").details
    assert details["read"]["kept_rows"] == 50
    assert details["rule"]["min_events"] == 12


def test_users_may_be_a_field(tmp_path):
    out = write_behaviour_rows(behaviours(timed=False), tmp_path / "log", replace(SMALL, user_field=True))
    assert [field.name for field in out.schema.fields] == ["user", "item", "kind"]
    assert out.part("test").ids[:, 0].tolist() == [2] * 3 + [4] * 3 + [5] * 3
    assert out.schema.history_columns == (1, 2)
    assert to_batch(out.part("test"), 3).history.gaps is None


def impressions():
    """Three users; labels and times with ties."""
    rng = np.random.default_rng(4)
    log = behaviours(sizes=(30, 25, 20))
    times = np.concatenate([np.sort(rng.integers(0, 40, size)) for size in (30, 25, 20)])
    return replace(log, labels=rng.integers(0, 2, 75).astype(np.uint8), times=times)


@pytest.mark.parametrize("block", [8, 1 << 22])
def test_impressions_look_back_on_earlier_clicks(tmp_path, block, monkeypatch):
    monkeypatch.setattr("llm_rec.ctr.behaviour_rows._BLOCK", block)
    log = impressions()
    out = write_behaviour_rows(log, tmp_path / "log", ImpressionRowsConfig(validation=0.2, test=0.3, user_field=False))
    assert sum(out.rows.values()) == 75
    ends = {}
    for part in out.rows:
        columns, batch = out.part(part), to_batch(out.part(part), 99)
        ends[part] = (int(columns.times.min()), int(columns.times.max()))
        expected = []
        for user in range(3):
            events = range(*log.offsets[user : user + 2].tolist())
            for event in events:
                if ends[part][0] <= log.times[event] <= ends[part][1]:
                    past = [e for e in events if log.labels[e] and log.times[e] < log.times[event]]
                    expected.append((log.ids[event].tolist(), int(log.labels[event]), log.ids[past].tolist()))
        found = [
            (columns.ids[row].tolist(), int(columns.labels[row, 0]), batch.history.ids[row][mask].tolist())
            for row, mask in enumerate(batch.history.mask)
        ]
        assert found == expected
    assert ends["train"][1] < ends["validation"][0] <= ends["validation"][1] < ends["test"][0]
    assert abs(out.rows["test"] - 0.3 * 75) < 5


def test_rules_and_logs_must_fit(tmp_path):
    log = behaviours()
    with pytest.raises(
        DataError, match="these behaviours are clicks alone, or have no times; take the rule of offsets"
    ):
        write_behaviour_rows(log, tmp_path / "a", ImpressionRowsConfig())
    with pytest.raises(DataError, match="impressions with labels; take the rule for impressions"):
        write_behaviour_rows(impressions(), tmp_path / "b", SMALL)
    with pytest.raises(DataError, match=r"no user has min_events = 210 events \(the most is 20\); lower min_events"):
        write_behaviour_rows(log, tmp_path / "c", OffsetRowsConfig())
    one_time = replace(impressions(), times=np.zeros(75, dtype=np.int64))
    with pytest.raises(DataError, match="no impression is left for the validation part; too many have one time"):
        write_behaviour_rows(one_time, tmp_path / "d", ImpressionRowsConfig())
    with pytest.raises(ValueError, match="the first train positive is at offset 93, beyond min_events 60"):
        OffsetRowsConfig(min_events=60)
    with pytest.raises(ValueError, match="offsets must go test < validation < train_first, .*; got 1, 2, 2"):
        OffsetRowsConfig(train_first=2)
    with pytest.raises(ValueError, match="negatives must be at least 0, got -1"):
        OffsetRowsConfig(negatives=-1)
    with pytest.raises(ValueError, match="validation and test must be above 0 and leave rows to train on, got 0.5 and"):
        ImpressionRowsConfig(validation=0.5, test=0.5)


def test_columns_of_interactions_have_one_id_an_item():
    catalog = Catalog(["a"], [""], {"kinds": ["x|y"]})
    log = Interactions(["u"], np.array([0, 1]), np.array([1]), None, num_items=1, catalog=catalog.fingerprint)
    lists = ColumnSpec(name="kind", column="kinds", encoder=MultiValueConfig(length=2, separator="|"))
    with pytest.raises(DataError, match="item column 'kinds' is no field with one id an item; give it a vocabulary"):
        behaviours_of(log, catalog, [lists])
    with pytest.raises(DataError, match="catalog: no column 'kind'; did you mean 'kinds'"):
        behaviours_of(log, catalog, [ColumnSpec(name="kind", encoder=MultiValueConfig(length=1))])
    assert behaviours_of(log, catalog, [KIND]).ids.tolist() == [[2, 2]]
