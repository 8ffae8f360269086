"""Every encoder learns a planted click: the candidate's category is among the events, whose order says nothing."""

import pytest
import torch
from torch import nn

from ctr_models.layers import MLP, MLPConfig, TableLinear
from ctr_models.sequences.bst import BST, BSTConfig
from ctr_models.sequences.dien import DIEN, DIENConfig
from ctr_models.sequences.eta import ETA, ETAConfig
from ctr_models.sequences.hstu import HSTU, HSTUConfig
from ctr_models.sequences.multi_head import MultiHeadConfig
from ctr_models.sequences.protocols import SequenceInput
from ctr_models.sequences.sdim import SDIM, SDIMConfig
from ctr_models.sequences.sim import SIM, HardSearchConfig, SIMConfig
from ctr_models.sequences.twin import TWIN, TWINConfig
from ctr_models.sequences.twin_v2 import TWINV2, TWINV2Config

HEADS = MultiHeadConfig(num_heads=2, attention_dim=16)
PLAIN = TWINConfig(top_k=3, cross_parts=0, attention=HEADS)
CASES = {
    "sim_hard": (SIM, SIMConfig(search=HardSearchConfig(), top_k=3, attention=HEADS)),
    "sim_soft": (SIM, SIMConfig(top_k=3, attention=HEADS)),
    "eta": (ETA, ETAConfig(top_k=3, attention=HEADS)),
    "sdim": (SDIM, SDIMConfig(bits=48, group_size=3)),
    "twin": (TWIN, PLAIN),
    "twin_v2": (TWINV2, TWINV2Config(num_levels=3, max_size=2, twin=PLAIN)),
    "dien": (DIEN, DIENConfig()),
    "bst": (BST, BSTConfig(num_heads=2, attention_dim=16, hidden_dim=16)),
    "hstu": (HSTU, HSTUConfig(query_dim=16, value_dim=16, max_length=8)),
}
CATEGORIES, LENGTH, DIM, BATCH = 12, 8, 8, 128
FAST = ("sim_soft", "twin")


class ClickModel(nn.Module):
    """Tables of items and categories, an encoder, and a small head over [target, h, target * h]."""

    def __init__(self, kind, config):
        super().__init__()
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(size + 2, DIM)) for size in (40, CATEGORIES))
        self.encoder = kind(config, 1, 2, DIM)
        self.heads = nn.ModuleList(
            self._head(number) for number in (self.encoder.num_outputs, self.encoder.num_auxiliary)
        )

    @staticmethod
    def _head(outputs):
        hidden = MLP(MLPConfig(widths=(32,)), 1, 2 * DIM * (1 + 2 * outputs))
        return nn.Sequential(hidden, TableLinear(1, hidden.width, 1))

    def look_up(self, ids):
        return torch.cat([table[ids[..., column]] for column, table in enumerate(self.tables)], -1).unsqueeze(0)

    def forward(self, target_ids, event_ids, mask):
        target, events = self.look_up(target_ids), self.look_up(event_ids)
        output = self.encoder(SequenceInput(target, events, mask, target_ids, event_ids))
        logits = []
        for head, vectors in zip(self.heads, output[:2], strict=True):
            if vectors is not None:
                products = vectors * target.unsqueeze(2)
                logits.append(head(torch.cat([target, vectors.flatten(2), products.flatten(2)], 2)).flatten())
        return logits, output.loss


def draw(generator, rows):
    """Histories of 0 to 8 events; half of the candidates are of a category that is there."""
    mask = torch.arange(LENGTH) >= torch.randint(0, LENGTH, (rows, 1), generator=generator)
    categories = torch.randint(2, CATEGORIES + 2, (rows, LENGTH), generator=generator) * mask
    seen = categories.gather(1, torch.randint(0, LENGTH, (rows, 1), generator=generator)).flatten()
    other = torch.randint(2, CATEGORIES + 2, (rows,), generator=generator)
    wanted = torch.where(torch.rand(rows, generator=generator).lt(0.5) & seen.gt(0), seen, other)
    labels = (categories == wanted.unsqueeze(1)).any(1).float()
    items = torch.randint(2, 42, (rows, LENGTH + 1), generator=generator)
    event_ids = torch.stack([items[:, 1:] * mask, categories], -1)
    return torch.stack([items[:, 0], wanted], -1), event_ids, mask, labels


def auc(logits, labels):
    positive, negative = logits[labels == 1], logits[labels == 0]
    wins = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
    return float(wins.mean())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in CASES]
)
def test_a_planted_click_is_learned_from_the_own_history_alone(name):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = ClickModel(*CASES[name]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150 if name in FAST else 300):
        *given, labels = draw(generator, BATCH)
        logits, loss = model(*given)
        total = sum(nn.functional.binary_cross_entropy_with_logits(part, labels) for part in logits)
        optimizer.zero_grad()
        (total if loss is None else total + loss).backward()
        optimizer.step()
    target_ids, event_ids, mask, labels = draw(generator, 1000)
    with torch.no_grad():
        own, _ = model.eval()(target_ids, event_ids, mask)
        strange, _ = model(target_ids, event_ids.roll(1, 0), mask.roll(1, 0))
    assert auc(own[0], labels) > 0.85
    assert auc(strange[0], labels) < 0.6
