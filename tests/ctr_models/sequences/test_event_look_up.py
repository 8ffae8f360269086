"""The one operation equals look-up, mask, concatenation and split: values, and gradients of both tables."""

from dataclasses import replace

import pytest
import torch

from ctr_models.embeddings import EmbeddingTable
from ctr_models.sequences import presets
from ctr_models.sequences.event_look_up import look_up_events
from ctr_models.sequences.events import EventIds, EventTables, EventVectors, PartTables
from tests.ctr_models.sequences.worlds import batch, model

OFFSETS = torch.tensor([0, 9])


def drawn(dtype=torch.float64, *, padded=True, columns=6):
    """9 items and 5 categories, vectors of 3 and of 2 for a position; row 1 has no event, row 2 two of them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(14, 3, generator=generator, dtype=dtype)
    ids = torch.stack([torch.randint(1, size, (4, columns), generator=generator) for size in (9, 5)], 2)
    if padded:
        ids[1, 1:], ids[2, 1:-2] = 0, 0
    return weight, ids, torch.randn(columns, 2, generator=generator, dtype=dtype)


def naive(weight, ids, times):
    """One vector at a time."""
    rows = []
    for row in ids:
        for column, event in enumerate(row):
            parts = [
                weight[int(number) + int(offset)] * float(number != 0)
                for number, offset in zip(event, OFFSETS, strict=True)
            ]
            rows.append(torch.cat([*parts, *([] if times is None else [times[column]])]))
    vectors = torch.stack(rows).unflatten(0, ids.shape[:2])
    return vectors[:, 0], vectors[:, 1:]


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_values_and_gradients_are_those_of_the_loop(timed, padded, sparse):
    weight, ids, times = drawn(padded=padded)
    leaves = [weight.requires_grad_(), *([times.requires_grad_()] if timed else [])]
    given = times if timed else None
    found, expected = look_up_events(weight, ids, OFFSETS, given, sparse=sparse), naive(weight, ids, given)
    torch.testing.assert_close(tuple(found), expected)
    upstream = [torch.randn_like(part) for part in expected]
    wanted = torch.autograd.grad(expected, leaves, upstream)
    gradients = torch.autograd.grad(tuple(found), leaves, upstream)
    assert gradients[0].is_sparse == sparse
    torch.testing.assert_close([gradient.to_dense() for gradient in gradients], list(wanted))
    assert not gradients[0].to_dense()[OFFSETS].any()


def test_gradients_pass_the_finite_difference_check():
    weight, ids, times = drawn()
    assert torch.autograd.gradcheck(
        lambda w, t: tuple(look_up_events(w, ids, OFFSETS, t)), (weight.requires_grad_(), times.requires_grad_())
    )


def test_candidates_without_events_have_none():
    weight, ids, times = drawn(columns=1, padded=False)
    found = look_up_events(weight.requires_grad_(), ids, OFFSETS, times)
    assert found.events.shape == (4, 0, 8)
    found.target.sum().backward()
    assert weight.grad.sum() == 4 * 2 * 3


@pytest.mark.parametrize("name", ["dare", "twin", "din_unsearched", "twin_projection"])
def test_models_in_training_take_it_and_agree_with_the_tables_own_path(name, monkeypatch):
    config = presets.preset(name)
    config = replace(config, dim=4, sequence=replace(config.sequence, max_length=12))
    built, given = model(config), batch()
    assert (given.history.ids == 0).any()

    def step():
        built.zero_grad()
        outputs = built.outputs(given)
        outputs.logits.square().sum().backward()
        gradients = {key: value.grad.clone() for key, value in built.named_parameters() if value.grad is not None}
        return outputs.logits.detach(), gradients

    monkeypatch.setattr(EventTables, "bags", lambda *_: None)
    calls = []
    table_calls = EmbeddingTable.look_up
    monkeypatch.setattr(EmbeddingTable, "look_up", lambda *args: calls.append(1) or table_calls(*args))
    together = step()
    assert not calls
    monkeypatch.setattr(PartTables, "look_up", lambda self, events: apart(self, events))
    separate = step()
    assert calls
    torch.testing.assert_close(together, separate)


def apart(tables: PartTables, events: EventIds):
    both = tables(events)
    return EventVectors(both[:, :, 0], both[:, :, 1:])
