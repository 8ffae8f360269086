"""A planted log with histories and small models of it, for tests of the sequence analyses."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.schema import Categorical, Schema
from llm_rec.analysis.sequence_analysis import SequenceMaterial
from llm_rec.analysis.target_attention import RoleVectors

ITEMS, CATEGORIES, LENGTH, DIM = 20, 6, 8, 4
SCHEMA = Schema(
    fields=(Categorical(name="category", size=CATEGORIES), Categorical(name="item", size=ITEMS)),
    history=("item", "category"),
)
NAMES = ("-", "?", "<shoes>", "books", "tools", "toys")


def rows(number, seed):
    """Items 2.. of category 2 + item % 4; clicks follow events of the target's category among the newest three."""
    rng = np.random.default_rng(seed)
    past = rng.integers(2, ITEMS, (number, LENGTH))
    past[np.arange(LENGTH) < rng.integers(0, LENGTH + 1, (number, 1)) - 1] = 0
    item = rng.integers(2, ITEMS, number)
    category, categories = 2 + item % 4, np.where(past > 0, 2 + past % 4, 0)
    matches = (categories[:, -3:] == category[:, None]).sum(axis=1)
    labels = rng.random(number) < 0.15 + 0.25 * matches
    history = HistoryBatch(torch.from_numpy(np.stack([past, categories], axis=2)))
    return FeatureBatch(
        ids=torch.from_numpy(np.stack([category, item], axis=1)),
        numbers=torch.zeros(number, 0),
        dense=torch.zeros(number, 0),
        labels=torch.from_numpy(labels.astype(np.float32))[:, None],
        history=history,
    )


PARTS = {"train": [rows(1500, 0), rows(1500, 1)], "test": [rows(250, 2), rows(150, 3)]}


def material(truth=None):
    return SequenceMaterial(SCHEMA, PARTS.get, NAMES, truth)


def planted_truth():
    truth = np.zeros((CATEGORIES, CATEGORIES, LENGTH))
    for category in range(2, CATEGORIES):
        truth[category, category, :3] = 1.0
    return truth


class Events(nn.Module):
    """Item, category and position side by side."""

    def __init__(self):
        super().__init__()
        self.item, self.category = nn.Embedding(ITEMS, DIM), nn.Embedding(CATEGORIES, DIM)
        self.position = nn.Embedding(LENGTH + 1, DIM)

    def forward(self, items, categories, positions):
        places = self.position(positions).expand(*items.shape, DIM)
        return torch.cat([self.item(items), self.category(categories), places], -1)


class Pooling(nn.Module):
    """Target attention with a table for each role."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.attention, self.representation = Events(), Events()
        self.head = nn.Linear(6 * DIM, 1)

    def vectors(self, batch):
        ids = torch.cat([batch.history.ids, batch.ids[:, [1, 0]].unsqueeze(1)], 1)
        return [
            role(ids[..., 0], ids[..., 1], torch.arange(LENGTH, -1, -1))
            for role in (self.attention, self.representation)
        ]

    def scores(self, batch):
        return (self.vectors(batch)[0][:, :-1] * self.vectors(batch)[0][:, -1:]).sum(2) * DIM**-0.5

    def features(self, batch):
        events = self.vectors(batch)[1]
        scores = self.scores(batch).masked_fill(~batch.history.mask, -1e9)
        pooled = (scores.softmax(1)[..., None] * events[:, :-1]).sum(1)
        return torch.cat([pooled, pooled * events[:, -1]], 1)

    def forward(self, batch):
        return self.head(self.features(batch))


@dataclass
class View:
    """A `SequenceView` of `Pooling`; `plain` leaves out all that a model without attention lacks."""

    model: Pooling
    plain: bool = False
    semantic_dim: int | None = None

    @property
    def attention(self):
        return None if self.plain else role_vectors(self.model.attention)

    @property
    def representation(self):
        return None if self.plain else role_vectors(self.model.representation)

    def scores(self, batch):
        return None if self.plain else self.model.scores(batch)

    def features(self, batch):
        return self.model.features(batch)


def role_vectors(events):
    return RoleVectors(*(table.weight.detach().numpy() for table in (events.category, events.position)))


def oracle(model):
    """Attention set by hand to what was planted: the own category, and the newest three events."""
    with torch.no_grad():
        events = model.attention
        events.item.weight.zero_()
        events.category.weight[:] = 0
        events.category.weight[2:, :] = 4 * torch.eye(DIM)
        events.position.weight.zero_()
        events.position.weight[:4, 0] = 4
    return model
