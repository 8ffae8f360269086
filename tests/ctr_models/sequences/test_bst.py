"""BST against the transformer written out position by position, and its options."""

import pytest
import torch

from ctr_models.sequences.bst import BST, BSTConfig
from tests.ctr_models.sequences import textbook
from tests.ctr_models.sequences.histories import WIDTH, agree, build, sequence

CONFIGS = [
    BSTConfig(num_heads=2, attention_dim=6, hidden_dim=5),
    BSTConfig(num_layers=3, num_heads=1, attention_dim=5, hidden_dim=7),
    BSTConfig(num_layers=2, num_heads=3, attention_dim=6, hidden_dim=4, pooling="mean"),
]


def normalised(vector, norm, table):
    centred = vector - vector.mean()
    scaled = centred / (centred.square().mean() + 1e-5).sqrt()
    return scaled * norm.weight[table, 0, 0] + norm.bias[table, 0, 0]


def transform(layer, table, vectors, config):
    """Eqs. 4 and 5 position by position and head by head."""
    size = config.attention_dim // config.num_heads
    keys, values = layer.key_value.weight[table].chunk(2, 1)
    results = []
    for own in vectors:
        heads = []
        for head in range(config.num_heads):
            part = slice(head * size, (head + 1) * size)
            query = own @ layer.query.weight[table][:, part]
            weights = textbook.softmax([query @ (other @ keys[:, part]) / size**0.5 for other in vectors])
            heads.append(sum(w * (other @ values[:, part]) for w, other in zip(weights, vectors, strict=True)))
        mixed = normalised(own + torch.cat(heads) @ layer.output.weight[table], layer.first_norm, table)
        inner = mixed @ layer.inner.weight[table] + layer.inner.bias[table]
        hidden = torch.where(inner > 0, inner, 0.01 * inner)
        outer = hidden @ layer.outer.weight[table] + layer.outer.bias[table]
        results.append(normalised(mixed + outer, layer.second_norm, table))
    return results


@pytest.mark.parametrize("config", CONFIGS)
def test_bst_equals_the_loop(config):
    module = build(BST, config)

    def reference(table, target, events, row):
        if not len(events):
            return torch.zeros(1, WIDTH, dtype=torch.float64)
        vectors = [*events, target]
        for layer in module.layers:
            vectors = transform(layer, table, vectors, config)
        pooled = vectors[-1] if config.pooling == "target" else sum(vectors[:-1]) / len(events)
        return pooled.unsqueeze(0)

    agree(module, reference)


def test_dropout_falls_in_training_alone():
    module, given = build(BST, BSTConfig(dropout=0.5)), sequence()
    assert not torch.equal(module(given).vectors, module(given).vectors)
    module.eval()
    assert torch.equal(module(given).vectors, module(given).vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"attention_dim": 0}, "attention_dim must be at least 1, got 0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"num_heads": 3}, "attention_dim 64 cannot be shared by num_heads 3; choose a divisor"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BSTConfig(**options)
