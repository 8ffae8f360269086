"""Similarity of users and items in a frozen space: against loops, without the row's own event, as a field of rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.embeddings import LinearTerm
from ctr_models.schema import RESERVED, UNKNOWN, Numerals, Schema
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.log_rows import LogRowsConfig, sample_rows, write_log_rows
from llm_rec.ctr.similarity import SimilarityConfig, SimilaritySource, left_out_items
from llm_rec.data import Catalog, Interactions, leave_one_out
from llm_rec.data.columns import ClickColumns
from llm_rec.errors import DataError
from llm_rec.metrics.classification import auc

HISTORIES = [[1, 2, 3, 4], [2, 1, 2, 5, 6], [3, 1], [5, 6, 1]]
ITEMS = 9


def vectors(seed=0, *, without=(4,)):
    found = np.random.default_rng(seed).normal(size=(ITEMS + 1, 6)).astype(np.float32)
    found[[0, *without]] = 0.0
    return found


def world():
    catalog = Catalog([f"i{row}" for row in range(1, ITEMS + 1)], [""] * ITEMS, {})
    log = Interactions(
        [f"u{user}" for user in range(len(HISTORIES))],
        np.cumsum([0, *map(len, HISTORIES)]).astype(np.int64),
        np.array([item for items in HISTORIES for item in items], dtype=np.int64),
        None,
        num_items=ITEMS,
        catalog=catalog.fingerprint,
    )
    return catalog, leave_one_out(log)


def cosine(user, item):
    lengths = np.linalg.norm(user) * np.linalg.norm(item)
    return float(user @ item / lengths) if lengths else float("nan")


@settings(max_examples=40)
@given(st.data())
def test_cosines_are_those_of_a_loop_over_rows(data):
    histories = data.draw(st.lists(st.lists(st.integers(1, ITEMS), max_size=6), min_size=1, max_size=5))
    space = vectors(data.draw(st.integers(0, 3))).astype(np.float64)
    pairs = [(user, item) for user, items in enumerate(histories) for item in items]
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    source = SimilaritySource.of_history(users, items, space.astype(np.float32), len(histories))
    rows = [(user, item, own) for user, past in enumerate(histories) for item in range(ITEMS + 1) for own in (0, *past)]
    expected = []
    for user, item, own in rows:
        past = list(histories[user])
        if own:
            past.remove(own)
        mean = np.mean([space[one] for one in past], axis=0) if past else np.zeros(6)
        expected.append(cosine(mean, space[item]))
    found = source.cosines(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_users_and_items_without_vectors_have_no_similarity():
    source = SimilaritySource.of_history(np.array([0, 1]), np.array([1, 4]), vectors(), 3)
    #        no user, no history, a history without texts, padding, an item without text, own event alone left out
    users, items = np.array([-1, 2, 1, 0, 0, 0, 0]), np.array([1, 1, 1, 0, 4, 2, 2])
    found = source.cosines(users, items, np.array([0, 0, 0, 0, 0, 1, 0]))
    assert np.isnan(found).tolist() == [True] * 6 + [False]
    column = SimilarityConfig(levels=5).column
    ids = column.encoder.transform(np.array([np.nan, -1.0, -0.6, 0.0, 1.0]))
    assert ids.tolist() == [UNKNOWN, RESERVED, RESERVED + 1, RESERVED + 2, RESERVED + 4]


def test_given_user_vectors_are_compared_as_they_are():
    space, users = vectors(), vectors(5)[1:4]
    found = SimilaritySource.given(users, space).cosines(np.array([0, 2]), np.array([3, 5]), np.array([3, 5]))
    assert found.tolist() == pytest.approx([cosine(users[0], space[3]), cosine(users[2], space[5])], abs=1e-6)
    with pytest.raises(DataError, match="user vectors have 3 numbers and item vectors 6; use one space"):
        SimilaritySource.given(users[:, :3], space)


def similarity_ids(log, part):
    return log.part(part).ids[:, log.schema.id_columns["similarity"].start]


def test_rows_have_the_similarity_to_all_other_train_events_of_their_user(tmp_path):
    catalog, split = world()
    config = LogRowsConfig(negatives=2, similarity=SimilarityConfig(levels=400))
    log = write_log_rows(split, catalog, tmp_path / "log", config, embeddings=vectors())
    assert log.schema.fields[-1] == Numerals(name="similarity", size=RESERVED + 400)
    space, rows = vectors().astype(np.float64), sample_rows(split, config)
    for part, found in rows.items():
        expected = []
        for user, event, items in zip(found.users, found.events, found.items, strict=True):
            first, end = int(split.log.offsets[user]), int(split.train_ends[user])
            past = [int(split.log.items[e]) for e in range(first, end) if part != "train" or e != event]
            mean = np.mean([space[item] for item in past], axis=0) if past else np.zeros(6)
            for item in items:
                w = cosine(mean, space[item])
                expected.append(UNKNOWN if np.isnan(w) else RESERVED + int(np.floor((w + 1) / 2 * 399 + 0.5)))
        np.testing.assert_allclose(similarity_ids(log, part), expected, atol=1)
        assert ((similarity_ids(log, part) == UNKNOWN) == (np.array(expected) == UNKNOWN)).all()


def test_no_train_row_sees_its_own_positive(tmp_path):
    """User 3 has item 5 in training, and nothing else there: another vector of 5 moves the user's test rows, but no
    train row of that event.
    """
    catalog, split = world()
    config = LogRowsConfig(negatives=2, similarity=SimilarityConfig(levels=10_000))
    other = vectors()
    other[5] = np.random.default_rng(9).normal(size=6)
    logs = [
        write_log_rows(split, catalog, tmp_path / str(place), config, embeddings=space)
        for place, space in enumerate((vectors(), other))
    ]
    assert logs[0].fingerprint != logs[1].fingerprint
    for part in ("train", "test"):
        rows = sample_rows(split, config)[part]
        before, after = (similarity_ids(log, part).reshape(-1, 3) for log in logs)
        moved, mine, elsewhere = before != after, (rows.users == 3)[:, None], rows.items != 5
        assert moved[mine & elsewhere].tolist() == [part == "test"] * int((mine & elsewhere).sum())
        assert (mine & elsewhere).sum() >= 2
        assert not moved[~mine & elsewhere].any()
    assert (before[mine[:, 0]] != UNKNOWN).all()


def tasteful_world(users=150, items=60, clusters=4):
    """Users who like items of one cluster, with item vectors around the clusters' centres."""
    rng = np.random.default_rng(0)
    groups = np.arange(items) % clusters
    liked = [np.flatnonzero(groups == user % clusters) for user in range(users)]
    events = np.concatenate([rng.choice(own, 6, replace=False) + 1 for own in liked])
    catalog = Catalog([f"i{row}" for row in range(1, items + 1)], [""] * items, {})
    names, offsets = [f"u{user}" for user in range(users)], np.arange(users + 1) * 6
    log = Interactions(names, offsets, events, None, num_items=items, catalog=catalog.fingerprint)
    space = np.zeros((items + 1, 8), dtype=np.float32)
    space[1:] = rng.normal(size=(clusters, 8))[groups] + 0.7 * rng.normal(size=(items, 8))
    return catalog, leave_one_out(log), space


def test_users_are_near_what_they_click_and_a_model_learns_it_from_the_digits(tmp_path):
    catalog, split, space = tasteful_world()
    config = LogRowsConfig(negatives=3, similarity=SimilarityConfig(levels=64))
    log = write_log_rows(split, catalog, tmp_path / "log", config, embeddings=space)
    columns = log.part("test")
    clicked, similar = columns.labels[:, 0], columns.ids[:, -1].astype(np.float64)
    alone = auc(similar, clicked)
    assert alone > 0.8
    field = Schema(fields=log.schema.fields[-1:])
    torch.manual_seed(0)
    term = LinearTerm(field)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.05)
    train, test = (to_batch(replace_ids(log.part(part))) for part in ("train", "test"))
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(term(train), train.labels).backward()
        optimizer.step()
    assert auc(term(test).detach().double().numpy()[:, 0], clicked) > alone - 0.05


def replace_ids(columns):
    """Rows with their last field alone."""
    return ClickColumns(columns.ids[:, -1:], columns.numbers, columns.dense, columns.labels)


def test_rows_of_one_event_leave_out_its_train_positive():
    rng = np.random.default_rng(0)
    events, items = rng.integers(0, 20, 200), rng.integers(1, 50, 200)
    positive = np.zeros(200, dtype=bool)
    positive[np.unique(events, return_index=True)[1]] = True
    train = rng.random(200) < 0.6
    expected = []
    for row in range(200):
        own = [items[r] for r in range(200) if events[r] == events[row] and positive[r] and train[r]]
        expected.append(own[0] if own and train[row] else 0)
    assert left_out_items(items, positive, train, events).tolist() == expected
    assert left_out_items(items, positive, np.zeros(200, dtype=bool), events).tolist() == [0] * 200


def test_vectors_of_another_catalog_are_refused(tmp_path):
    catalog, split = world()
    config = LogRowsConfig(similarity=SimilarityConfig())
    for given_, words in (({}, "got none"), ({"embeddings": vectors()[:5]}, "got 5 rows")):
        with pytest.raises(
            DataError, match=f"similarity needs a vector for each of 9 items and row 0.*{words}; encode"
        ):
            write_log_rows(split, catalog, tmp_path / "log", config, **given_)
    with pytest.raises(DataError, match="there are 2 user vectors, but the log has 4 users; give one a user"):
        write_log_rows(
            split, catalog, tmp_path / "log", config, embeddings=vectors(), user_vectors=vectors()[:2].copy()
        )
    with pytest.raises(ValueError, match=r"levels must lie in 2\.\.2147483645, got 1"):
        SimilarityConfig(levels=1)


def test_rows_without_similarity_keep_their_fingerprint(tmp_path):
    catalog, split = world()
    plain = write_log_rows(split, catalog, tmp_path / "plain", LogRowsConfig())
    unread = write_log_rows(split, catalog, tmp_path / "unread", LogRowsConfig(), embeddings=vectors())
    assert plain.fingerprint == unread.fingerprint
