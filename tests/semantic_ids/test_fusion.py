"""Fusion shapes, the published gate by hand, parameter counts, padding."""

import pytest
import torch

from semantic_ids.fusion import (
    AttentionFusionConfig,
    CodeEmbedding,
    CodePooling,
    GateFusionConfig,
    MLPFusionConfig,
    NoFusionConfig,
    SEFusionConfig,
    build_fusion,
)

CONFIGS = [NoFusionConfig(), GateFusionConfig(), SEFusionConfig(), MLPFusionConfig(), AttentionFusionConfig()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (1,), (0,)])
def test_fusion_keeps_the_shape_and_treats_items_independently(config, shape):
    torch.manual_seed(0)
    fusion = build_fusion(config, 3, 8)
    codes = torch.randn(*shape, 3, 8, requires_grad=True)
    fused = fusion(codes)
    assert fused.shape == codes.shape
    if codes.numel():
        torch.testing.assert_close(fusion(codes[:1]), fused[:1])
        fused.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fusion.parameters())


def test_no_fusion_is_plain_concatenation():
    codes = torch.randn(4, 3, 8)
    assert torch.equal(build_fusion(NoFusionConfig(), 3, 8)(codes), codes)


def test_gate_is_the_bottleneck_equation():
    torch.manual_seed(0)
    gate = build_fusion(GateFusionConfig(reduction=6), 3, 8)
    assert gate.down.weight.shape == (4, 24)
    codes = torch.randn(5, 3, 8)
    hidden = codes.reshape(5, 24) @ gate.down.weight.T + gate.down.bias
    hidden = hidden * torch.sigmoid(hidden)
    expected = codes.reshape(5, 24) * torch.sigmoid(hidden @ gate.up.weight.T + gate.up.bias)
    torch.testing.assert_close(gate(codes), expected.reshape(5, 3, 8))


def test_attention_equals_a_naive_loop_over_heads():
    torch.manual_seed(0)
    fusion = build_fusion(AttentionFusionConfig(num_heads=2), 3, 4)
    codes = torch.randn(3, 4)
    query, key, value = (fusion.inward(codes + fusion.places)).chunk(3, dim=-1)
    heads = []
    for head in (slice(0, 2), slice(2, 4)):
        weights = torch.softmax(query[:, head] @ key[:, head].T / 2**0.5, dim=-1)
        heads.append(weights @ value[:, head])
    torch.testing.assert_close(fusion(codes), codes + fusion.outward(torch.cat(heads, dim=-1)))


def test_embedding_reads_each_book_from_its_own_rows_and_padding_is_zero():
    torch.manual_seed(0)
    embedding = CodeEmbedding((4, 2), 3)
    assert embedding.weight.shape == (4 + 1 + 2 + 1, 3)
    found = embedding(torch.tensor([[0, 0], [4, 2], [1, 1]]))
    assert torch.equal(found[0], torch.zeros(2, 3))
    assert torch.equal(found[1], embedding.weight[[4, 7]])
    assert torch.equal(found[2], embedding.weight[[1, 6]])
    found.sum().backward()
    assert embedding.weight.grad[[0, 5]].abs().sum() == 0
    assert embedding.weight.grad[[4, 7, 1, 6]].eq(1).all()


def test_pooling_by_hand_and_padding_stays_zero():
    codes = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert CodePooling("sum", 2, 2)(codes).tolist() == [[4.0, 6.0]]
    assert CodePooling("mean", 2, 2)(codes).tolist() == [[2.0, 3.0]]
    concat = CodePooling("concat", 2, 2)
    torch.testing.assert_close(concat(codes), codes.flatten(1) @ concat.project.weight.T)
    assert concat(torch.zeros(1, 2, 2)).abs().sum() == 0


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="reduction must be at least 1, got 0"):
        GateFusionConfig(reduction=0)
    with pytest.raises(ValueError, match="dim 5 cannot be shared by 2 heads"):
        build_fusion(AttentionFusionConfig(), 3, 5)
    with pytest.raises(ValueError, match="hidden_dim must be at least 1, got 0"):
        MLPFusionConfig(hidden_dim=0)
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        AttentionFusionConfig(num_heads=0)
