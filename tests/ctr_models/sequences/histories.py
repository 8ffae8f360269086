"""Small batches of histories: lengths 7, 0, 3, 1 and 5 of 7 columns, with vectors from tables of ids."""

import dataclasses

import torch
from torch import nn

from ctr_models.sequences.protocols import SequenceInput, SequenceOutput

TABLES, PARTS, DIM, LENGTH = 2, 3, 4, 7
WIDTH = PARTS * DIM
LENGTHS = (7, 0, 3, 1, 5)
FIELDS = 2
ITEMS, CATEGORIES = 9, 5


def sequence(seed=0, tables=TABLES, dtype=torch.float64, gradient=False, attention_width=None):
    """Item, category and position, concatenated; columns of padding hold the position's vector alone."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    item_table, category_table = normal(tables, ITEMS, DIM), normal(tables, CATEGORIES, DIM)
    position_table = normal(tables, LENGTH + 1, DIM)
    batch = len(LENGTHS)
    mask = torch.arange(LENGTH) >= LENGTH - torch.tensor(LENGTHS)[:, None]
    items = torch.randint(2, ITEMS, (batch, LENGTH), generator=generator) * mask
    target_items = torch.randint(2, ITEMS, (batch,), generator=generator)
    event_ids = torch.stack([items, (items % 3 + 2) * mask], -1)
    target_ids = torch.stack([target_items, target_items % 3 + 2], -1)

    def look_up(ids, positions):
        real = ids[..., :1].ne(0)
        parts = (item_table[:, ids[..., 0]], category_table[:, ids[..., 1]])
        where = position_table[:, positions].expand(*parts[0].shape)
        return torch.cat([*(part * real for part in parts), where], -1)

    target = look_up(target_ids, torch.zeros(1, dtype=torch.long)).to(dtype)
    events = look_up(event_ids, torch.arange(LENGTH, 0, -1)[None]).to(dtype)
    attention = (None, None)
    if attention_width is not None:
        attention = (normal(tables, batch, attention_width), normal(tables, batch, LENGTH, attention_width))
        attention = tuple(part.to(dtype).requires_grad_(gradient) for part in attention)
    if gradient:
        target.requires_grad_()
        events.requires_grad_()
    return SequenceInput(target, events, mask, target_ids, event_ids, *attention)


def padded(given: SequenceInput, columns: int, noise: float = 1.0) -> SequenceInput:
    """More columns of padding on the left (fewer when negative), filled with anything."""
    generator = torch.Generator().manual_seed(5)

    def widen(vectors):
        if vectors is None:
            return None
        if columns < 0:
            return vectors[:, :, -columns:]
        new = torch.randn(*vectors.shape[:2], columns, vectors.shape[3], generator=generator, dtype=torch.float64)
        return torch.cat([(noise * new).to(vectors.dtype), vectors], 2)

    mask = nn.functional.pad(given.mask, (columns, 0))
    ids = nn.functional.pad(given.event_ids, (0, 0, columns, 0))
    events, attention = widen(given.events), widen(given.attention_events)
    return dataclasses.replace(given, events=events, attention_events=attention, mask=mask, event_ids=ids)


def rows(given: SequenceInput, chosen: list[int]) -> SequenceInput:
    """Some rows of a batch."""
    return SequenceInput(
        given.target[:, chosen],
        given.events[:, chosen],
        given.mask[chosen],
        given.target_ids[chosen],
        given.event_ids[chosen],
        None if given.attention_target is None else given.attention_target[:, chosen],
        None if given.attention_events is None else given.attention_events[:, chosen],
    )


def build(kind, config, tables=TABLES):
    """A float64 encoder whose parameters leave their symmetric starting values."""
    torch.manual_seed(0)
    module = kind(config, tables, PARTS, DIM).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def one_number(output: SequenceOutput) -> torch.Tensor:
    """All that an encoder gives, weighted at random, as one number to differentiate."""
    generator = torch.Generator().manual_seed(9)
    total = torch.zeros((), dtype=torch.float64)
    for part in output:
        if part is not None:
            total = total + (part * torch.randn(part.shape, generator=generator, dtype=torch.float64)).sum()
    return total


def agree(module, reference, given=None, auxiliary=False):
    """Checks an encoder against `reference(table, target, events, row)` of one row's real events: values, gradients.

    `events` are (length, width) without padding, oldest first; the result is (outputs, width).
    """
    given = sequence(gradient=True) if given is None else given
    output = module(given)
    found = output.auxiliary if auxiliary else output.vectors
    expected = torch.stack(
        [
            torch.stack(
                [
                    reference(table, given.target[table, row], given.events[table, row][given.mask[row]], row)
                    for row in range(len(given.mask))
                ]
            )
            for table in range(len(given.target))
        ]
    )
    torch.testing.assert_close(found, expected)
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    leaves = [given.target, given.events, *module.parameters()]
    options = {"allow_unused": True, "materialize_grads": True}
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), leaves, **options),
        torch.autograd.grad((expected * weights).sum(), leaves, **options),
    )
