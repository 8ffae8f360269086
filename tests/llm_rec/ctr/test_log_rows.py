"""Rows from interactions: positives are what happened, negatives what the user never touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.encode import MultiValueConfig, VocabularyConfig
from ctr_models.schema import UNKNOWN
from llm_rec.artifacts import read_manifest
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.log_rows import LogRowsConfig, sample_rows, user_columns, write_log_rows
from llm_rec.ctr.untouched import UntouchedItems
from llm_rec.data import Catalog, Interactions, leave_one_out
from llm_rec.data.log_spec import ColumnSpec
from llm_rec.errors import DataError
from semantic_ids.code_table import CodeTable

HISTORIES = [[1, 2, 3, 4], [2, 1, 2, 5, 6], [3, 1]]
GENRES = ("x, y", "x", "", "y", "z", "z", "w", "w", "w")


def world(histories=HISTORIES, num_items=7):
    catalog = Catalog([f"i{row}" for row in range(1, num_items + 1)], [""] * num_items, {"genres": GENRES[:num_items]})
    log = Interactions(
        [f"u{user}" for user in range(len(histories))],
        np.cumsum([0, *map(len, histories)]).astype(np.int64),
        np.array([item for items in histories for item in items], dtype=np.int64),
        None,
        num_items=num_items,
        catalog=catalog.fingerprint,
    )
    return catalog, leave_one_out(log)


def timed(split, times):
    """The same events with times."""
    log = split.log
    known = Interactions(
        list(log.user_ids), log.offsets, log.items, np.array(times), num_items=log.num_items, catalog=log.catalog
    )
    return leave_one_out(known)


def ids_of(log, part, name):
    return log.part(part).ids[:, log.schema.id_columns[name]]


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 9))
def test_draws_are_untouched_items(histories, seed):
    _, split = world([*histories, [1]], num_items=9)
    users = np.repeat(np.arange(len(histories) + 1), 3)
    drawn = UntouchedItems(split.log).draw(users, 20, np.random.default_rng(seed))
    for user, items in zip(users.tolist(), drawn.tolist(), strict=True):
        assert set(items) <= set(range(1, 10)) - set([*histories, [1]][user])


def test_every_untouched_item_is_equally_likely():
    _, split = world()
    drawn = UntouchedItems(split.log).draw(np.ones(30_000, dtype=np.int64), 1, np.random.default_rng(0))
    counts = np.bincount(drawn.ravel(), minlength=8)
    assert counts[[1, 2, 5, 6]].sum() == 0
    np.testing.assert_allclose(counts[[3, 4, 7]], 10_000, rtol=0.03)


def test_parts_follow_the_split_and_positives_come_first(tmp_path):
    catalog, split = world()
    log = write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig(negatives=2, evaluation_negatives=1))
    assert dict(log.rows) == {"train": 7 * 3, "validation": 2 * 2, "test": 2 * 2}
    assert log.part("train").labels.reshape(7, 3).tolist() == [[1, 0, 0]] * 7
    assert log.part("train").groups.reshape(7, 3).tolist() == [[user] * 3 for user in (0, 0, 1, 1, 1, 2, 2)]
    # train positives: u0 1 2, u1 2 1 2, u2 3 1: items 1 and 2 three times each, 3 once; 4 to 7 never
    assert log.columns[1].encoder.state == {"values": ["i1", "i2", "i3"]}
    assert ids_of(log, "train", "item").reshape(7, 3)[:, 0].tolist() == [2, 3, 3, 2, 3, 4, 2]
    assert ids_of(log, "test", "item").reshape(2, 2)[:, 0].tolist() == [UNKNOWN, UNKNOWN]
    assert log.train_counts("item", label="label").tolist() == [0, 0, 3, 3, 1]
    assert ids_of(log, "train", "user").reshape(7, 3)[:, 0].tolist() == [3, 3, 2, 2, 2, 4, 4]


def test_every_item_may_have_an_id_of_its_own(tmp_path):
    catalog, split = world()
    config = LogRowsConfig(negatives=3, item_ids="catalog")
    log = write_log_rows(split, catalog, tmp_path / "log", config)
    rows = sample_rows(split, config)["train"]
    np.testing.assert_array_equal(ids_of(log, "train", "item").ravel(), rows.items.ravel() + 1)
    assert log.train_counts("item", label="label").tolist() == [0, 0, 3, 3, 1, 0, 0, 0, 0]


def test_columns_of_users_and_items_and_codes_become_fields(tmp_path):
    catalog, split = world()
    codes = CodeTable.from_codes(np.arange(14).reshape(7, 2) % 5, (5, 6))
    config = LogRowsConfig(
        user_columns=(ColumnSpec(name="age", encoder=VocabularyConfig()),),
        item_columns=(ColumnSpec(name="genres", encoder=MultiValueConfig(length=2, separator=",")),),
        code_name="semantic",
    )
    users = {"age": ["old", "young", None]}
    log = write_log_rows(split, catalog, tmp_path / "log", config, users=users, codes=codes)
    assert [field.name for field in log.schema.id_fields] == [
        "user",
        "item",
        "age",
        "genres",
        "semantic_0",
        "semantic_1",
    ]
    assert [field.size for field in log.schema.id_fields][-2:] == [7, 8]
    rows = sample_rows(split, config)["train"]
    np.testing.assert_array_equal(ids_of(log, "train", "semantic_1").ravel(), codes.codes[rows.items.ravel(), 1] + 2)
    ages = log.columns[2].encoder.transform(np.array(["old", "young", None], dtype=object))
    np.testing.assert_array_equal(ids_of(log, "train", "age").reshape(7, 2), np.repeat(ages[rows.users][:, None], 2, 1))
    # train positives have item 1 (x, y) and 2 (x) three times each, 3 (none) once: x is 2, y is 3
    genres = ids_of(log, "train", "genres").reshape(7, 2, 2)[:, 0].tolist()
    assert genres == [[2, 3], [2, 0], [2, 0], [2, 3], [2, 0], [0, 0], [2, 3]]


def test_the_seed_gives_the_rows(tmp_path):
    catalog, split = world()
    logs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        logs[name] = write_log_rows(split, catalog, tmp_path / name, LogRowsConfig(negatives=3, seed=seed))
    same = [np.array_equal(logs["a"].part(p).ids, logs["b"].part(p).ids) for p in ("train", "validation", "test")]
    assert same == [True] * 3
    assert logs["a"].fingerprint == logs["b"].fingerprint != logs["c"].fingerprint
    assert not np.array_equal(logs["a"].part("train").ids, logs["c"].part("train").ids)
    more = sample_rows(split, LogRowsConfig(negatives=3, evaluation_negatives=7))
    np.testing.assert_array_equal(more["train"].items, sample_rows(split, LogRowsConfig(negatives=3))["train"].items)


def test_validation_and_test_events_do_not_reach_the_encoders(tmp_path):
    catalog, split = world()
    _, other = world([[1, 2, 7, 6], [2, 1, 2, 4, 3], [3, 1]])
    first = write_log_rows(split, catalog, tmp_path / "a", LogRowsConfig())
    second = write_log_rows(other, catalog, tmp_path / "b", LogRowsConfig())
    assert [c.encoder.state for c in first.columns] == [c.encoder.state for c in second.columns]


def test_a_table_of_users_is_brought_into_the_order_of_the_log(tmp_path):
    _, split = world()
    (tmp_path / "users.csv").write_text("user_id,age\nu2,30\nother,9\nu0,\n")
    assert user_columns(tmp_path / "users.csv", split.log, ["age"]) == {"age": [None, None, "30"]}
    (tmp_path / "users.csv").write_text("user_id,age\nu2,30\nu2,31\n")
    with pytest.raises(DataError, match="column 'user_id': duplicate id in 1 of 2 rows"):
        user_columns(tmp_path / "users.csv", split.log, ["age"])


FIRST_GENRE = ColumnSpec(name="genre", column="genres", encoder=MultiValueConfig(length=1, separator=", "))
WITH_PAST = LogRowsConfig(negatives=2, item_columns=(FIRST_GENRE,), history_fields=("item", "genre"))


def test_rows_look_back_on_all_earlier_events_of_their_user_and_on_no_others(tmp_path):
    catalog, split = world()
    log = write_log_rows(split, catalog, tmp_path / "log", WITH_PAST)
    assert log.schema.history == ("item", "genre")
    rows = sample_rows(split, WITH_PAST)
    everything = {}  # every item as a candidate with its ids
    for part in log.rows:
        everything.update(zip(rows[part].items.ravel().tolist(), log.part(part).ids[:, 1:].tolist(), strict=True))
    for part, found in rows.items():
        batch = to_batch(log.part(part), 50)
        for place, (user, event) in enumerate(zip(found.users.tolist(), found.events.tolist(), strict=True)):
            own = HISTORIES[user]
            earlier = own[: event - int(split.log.offsets[user])]
            assert len(earlier) == {"validation": len(own) - 2, "test": len(own) - 1}.get(part, len(earlier))
            assert part != "train" or len(earlier) < max(1, len(own) - 2) or len(own) < 3
            for row in range(place * 3, place * 3 + 3):
                past = batch.history.ids[row][batch.history.mask[row]]
                assert past.tolist() == [everything[item] for item in earlier]


def test_the_past_has_the_ids_of_candidates_unknown_ones_too(tmp_path):
    catalog, split = world()
    log = write_log_rows(split, catalog, tmp_path / "log", WITH_PAST)
    assert log.events.ids[1:, 0].tolist() == [2, 3, 4, 1, 3, 2, 3, 1, 1, 4, 2]
    whole = write_log_rows(
        split, catalog, tmp_path / "whole", LogRowsConfig(item_ids="catalog", history_fields=("item",))
    )
    assert whole.events.ids[1:, 0].tolist() == [item + 1 for items in HISTORIES for item in items]


def test_a_change_of_later_events_changes_no_train_history(tmp_path):
    catalog, split = world()
    _, other = world([[1, 2, 7, 6], [2, 1, 2, 4, 3], [3, 1]])
    past = []
    for name, parted in (("a", split), ("b", other)):
        log = write_log_rows(parted, catalog, tmp_path / name, WITH_PAST)
        past.append(to_batch(log.part("train"), 9).history.ids)
    assert past[0].equal(past[1])


def test_only_the_last_train_events_may_become_rows_and_all_are_history(tmp_path):
    catalog, split = world()
    config = LogRowsConfig(history_fields=("item",), last_train=1)
    rows = sample_rows(split, config)
    assert rows["train"].events.tolist() == [1, 6, 10]
    assert rows["test"].events.tolist() == sample_rows(split, LogRowsConfig())["test"].events.tolist()
    log = write_log_rows(split, catalog, tmp_path / "log", config)
    assert log.part("train").windows.tolist() == [[1, 2]] * 2 + [[5, 7]] * 2 + [[10, 11]] * 2
    assert log.columns[1].encoder.state == {"values": ["i1", "i2", "i3"]}
    with pytest.raises(ValueError, match="last_train must be at least 1, got 0"):
        LogRowsConfig(last_train=0)


def test_codes_and_times_are_in_the_past_too(tmp_path):
    catalog, split = world()
    split = timed(split, [10, 20, 20, 23, 1, 2, 3, 4, 5, 7, 7])
    codes = CodeTable.from_codes(np.arange(7).reshape(7, 1), (7,))
    config = LogRowsConfig(history_fields=("item", "code_0"))
    log = write_log_rows(split, catalog, tmp_path / "log", config, codes=codes)
    assert log.events.ids[1:5, 1].tolist() == [2, 3, 4, 5]
    batch = to_batch(log.part("test"), 9)
    assert batch.history.gaps[:1].tolist() == [[0, 4 + 1, 2 + 1, 2 + 1]]  # 13, 3 and 3 before time 23


def test_rows_without_histories_keep_their_fingerprint(tmp_path):
    catalog, split = world()
    log = write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig())
    settings = read_manifest(log.path).details["settings"]
    assert "negatives" in settings
    assert not {"history_fields", "last_train"} & set(settings)
    assert log.events is None


def test_history_fields_that_cannot_be_are_named(tmp_path):
    catalog, split = world()
    with pytest.raises(ValueError, match=r"history_fields must begin with 'item', got \['genre'\]"):
        LogRowsConfig(history_fields=("genre",))
    lists = (ColumnSpec(name="genres", encoder=MultiValueConfig(length=2, separator=",")),)
    message = "history_fields names 'genres', but items have no such field with one id; there are item; a list column"
    with pytest.raises(DataError, match=message):
        write_log_rows(
            split, catalog, tmp_path / "log", LogRowsConfig(item_columns=lists, history_fields=("item", "genres"))
        )


def test_what_does_not_fit_is_named(tmp_path):
    catalog, split = world()
    column = (ColumnSpec(name="genre", encoder=VocabularyConfig()),)
    with pytest.raises(DataError, match=r"catalog: no column 'genre'; did you mean 'genres'\?"):
        write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig(item_columns=column))
    with pytest.raises(DataError, match="user columns: no column 'genre'"):
        write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig(user_columns=column))
    with pytest.raises(
        DataError, match="user column 'age' has 1 values, but the log has 3 users; give one value a user"
    ):
        write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig(), users={"age": ["1"]})
    codes = CodeTable.from_codes(np.zeros((6, 1)), (2,))
    with pytest.raises(DataError, match="the code table holds 6 items, but the catalog has 7; encode the same catalog"):
        write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig(), codes=codes)
    with pytest.raises(DataError, match="use the catalog of the log"):
        write_log_rows(split, Catalog(["a"], [""]), tmp_path / "log", LogRowsConfig())
    lists = (ColumnSpec(name="genres", encoder=MultiValueConfig(length=2)),)
    with pytest.raises(DataError, match="item column 'genres': this column holds no lists; set separator"):
        write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig(item_columns=lists))
    catalog, split = world([[1, 2, 3]], num_items=3)
    with pytest.raises(DataError, match="user 'u0' has touched all 3 items, so no negative is left; leave out such"):
        write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig())
    log = write_log_rows(split, catalog, tmp_path / "log", LogRowsConfig(negatives=0))
    assert dict(log.rows) == {"train": 1, "validation": 1, "test": 1}
    with pytest.raises(ValueError, match="negatives must not be negative, got -1"):
        LogRowsConfig(negatives=-1)
