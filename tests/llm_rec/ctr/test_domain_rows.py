"""Rows of interactions with domains: negatives are of the domain of their positive, users may carry the domain."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.encode import VocabularyConfig
from ctr_models.schema import RESERVED
from llm_rec.ctr.log_rows import LogRowsConfig, write_log_rows
from llm_rec.ctr.planted_domains import PlantedDomainsConfig, planted_domains, write_domains
from llm_rec.ctr.untouched import UntouchedInDomain
from llm_rec.data.log_spec import ColumnSpec
from llm_rec.errors import DataError
from llm_rec.metrics.classification import auc
from tests.llm_rec.ctr.test_log_rows import world

BY_ITEM = LogRowsConfig(
    negatives=3, item_columns=(ColumnSpec(name="genres", encoder=VocabularyConfig()),), domain="genres"
)
BY_USER = LogRowsConfig(user_columns=(ColumnSpec(name="age", encoder=VocabularyConfig()),), domain="age")
HISTORIES = [[1, 2, 4, 5], [4, 1, 2, 5], [5, 4, 1, 2]]


@settings(max_examples=40)
@given(st.integers(0, 50), st.lists(st.integers(0, 2), min_size=9, max_size=9))
def test_negatives_are_untouched_items_of_the_domain_of_their_positive(seed, domains):
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, 10, 3).tolist() for _ in range(4)]
    _, split = world(histories, num_items=9)
    found = UntouchedInDomain(split.log, np.array(domains))
    users = np.repeat(np.arange(4), 3)
    positives = split.log.items[split.log.offsets[users] + np.tile(np.arange(3), 4)]
    free = [
        {i for i in range(1, 10) if domains[i - 1] == domains[p - 1]} - set(histories[u])
        for u, p in zip(users.tolist(), positives.tolist(), strict=True)
    ]
    keep = np.array([bool(items) for items in free])
    if not keep.all():
        with pytest.raises(DataError, match="has touched all items of a domain, so no negative is left there"):
            found.draw(users, positives, 5, rng)
    drawn = found.draw(users[keep], positives[keep], 30, rng)
    for row, items in zip(drawn.tolist(), np.array(free, dtype=object)[keep], strict=True):
        assert set(row) <= items


def test_every_untouched_item_of_a_domain_is_equally_likely():
    _, split = world([[1, 5]], num_items=7)
    found = UntouchedInDomain(split.log, np.array([0, 1, 0, 1, 0, 0, 1]))
    drawn = found.draw(np.zeros(9000, dtype=np.int64), np.full(9000, 4), 1, np.random.default_rng(0))
    counts = np.bincount(drawn.ravel(), minlength=8)
    assert counts.tolist()[:2] == [0, 0]
    np.testing.assert_allclose(counts[[2, 4, 7]], 3000, rtol=0.05)
    assert counts[[3, 5, 6]].sum() == 0


def test_rows_of_items_with_domains_stay_in_them(tmp_path):
    catalog, split = world(HISTORIES, num_items=9)
    genres = ("x", "x", "x", "y", "y", "y", "x", "y", "x")
    catalog.columns["genres"] = genres
    log = write_log_rows(split, catalog, tmp_path / "log", BY_ITEM)
    assert log.schema.domain == "genres"
    for part in log.rows:
        ids = log.part(part).ids[:, log.schema.id_columns["genres"]].reshape(-1, 4)
        assert (ids == ids[:, :1]).all()
        assert ids.min() >= RESERVED


def test_users_may_carry_the_domain(tmp_path):
    catalog, split = world(HISTORIES)
    log = write_log_rows(split, catalog, tmp_path / "log", BY_USER, users={"age": ["old", "young", "old"]})
    ids = log.part("train").ids[:, log.schema.id_columns["age"]].ravel()
    assert ids.tolist() == [RESERVED] * 4 + [RESERVED + 1] * 4 + [RESERVED] * 4
    with pytest.raises(DataError, match="user 'u1' of the train part has no domain in column 'age'; leave such users"):
        write_log_rows(split, catalog, tmp_path / "none", BY_USER, users={"age": ["old", None, "old"]})


def test_a_domain_that_is_no_column_or_has_no_train_positive_is_refused(tmp_path):
    catalog, split = world(HISTORIES)
    with pytest.raises(DataError, match=r"domain names 'shop', which is no field; there are \['genres'\]"):
        write_log_rows(split, catalog, tmp_path / "log", replace(BY_ITEM, domain="shop"))
    catalog.columns["genres"] = ("x", "x", "x", "x", "new", "new", "x")  # item 5 occurs in validation or test alone
    _, short = world([[1, 2, 4, 5], [4, 1, 2, 5], [1, 4, 2, 5]])
    with pytest.raises(DataError, match="item 'i5' of the test part has a domain without train positives in column"):
        write_log_rows(short, catalog, tmp_path / "log", BY_ITEM)


def test_planted_domains_have_a_tail_and_the_best_auc_is_that_of_the_truth(tmp_path):
    config = PlantedDomainsConfig(rows=3000, evaluation_rows=2000)
    drawn = planted_domains(config)
    train = np.array(drawn.parts) == "train"
    sizes = np.bincount(drawn.domains[train])
    assert sizes[0] / sizes[2] == pytest.approx(50, rel=0.35)
    for domain in range(3):
        inside = (drawn.domains == domain) & (np.array(drawn.parts) == "test")
        real = auc(drawn.probabilities[inside, 0], drawn.labels[inside, 0])
        assert drawn.best_auc(domain) == pytest.approx(real, abs=0.02)
    log = write_domains(drawn, tmp_path, tasks=("click", "like"))
    assert dict(log.rows) == {"train": 3000, "validation": 6000, "test": 6000}
    assert log.schema.labels == ("click", "like")
    assert log.columns[3].encoder.state == {"values": ["d0", "d1", "d2"]}  # by frequency


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (1.0,), "biases": (0.0,)}, "sizes and biases need one number a domain, two domains at least"),
        ({"conflict": 1.5}, r"conflict must lie in 0\.\.1, got 1\.5"),
        ({"rows": 0}, "rows, evaluation_rows, num_users, num_items and interests must be at least 1"),
    ],
)
def test_worlds_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PlantedDomainsConfig(**settings)
