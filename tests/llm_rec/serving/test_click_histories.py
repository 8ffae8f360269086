"""Histories given with raw rows: the batch is the one that the log's own rows give."""

import numpy as np
import pytest
import torch

from ctr_models.encode import MultiValueConfig
from ctr_models.interactions.presets import fm
from ctr_models.sequences.presets import dare
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.evaluation import ClickEvaluationConfig, click_logits, evaluate_clicks
from llm_rec.ctr.log_rows import LogRowsConfig, sample_rows, write_log_rows
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.data import Catalog, Interactions, leave_one_out
from llm_rec.data.log_spec import ColumnSpec
from llm_rec.errors import ConfigError, DataError
from llm_rec.serving.click_export import export_click_model
from llm_rec.serving.click_histories import RawHistories
from llm_rec.serving.clicks import ClickScorer, SavedClickModel

GENRE = ColumnSpec(name="genre", column="genres", encoder=MultiValueConfig(length=1, separator="|"))
ROWS = LogRowsConfig(item_columns=(GENRE,), history_fields=("item", "genre"))
METHOD = ClickMethodConfig(model=dare(dim=4, max_length=6, top_k=3))


@pytest.fixture
def world(tmp_path):
    """(split, catalog, log with times, scorer of an untrained model)."""
    rng = np.random.default_rng(0)
    genres = [f"g{rng.integers(3)}|g{rng.integers(3)}" for _ in range(30)]
    catalog = Catalog([f"i{row}" for row in range(30)], [""] * 30, {"genres": genres})
    sizes = [9, 4, 14]
    log = Interactions(
        ["a", "b", "c"],
        np.cumsum([0, *sizes]),
        rng.integers(1, 20, sum(sizes)),
        np.concatenate([np.sort(rng.integers(0, 900, size)) for size in sizes]),
        num_items=30,
        catalog=catalog.fingerprint,
    )
    split = leave_one_out(log)
    rows = write_log_rows(split, catalog, tmp_path / "log", ROWS)
    model = build_click_model(METHOD, rows.schema)
    scorer = ClickScorer(model, SavedClickModel(method=METHOD), rows.schema, rows.columns)
    return split, catalog, rows, scorer


def raw(world):
    """Test rows and their histories as a caller has them."""
    split, catalog, _, _ = world
    rows, log = sample_rows(split, ROWS)["test"], split.log
    names, genres = np.array(catalog.item_ids), np.array(catalog.columns["genres"])
    items = rows.items.ravel() - 1
    candidates = {
        "user": np.repeat(np.array(log.user_ids)[rows.users], 2),
        "item": names[items],
        "genres": genres[items],
    }
    past = [slice(int(log.offsets[user]), int(event)) for user, event in zip(rows.users, rows.events, strict=True)]
    histories = RawHistories(
        {
            name: [values[log.items[piece] - 1].tolist() for piece in past]
            for name, values in (("item", names), ("genres", genres))
        },
        rows=np.repeat(np.arange(len(past)), 2),
        times=[log.times[piece].tolist() for piece in past],
        now=np.repeat(log.times[rows.events], 2),
    )
    return candidates, histories


def test_raw_histories_are_encoded_as_the_log_encodes_them(world):
    candidates, histories = raw(world)
    found = to_batch(world[3].encode(candidates, histories), 6)
    expected = to_batch(world[2].part("test"), 6)
    assert found.ids.equal(expected.ids)
    assert found.history.ids.equal(expected.history.ids)
    assert found.history.gaps.equal(expected.history.gaps)


def test_the_model_gets_the_histories(world):
    candidates, histories = raw(world)
    scorer = world[3]
    seen = []
    scorer.model.register_forward_pre_hook(lambda module, given: seen.append(given[0].history))
    scores = scorer.score(candidates, histories)
    assert scores.shape == (6,)
    assert seen[0].ids.equal(to_batch(world[2].part("test"), 6).history.ids)


def test_evaluation_reads_as_many_events_as_the_model_looks_at(world):
    _, _, log, scorer = world
    seen = []
    scorer.model.register_forward_pre_hook(lambda module, given: seen.append(given[0].history.ids.shape))
    columns, config = log.part("test"), ClickEvaluationConfig(batch_size=4, num_buckets=2)
    logits = click_logits(scorer.model, METHOD.loss, columns, batch_size=4)
    assert seen == [(4, 6, 2), (2, 6, 2)]
    seen.clear()
    np.testing.assert_array_equal(evaluate_clicks(scorer.model, METHOD.loss, log, "test", config).logits, logits)
    assert seen == [(4, 6, 2), (2, 6, 2)]


def test_users_without_a_past_and_unknown_items_are_no_error(world):
    scorer = world[3]
    rows = {"user": ["new", "a"], "item": ["i1", "new"], "genres": ["g1|g2", ""]}
    histories = RawHistories({"item": [[], ["i1", "never seen"]], "genres": [[], ["g0", "what"]]})
    batch = to_batch(scorer.encode(rows, histories), 6)
    assert batch.history.mask.tolist() == [[False, False], [True, True]]
    assert batch.history.ids[1, 1].tolist() == [1, 1]
    assert torch.isfinite(torch.from_numpy(scorer.score(rows, histories))).all()
    nobody = RawHistories({"item": [[], []], "genres": [[], []]})
    assert to_batch(scorer.encode(rows, nobody), 6).history.ids.tolist() == [[[0, 0]]] * 2


def test_such_models_are_not_exported(world, tmp_path):
    with pytest.raises(ConfigError, match="a model that looks at histories cannot be exported: exported models take"):
        export_click_model(world[3], tmp_path)


def test_histories_that_do_not_fit_are_named(world):
    scorer = world[3]
    rows = {"user": ["a", "a"], "item": ["i1", "i2"], "genres": ["g1", "g1"]}
    items, genres = [["i1"], ["i2", "i3"]], [["g1"], ["g1", "g2"]]
    for histories, message in (
        (None, "this model looks at histories; give those of the rows, empty lists for users without any"),
        (RawHistories({"item": items}), "histories have no column 'genres'; a model of this log needs item, genres"),
        (
            RawHistories({"item": items, "genres": [["g1"], ["g1"]]}),
            "history 1: 'item' has 2 events and 'genres' has 1",
        ),
        (RawHistories({"item": items, "genres": genres[:1]}), "'item' has 2 lists and 'genres' has 1; give as many"),
        (RawHistories({"item": items[:1], "genres": genres[:1]}), "2 rows and 1 histories do not fit; give every row"),
        (RawHistories({"item": items, "genres": genres}, rows=np.array([0, 2])), "2 rows and 2 histories do not fit"),
        (RawHistories({"item": items, "genres": genres}, now=[1, 2]), r"rows' times \(now\) go together; give both"),
        (RawHistories({"item": items, "genres": genres}, times=[[1], [3, 2]], now=[4, 4]), "sort each user's events"),
        (RawHistories({"item": items, "genres": genres}, times=[[1], [2, 3]], now=[4]), r"2 rows have 1 times \(now\)"),
    ):
        with pytest.raises(DataError, match=message):
            scorer.score(rows, histories)


def test_a_model_without_histories_refuses_them(tmp_path, world):
    split, catalog, _, _ = world
    log = write_log_rows(split, catalog, tmp_path / "bare", LogRowsConfig())
    method = ClickMethodConfig(model=fm(dim=4))
    model = build_click_model(method, log.schema)
    scorer = ClickScorer(model, SavedClickModel(method=method), log.schema, log.columns)
    with pytest.raises(DataError, match="this model was trained on rows without histories; leave them out"):
        scorer.score({"user": ["a"], "item": ["i1"]}, RawHistories({"item": [["i2"]]}))
