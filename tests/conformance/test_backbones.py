"""What every sequence backbone promises."""

import pytest
import torch

from llm_rec.codec import from_plain, to_plain
from llm_rec.sequential.backbones import build_backbone
from llm_rec.sequential.caser import CaserConfig
from llm_rec.sequential.gru4rec import GRU4RecConfig
from llm_rec.sequential.model import SequentialConfig
from llm_rec.sequential.protocols import Backbone
from llm_rec.sequential.sasrec import SASRecConfig, pad_sasrec, released_sasrec

CONFIGS = {
    "sasrec": SASRecConfig(),
    "sasrec_post_gelu_from_start": SASRecConfig(norm="post", activation="gelu", positions="from_start", num_heads=1),
    "sasrec_pad": pad_sasrec(),
    "sasrec_released": released_sasrec(),
    "sasrec_query": SASRecConfig(norm="query"),
    "sasrec_query_null_key": SASRecConfig(norm="query", null_key=True, num_layers=3),
    "sasrec_pre_null_key": SASRecConfig(null_key=True),
    "sasrec_post_null_key_from_start": SASRecConfig(norm="post", null_key=True, positions="from_start"),
    "gru4rec": GRU4RecConfig(hidden=12),
    "gru4rec_deep": GRU4RecConfig(num_layers=2, hidden=12),
    "caser": CaserConfig(),
    "caser_window_of_one": CaserConfig(window=1, num_horizontal=3, num_vertical=2),
}
DIM, MAX_LENGTH = 8, 12


@pytest.fixture(params=CONFIGS, name="config")
def fixture_config(request):
    return CONFIGS[request.param]


@pytest.fixture(name="backbone")
def fixture_backbone(config):
    torch.manual_seed(0)
    return build_backbone(config, DIM, MAX_LENGTH).eval()


def history(*sizes, length=None):
    """Random item vectors, and junk on the padding that a backbone must not read."""
    torch.manual_seed(1)
    length = length or max(sizes)
    mask = torch.arange(length) < torch.tensor(sizes)[:, None]
    return torch.randn(len(sizes), length, DIM), mask


def test_it_is_a_backbone_and_a_module(backbone):
    assert isinstance(backbone, Backbone)
    assert isinstance(backbone, torch.nn.Module)


def test_config_survives_json(config):
    model = SequentialConfig(backbone=config)
    assert from_plain(SequentialConfig, to_plain(model)) == model


def test_state_t_does_not_depend_on_later_items(backbone):
    vectors, mask = history(6, 4)
    before = backbone(vectors, mask)
    for t in range(5):
        changed = vectors.clone()
        changed[:, t + 1 :] = torch.randn_like(changed[:, t + 1 :])
        assert torch.allclose(backbone(changed, mask)[:, : t + 1], before[:, : t + 1], atol=1e-6)


def test_state_t_depends_on_item_t_and_the_one_before(backbone, config):
    vectors, mask = history(6)
    before = backbone(vectors, mask)
    for t in (4, 5):
        changed = vectors.clone()
        changed[:, t] = torch.randn(DIM)
        after = backbone(changed, mask)
        assert not torch.allclose(after[:, t], before[:, t], atol=1e-4)
        reach = config.window if isinstance(config, CaserConfig) else MAX_LENGTH
        if t == 4 and reach > 1:
            assert not torch.allclose(after[:, 5], before[:, 5], atol=1e-4)


def test_padding_changes_no_real_state(backbone):
    vectors, mask = history(5, 3)
    alone = backbone(vectors[1:, :3], mask[1:, :3])
    longer = torch.cat([vectors, torch.full((2, 4, DIM), 9.0)], dim=1)
    padded = backbone(longer, torch.nn.functional.pad(mask, (0, 4)))
    assert torch.allclose(padded[0, :5], backbone(vectors, mask)[0], atol=1e-5)
    assert torch.allclose(padded[1, :3], alone[0], atol=1e-5)


def test_batches_of_one_of_length_one_and_of_nothing_but_padding(backbone):
    vectors, mask = history(1)
    assert backbone(vectors, mask).shape == (1, 1, DIM)
    vectors, mask = history(0, 0, length=3)
    assert backbone(vectors, mask).isfinite().all()
    full = history(MAX_LENGTH)
    assert backbone(*full).shape == (1, MAX_LENGTH, DIM)


def test_rows_do_not_see_each_other(backbone):
    vectors, mask = history(5, 3, 4)
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(backbone(vectors[order], mask[order]), backbone(vectors, mask)[order], atol=1e-6)


def test_gradient_reaches_every_parameter(backbone):
    backbone.train()
    vectors, mask = history(MAX_LENGTH, 4)
    vectors.requires_grad_()
    (backbone(vectors, mask) * torch.randn(2, MAX_LENGTH, DIM)).sum().backward()
    assert vectors.grad.abs().sum() > 0
    silent = [name for name, parameter in backbone.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert silent == []


def test_dropout_acts_in_training_only(backbone):
    vectors, mask = history(6, 4)
    assert torch.equal(backbone(vectors, mask), backbone(vectors, mask))
    backbone.train()
    assert not torch.equal(backbone(vectors, mask), backbone(vectors, mask))


def test_weights_make_the_backbone(backbone, config):
    torch.manual_seed(5)
    other = build_backbone(config, DIM, MAX_LENGTH).eval()
    other.load_state_dict(backbone.state_dict())
    assert torch.equal(other(*history(6, 4)), backbone(*history(6, 4)))


def test_bf16_is_close_to_fp32(backbone):
    vectors, mask = history(6, 4)
    exact = backbone(vectors, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = backbone(vectors, mask).float()
    assert (rough - exact)[mask].abs().max() < 0.1 * max(1.0, exact.abs().max().item())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SASRecConfig(num_layers=0), "num_layers must be at least 1, got 0"),
        (lambda: SASRecConfig(dropout=1.0), r"dropout must lie in 0..1 \(1 excluded\), got 1.0"),
        (lambda: GRU4RecConfig(hidden=0), "hidden must be at least 1, got 0"),
        (lambda: GRU4RecConfig(dropout=-0.5), r"dropout must lie in 0..1 \(1 excluded\), got -0.5"),
        (lambda: CaserConfig(window=0), "window must be at least 1, got 0"),
        (lambda: CaserConfig(dropout=2.0), r"dropout must lie in 0..1 \(1 excluded\), got 2.0"),
        (lambda: build_backbone(SASRecConfig(num_heads=3), 8, 5), "dim 8 is not divisible by num_heads 3"),
    ],
)
def test_settings_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
