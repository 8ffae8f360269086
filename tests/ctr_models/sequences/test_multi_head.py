"""Folded multi-head attention against projections of every event."""

import pytest
import torch

from ctr_models.sequences.multi_head import LongShortAttention, MultiHeadAttention, MultiHeadConfig
from ctr_models.sequences.protocols import SequenceOutput
from tests.ctr_models.sequences import textbook
from tests.ctr_models.sequences.histories import LENGTH, WIDTH, agree, sequence


class Whole(torch.nn.Module):
    """Attends to every event: the search is left out."""

    def __init__(self, config, key_width=None):
        super().__init__()
        torch.manual_seed(0)
        self.attention = LongShortAttention(config, 2, WIDTH, key_width).double()

    def forward(self, given):
        mask = given.mask.expand(2, -1, -1)
        return SequenceOutput(self.attention(given, given.events, mask))


@pytest.mark.parametrize(
    ("config", "key_width"),
    [
        (MultiHeadConfig(num_heads=2, attention_dim=6), None),
        (MultiHeadConfig(num_heads=1, attention_dim=5, short_length=3), 8),
        (MultiHeadConfig(num_heads=3, attention_dim=6, short_length=20, target_product=True), None),
    ],
)
def test_attention_equals_the_loop_over_heads_and_events(config, key_width):
    module = Whole(config, key_width)
    assert module.attention.num_outputs == (1 + bool(config.short_length)) * (1 + config.target_product)

    def reference(table, target, events, row):
        return textbook.outputs(module.attention, table, target, events, range(len(events)))

    agree(module, reference)


def test_a_bias_is_added_to_scores():
    torch.manual_seed(0)
    attention = MultiHeadAttention(MultiHeadConfig(num_heads=2, attention_dim=6), 2, WIDTH, WIDTH).double()
    given = sequence()
    bias = torch.randn(2, 5, 2, LENGTH, dtype=torch.float64)
    found = attention(given.target, given.events, given.mask.unsqueeze(0), bias)
    expected = textbook.attend(attention, 1, given.target[1, 0], given.events[1, 0], bias[1, 0])
    torch.testing.assert_close(found[1, 0], expected)


def test_equal_events_share_what_one_would_get():
    torch.manual_seed(0)
    attention = MultiHeadAttention(MultiHeadConfig(), 1, 4, 4)
    target, event = torch.randn(1, 1, 4), torch.randn(1, 1, 1, 4)
    one = attention(target, event, torch.ones(1, 1, 1, dtype=torch.bool))
    three = attention(target, event.expand(-1, -1, 3, -1), torch.ones(1, 1, 3, dtype=torch.bool))
    torch.testing.assert_close(three, one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"attention_dim": 0}, "attention_dim must be at least 1, got 0"),
        ({"short_length": -1}, "short_length must be at least 0, got -1"),
        ({"num_heads": 3}, "attention_dim 64 cannot be shared by num_heads 3; choose a divisor"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadConfig(**options)
