"""Scores and sums from tables equal those from vectors: values, gradients of every parameter, dense and by the row."""

import warnings
from dataclasses import replace

import pytest
import torch

from ctr_models.sequences import presets
from ctr_models.sequences.attention import DotScoreConfig
from ctr_models.sequences.event_bags import EventBags, EventIndex
from ctr_models.sequences.events import EventsConfig, EventTables
from ctr_models.sequences.target_attention import TargetAttention, TargetAttentionConfig
from tests.ctr_models.sequences.worlds import batch, model

OFFSETS = torch.tensor([0, 9])


def drawn(*, padded=True, timed=True, dtype=torch.float64):
    """9 items and 5 categories, vectors of 3 and of 2 for a position; row 1 has no event, row 2 two; items repeat."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randint(1, size, (4, 6), generator=generator) for size in (9, 5)], 2)
    if padded:
        ids[1], ids[2, :-2] = 0, 0

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    weight, positions = draw(14, 3), draw(6, 2) if timed else None
    return ids, weight, positions, draw(1, 4, 8 if timed else 6), draw(1, 4, 2, 6)


def vectors(ids, weight, positions):
    """One event at a time; padding gives zeros."""
    rows = []
    for row in ids:
        for place, event in enumerate(row):
            fields = [weight[i + o] * float(i != 0) for i, o in zip(event.tolist(), OFFSETS.tolist(), strict=True)]
            rows.append(torch.cat([*fields, *([] if positions is None else [positions[place]])]))
    return torch.stack(rows).unflatten(0, ids.shape[:2])


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_values_and_gradients_are_those_of_vectors(sparse, timed, padded):
    ids, weight, positions, query, weights = drawn(padded=padded, timed=timed)
    leaves = [leaf for leaf in (weight, positions, query, weights) if leaf is not None]
    bags = EventBags(weight, EventIndex(ids, OFFSETS), positions, sparse)
    found = bags.scores(query), bags.sums(weights)
    events = vectors(ids, weight, positions)
    expected = (events @ query[0].unsqueeze(2)).squeeze(2).unsqueeze(0), (weights[0] @ events).unsqueeze(0)
    torch.testing.assert_close(found, expected)
    upstream = [torch.randn_like(part) for part in expected]
    wanted = torch.autograd.grad(expected, leaves, upstream)
    gradients = torch.autograd.grad(found, leaves, upstream)
    assert gradients[0].is_sparse == sparse
    torch.testing.assert_close([gradient.to_dense() for gradient in gradients], list(wanted))
    assert not gradients[0].to_dense()[OFFSETS].any()


def test_gradients_by_the_row_name_each_row_once_and_in_order():
    ids, weight, positions, query, _ = drawn()
    score = EventBags(weight, EventIndex(ids, OFFSETS), positions, sparse=True).scores(query)
    (gradient,) = torch.autograd.grad(score.sum(), [weight])
    assert gradient.is_coalesced()
    rows = gradient.indices()[0]
    assert rows.tolist() == sorted(set((ids + OFFSETS).flatten().tolist()))


def test_candidates_without_events_get_zeros():
    _, weight, _, query, _ = drawn(timed=False)
    bags = EventBags(weight, EventIndex(torch.zeros(4, 0, 2, dtype=torch.int64), OFFSETS), None, sparse=False)
    scores, sums = bags.scores(query), bags.sums(torch.zeros(1, 4, 2, 0, dtype=torch.float64))
    assert (scores.shape, sums.shape) == ((1, 4, 0), (1, 4, 2, 6))
    (scores.sum() + sums.sum()).backward()
    assert not sums.any()
    assert not weight.grad.any()


def test_gradients_pass_the_finite_difference_check():
    ids, weight, positions, query, weights = drawn()

    def both(weight, positions, query, weights):
        bags = EventBags(weight, EventIndex(ids, OFFSETS), positions, sparse=False)
        return bags.scores(query), bags.sums(weights)

    assert torch.autograd.gradcheck(both, (weight, positions, query, weights))


VARIANTS = {
    "plain": TargetAttentionConfig(top_k=3),
    "joint scale": TargetAttentionConfig(top_k=5, score=DotScoreConfig(scale="joint")),
    "no auxiliary": TargetAttentionConfig(top_k=3, auxiliary=False),
    "all events": TargetAttentionConfig(top_k=None),
    "all events, no auxiliary": TargetAttentionConfig(top_k=None, auxiliary=False),
    "hard": TargetAttentionConfig(top_k=3, search="hard"),
    "without target": TargetAttentionConfig(top_k=3, target_aware="none"),
}


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("decouple", ["dare", "shared", "three", "four"])
@pytest.mark.parametrize("name", VARIANTS)
def test_models_in_training_take_them_and_agree_with_vectors(name, decouple, sparse, monkeypatch):
    config = presets.preset("dare")
    events = EventsConfig(decouple=decouple, attention_dims=() if decouple == "shared" else (5,))
    sequence = replace(config.sequence, encoder=VARIANTS[name], events=events, max_length=12)
    auxiliary = config.auxiliary if VARIANTS[name].auxiliary else ()
    config = replace(config, dim=4, sequence=sequence, auxiliary=auxiliary)
    built, given = model(config, sparse=sparse), batch()
    assert (given.history.ids == 0).any()
    calls = []
    of_bags = TargetAttention.of_bags
    monkeypatch.setattr(TargetAttention, "of_bags", lambda *args: calls.append(1) or of_bags(*args))

    def step():
        built.zero_grad()
        outputs = built.outputs(given)
        loss = outputs.logits.square().sum()
        (loss if outputs.auxiliary is None else loss + outputs.auxiliary.square().sum()).backward()
        gradients = {key: p.grad.to_dense().clone() for key, p in built.named_parameters() if p.grad is not None}
        return outputs.logits.detach(), gradients

    from_bags = step()
    assert calls == [1]
    monkeypatch.setattr(EventTables, "bags", lambda *_: None)
    from_vectors = step()
    assert calls == [1]
    torch.testing.assert_close(from_bags, from_vectors)


@pytest.mark.parametrize("name", ["din_unsearched", "twin_projection", "tin"])
def test_what_reads_single_events_gets_their_vectors(name, monkeypatch):
    monkeypatch.setattr(TargetAttention, "of_bags", lambda *_: pytest.fail("bags were read"))
    config = presets.preset(name)
    model(replace(config, dim=4, sequence=replace(config.sequence, max_length=12))).outputs(batch())


def test_nothing_is_said_about_the_layout():
    ids, weight, positions, query, _ = drawn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EventBags(weight, EventIndex(ids, OFFSETS), positions, sparse=False).scores(query).sum().backward()
