"""Batches: a pure function of seed, epoch and step, of train pairs and views, every text at its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llm_rec.data import Catalog, Interactions, Split
from llm_rec.encoders import SentenceEncoder
from llm_rec.errors import ConfigError, DataError
from llm_rec.training import BatchSource
from llm_rec.tuning import CoInteractionConfig, PairBatches, PairsConfig, ViewsConfig, co_interactions
from llm_rec.tuning.batches import PairBatch, text_groups

CO = PairsConfig(batch_size=12, steps=3, tokens_per_chunk=40)
VIEWS = replace(CO, co_interaction=None, views=ViewsConfig())
BOTH = replace(CO, views=ViewsConfig(), views_share=0.25)
KINDS = pytest.mark.parametrize("config", [CO, VIEWS, BOTH], ids=["co-interaction", "views", "both"])


@pytest.fixture(scope="module")
def encoder(sentence) -> SentenceEncoder:
    return SentenceEncoder(sentence, "cpu")


def texts_of(batch: PairBatch, encoder: SentenceEncoder) -> list[str]:
    """The texts as the tokens say them, anchors first."""
    rows = [ids[place][mask[place]] for ids, mask in batch.chunks for place in range(len(ids))]
    read = encoder.model.tokenizer.decode
    return [read(rows[place], skip_special_tokens=True) for place in batch.places.tolist()]


def spoken(text: str) -> str:
    return text.replace(".", " .")


@KINDS
def test_batches_are_a_pure_function_of_seed_epoch_and_step(catalog, split, encoder, config) -> None:
    source = PairBatches(catalog, split, encoder, config, seed=1)
    assert isinstance(source, BatchSource)
    batches = list(source.epoch(2))
    assert len(batches) == len(source) == 3
    again = next(PairBatches(catalog, split, encoder, config, seed=1).epoch(2, first_step=2))
    assert texts_of(again, encoder) == texts_of(batches[2], encoder)
    others = [source.batch(2, 0), source.batch(1, 2), PairBatches(catalog, split, encoder, config, seed=2).batch(2, 2)]
    assert all(texts_of(other, encoder) != texts_of(again, encoder) for other in others)


def test_a_pair_of_co_interaction_has_the_texts_of_two_items_of_the_train_part(catalog, split, encoder) -> None:
    source = PairBatches(catalog, split, encoder, CO, seed=0)
    pairs = co_interactions(split, 2, text_groups(catalog))
    known = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    for batch in source.epoch(1):
        sides = [batch.labels.anchors.tolist(), batch.labels.positives.tolist()]
        assert all((min(pair), max(pair)) in known for pair in zip(*sides, strict=True))
        expected = [spoken(catalog.texts[row - 1]) for row in sides[0] + sides[1]]
        assert texts_of(batch, encoder) == expected
        assert {(i, i) for i in range(12)} <= {(i, j) for i, j in batch.labels.known.T.tolist()}


def test_no_batch_depends_on_an_event_that_is_held_out(catalog, split, encoder) -> None:
    log = split.log
    items = log.items.copy()
    held_out = ~split.in_train
    items[held_out] = np.random.default_rng(0).integers(1, 49, int(held_out.sum()))
    other = Interactions(log.user_ids, log.offsets, items, None, num_items=48, catalog=log.catalog)
    changed = Split(other, split.train_ends, split.validation, split.test, None)
    batches = [PairBatches(catalog, part, encoder, BOTH, seed=0).batch(1, 0) for part in (split, changed)]
    assert texts_of(batches[0], encoder) == texts_of(batches[1], encoder)
    assert torch.equal(batches[0].labels.known, batches[1].labels.known)


def test_views_are_of_one_text_and_leave_out_pieces_of_it(catalog, split, encoder) -> None:
    batch = PairBatches(catalog, split, encoder, VIEWS, seed=0).batch(1, 0)
    assert torch.equal(batch.labels.anchors, batch.labels.positives)
    assert len(set(batch.labels.anchors.tolist())) == 12
    views = texts_of(batch, encoder)
    whole = [spoken(catalog.texts[row - 1]) for row in batch.labels.anchors.tolist() * 2]
    assert all(set(view.split(" . ")) <= set(text.split(" . ")) for view, text in zip(views, whole, strict=True))
    assert len({len(view.split(" . ")) for view in views}) == 3
    assert batch.labels.known.shape == (2, 0)


def test_a_share_of_a_batch_of_both_are_views(catalog, split, encoder) -> None:
    labels = PairBatches(catalog, split, encoder, BOTH, seed=0).batch(1, 0).labels
    assert (labels.anchors == labels.positives).tolist() == [False] * 9 + [True] * 3


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 6), (0.99, 11)])
def test_both_sources_are_in_every_batch(share, expected) -> None:
    assert replace(BOTH, views_share=share).num_views == expected
    assert (CO.num_views, VIEWS.num_views) == (0, 12)


def test_frequent_items_are_drawn_less_often_with_damping(catalog, encoder) -> None:
    """Every user takes item 1 and one other; two others are taken by many."""
    others = [2] * 30 + [3] * 30 + list(range(4, 14)) * 2
    items = np.array([[1, other] for other in others]).ravel()
    log = Interactions(
        [str(u) for u in range(80)], np.arange(0, 161, 2), items, None, num_items=48, catalog=catalog.fingerprint
    )
    split = Split(log, log.offsets[1:], np.zeros(0, np.int64), np.zeros(0, np.int64), None)
    shares = []
    for damping in (0.0, 1.0):
        source = CoInteractionConfig(damping=damping)
        config = PairsConfig(co_interaction=source, batch_size=1500, tokens_per_chunk=100_000)
        labels = PairBatches(catalog, split, encoder, config, seed=0).batch(1, 0).labels
        other = torch.maximum(labels.anchors, labels.positives)
        shares.append((other <= 3).double().mean().item())
        assert (labels.anchors == 1).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert shares == pytest.approx([60 / 80, 2 / 12], abs=0.05)


def test_chunks_keep_to_the_budget_and_hold_every_text_once(catalog, split, encoder) -> None:
    batch = PairBatches(catalog, split, encoder, BOTH, seed=0).batch(1, 0)
    assert all(ids.numel() <= 40 and ids.shape == mask.shape for ids, mask in batch.chunks)
    assert len(batch.chunks) > 3
    assert sorted(batch.places.tolist()) == list(range(24))


def test_items_without_text_or_with_one_seen_before_are_in_no_pair(catalog, split, encoder) -> None:
    assert text_groups(catalog)[[1, 47, 48]].tolist() == [1, 1, 0]
    source = PairBatches(catalog, split, encoder, BOTH, seed=0)
    drawn = torch.cat([torch.cat([b.labels.anchors, b.labels.positives]) for e in range(1, 9) for b in source.epoch(e)])
    assert set(drawn.tolist()) <= set(range(1, 47))
    assert 1 in drawn


def test_a_catalog_of_one_text_cannot_be_tuned_on(split, encoder) -> None:
    with pytest.raises(DataError, match="the catalog has 1 different texts; tuning an encoder needs at least 2"):
        PairBatches(Catalog(["a", "b", "c"], ["tea", "tea", ""]), split, encoder, VIEWS, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size must be at least 2, or there is no negative, got 1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"tokens_per_chunk": 0}, "tokens_per_chunk must be at least 1, got 0"),
        ({"views_share": 1.0}, "views_share must lie between 0 and 1, got 1.0; one source needs no share"),
    ],
)
def test_settings_of_batches_are_checked(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        PairsConfig(**options)


def test_pairs_need_a_source() -> None:
    with pytest.raises(ConfigError, match="pairs need a source: set co_interaction, views, or both"):
        PairsConfig(co_interaction=None)
