"""Small batches with histories of all lengths, and models over them whose every parameter differs from its start."""

from dataclasses import replace

import torch

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.embeddings import LinearTerm, schema_vectors
from ctr_models.model import CTRModel, CTRModelConfig, build_ctr_model
from ctr_models.schema import Categorical, Schema
from ctr_models.sequences.events import EventLayout
from ctr_models.sequences.protocols import SequenceInput

ITEMS, CATEGORIES, USERS = 23, 6, 9
ITEM, CATEGORY = Categorical(name="item", size=ITEMS), Categorical(name="category", size=CATEGORIES)
SCHEMA = Schema(fields=(ITEM, CATEGORY), history=("item", "category"))
WITH_USER = Schema(fields=(CATEGORY, Categorical(name="user", size=USERS), ITEM), history=("item", "category"))
LENGTHS = (12, 9, 1, 0, 5, 12, 3)  # events of each row


def history(lengths=LENGTHS, columns=12, seed=0) -> HistoryBatch:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), columns)
    mask = torch.arange(columns) >= columns - torch.tensor(lengths).unsqueeze(1)
    items = torch.randint(2, ITEMS, shape, generator=generator) * mask
    categories = torch.randint(2, CATEGORIES, shape, generator=generator) * mask
    gaps = torch.randint(1, 30, shape, generator=generator) * mask
    return HistoryBatch(torch.stack([items, categories], 2), gaps)


def batch(schema=SCHEMA, lengths=LENGTHS, columns=12, seed=0) -> FeatureBatch:
    generator = torch.Generator().manual_seed(seed + 1)
    rows = len(lengths)
    ids = torch.stack([torch.randint(2, f.size, (rows,), generator=generator) for f in schema.fields], 1)
    labels = torch.arange(rows).remainder(2).float().unsqueeze(1)
    return FeatureBatch(ids, torch.zeros(rows, 0), torch.zeros(rows, 0), labels, None, history(lengths, columns, seed))


def model(config: CTRModelConfig, schema=SCHEMA, *, outputs=2, seed=0, sparse=False) -> CTRModel:
    """In float64 and training mode; parameters N(0, 0.5^2) but the rows of padding."""
    torch.manual_seed(seed)
    built = build_ctr_model(
        replace(config, num_outputs=outputs),
        schema,
        build_sources=lambda given, dim, tables: schema_vectors(given, dim, tables, sparse=sparse),
        build_linear=LinearTerm,
    ).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        for module in built.modules():
            if hasattr(module, "rows") and hasattr(module, "embedding"):
                module.embedding.weight[[rows.start for rows in module.rows.values()]] = 0.0
    return built


def layout(parts=3, dim=4, widths=None, position=True) -> EventLayout:
    return EventLayout(
        num_fields=2, parts=parts, dim=dim, attention_widths=widths or (dim,) * parts, has_position=position
    )


def sequence(tables=2, shape=None, lengths=LENGTHS, columns=12, seed=0, attention=True) -> SequenceInput:
    """Vectors drawn freely, attention vectors of the layout's width among them."""
    shape = shape or layout()
    given, rows = history(lengths, columns, seed), len(lengths)
    torch.manual_seed(seed)
    width, wide = shape.parts * shape.dim, shape.attention_width
    targets = torch.stack([torch.randint(2, ITEMS, (rows,)), torch.randint(2, CATEGORIES, (rows,))], 1)

    def draw(*size):
        return torch.randn(*size, dtype=torch.float64, requires_grad=True)

    return SequenceInput(
        target=draw(tables, rows, width),
        events=draw(tables, rows, columns, width),
        mask=given.mask,
        target_ids=targets,
        event_ids=given.ids,
        attention_target=draw(tables, rows, wide) if attention else None,
        attention_events=draw(tables, rows, columns, wide) if attention else None,
    )
