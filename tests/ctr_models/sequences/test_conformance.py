"""What every encoder of event sequences promises."""

import dataclasses
from typing import get_args

import pytest
import torch
from safetensors.torch import load, save

from ctr_models.sequences.attention import DotScoreConfig, MLPScoreConfig
from ctr_models.sequences.bst import BSTConfig
from ctr_models.sequences.dien import DIENConfig
from ctr_models.sequences.din import DINConfig
from ctr_models.sequences.encoder import EncoderConfig, build_encoder, needs_attention, reads_attention
from ctr_models.sequences.eta import ETAConfig
from ctr_models.sequences.hstu import HSTUConfig
from ctr_models.sequences.multi_head import MultiHeadConfig
from ctr_models.sequences.protocols import SequenceEncoder
from ctr_models.sequences.sdim import SDIMConfig
from ctr_models.sequences.sim import HardSearchConfig, SIMConfig, SoftSearchConfig
from ctr_models.sequences.target_attention import TargetAttentionConfig
from ctr_models.sequences.tin import TINConfig
from ctr_models.sequences.twin import TWINConfig
from ctr_models.sequences.twin_v2 import TWINV2Config
from llm_rec.codec import from_plain, to_plain
from tests.ctr_models.sequences.worlds import LENGTHS, layout, sequence

TABLES = 3
HEADS = MultiHeadConfig(attention_dim=4)
EMPTY = LENGTHS.index(0)
CASES = {
    "target_attention": TargetAttentionConfig(top_k=4),
    "all_events": TargetAttentionConfig(top_k=None),
    "joint": TargetAttentionConfig(top_k=4, score=DotScoreConfig(scale="joint"), auxiliary=False),
    "hard": TargetAttentionConfig(top_k=4, search="hard", target_aware="only"),
    "mlp": TargetAttentionConfig(top_k=4, score=MLPScoreConfig(hidden=(5,)), target_aware="none"),
    "din": DINConfig(score=MLPScoreConfig(hidden=(5, 3))),
    "din_softmax": DINConfig(score=MLPScoreConfig(hidden=(5,), activation="sigmoid"), softmax=True),
    "tin": TINConfig(),
    "tin_post_dense": TINConfig(tr="post_dense"),
    "sim_hard": SIMConfig(search=HardSearchConfig(), top_k=4, attention=HEADS),
    "sim_soft": SIMConfig(search=SoftSearchConfig(search_dim=4), top_k=4, attention=HEADS),
    "sim_tables": SIMConfig(search=SoftSearchConfig(embeddings="tables"), top_k=4, attention=HEADS),
    "eta": ETAConfig(bits=8, top_k=4, attention=HEADS),
    "sdim": SDIMConfig(bits=6, group_size=2),
    "twin": TWINConfig(top_k=4, attention=HEADS),
    "twin_v2": TWINV2Config(num_levels=2, max_size=2, twin=TWINConfig(top_k=2, attention=HEADS)),
    "dien": DIENConfig(),
    "bst": BSTConfig(num_heads=2, attention_dim=4, hidden_dim=5),
    "hstu": HSTUConfig(query_dim=3, value_dim=2, max_length=8),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    encoder: EncoderConfig


@pytest.fixture(params=CASES, name="config")
def fixture_config(request):
    return CASES[request.param]


def build(config, tables=TABLES):
    """In evaluation mode, its parameters away from their symmetric starting values."""
    torch.manual_seed(0)
    encoder = build_encoder(config, tables, layout()).double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


def changed(given, change):
    """The input with every tensor of vectors changed, and its ids and mask by axis of rows or columns."""
    return dataclasses.replace(
        given, **{f.name: change(f.name, getattr(given, f.name)) for f in dataclasses.fields(given)}
    )


def test_every_member_of_the_union_is_here():
    assert {type(config) for config in CASES.values()} == set(get_args(EncoderConfig))


def test_settings_come_back_from_plain_values(config):
    assert from_plain(Holder, to_plain(Holder(encoder=config))) == Holder(encoder=config)


def test_vectors_have_the_promised_shape(config):
    encoder = build(config)
    assert isinstance(encoder, SequenceEncoder)
    out = encoder(sequence(TABLES))
    assert out.vectors.shape == (TABLES, len(LENGTHS), encoder.num_outputs, 12)
    assert out.auxiliary is None
    assert out.loss is None
    trained = encoder.train()(sequence(TABLES))
    if encoder.num_auxiliary:
        assert trained.auxiliary.shape == (TABLES, len(LENGTHS), encoder.num_auxiliary, 12)
    else:
        assert trained.auxiliary is None


def test_a_row_without_events_gets_zeros_and_finite_gradients(config):
    encoder, given = build(config), sequence(TABLES)
    out = encoder(given).vectors
    assert out[:, EMPTY].abs().max() == 0
    out.square().sum().backward()
    for vectors in (given.target, given.events, given.attention_events):
        assert vectors.grad is None or torch.isfinite(vectors.grad).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_a_batch_of_empty_histories_is_zero(config):
    given = sequence(TABLES, lengths=(0, 0), columns=3)
    assert build(config)(given).vectors.abs().max() == 0


def test_what_lies_under_padding_changes_nothing(config):
    encoder, given = build(config), sequence(TABLES)
    noise = torch.randn_like(given.events) * 50

    def disturb(name, value):
        return value + noise * ~given.mask[:, :, None] if name in ("events", "attention_events") else value

    torch.testing.assert_close(encoder(changed(given, disturb)).vectors, encoder(given).vectors)


def test_more_padding_on_the_left_changes_nothing(config):
    encoder, given = build(config), sequence(TABLES)

    def wider(name, value):
        axis = {"events": 2, "attention_events": 2, "mask": 1, "event_ids": 1}.get(name)
        if axis is None:
            return value
        more = [*value.shape[:axis], 5, *value.shape[axis + 1 :]]
        return torch.cat([value.new_zeros(more), value], axis)

    torch.testing.assert_close(encoder(changed(given, wider)).vectors, encoder(given).vectors)


def test_rows_do_not_touch_and_a_batch_of_one_works(config):
    encoder, given = build(config), sequence(TABLES)

    def third(name, value):
        return value[:, 2:3] if value.is_floating_point() else value[2:3]

    torch.testing.assert_close(encoder(changed(given, third)).vectors, encoder(given).vectors[:, 2:3])


def test_sets_together_equal_each_alone(config):
    encoder, given = build(config), sequence(TABLES)
    together, state = encoder(given).vectors, encoder.state_dict()
    for number in range(TABLES):
        single = build(config, tables=1)
        single.load_state_dict({name: value.chunk(TABLES)[number] for name, value in state.items()})
        own = changed(given, lambda name, value, n=number: value[n : n + 1] if value.is_floating_point() else value)
        torch.testing.assert_close(single(own).vectors[0], together[number])


def test_gradient_reaches_every_parameter_and_all_vectors(config):
    encoder, given = build(config).train(), sequence(TABLES)
    out = encoder(given)
    parts = [part for part in (out.vectors, out.auxiliary, out.loss) if part is not None]
    sum((part * torch.randn_like(part)).sum() for part in parts).backward()
    softmax = not isinstance(config, DINConfig) or config.softmax
    for name, parameter in encoder.named_parameters():
        free = softmax and parameter.shape == (TABLES, 1) and name.endswith("bias")  # of all scores: no weight moves
        assert free or (parameter.grad.view(TABLES, -1) != 0).any(1).all(), name
    assert (given.events.grad != 0).any()
    for vectors in (given.attention_target, given.attention_events):
        assert (vectors.grad is not None) == reads_attention(config)
        assert vectors.grad is None or (vectors.grad != 0).any()


def test_saved_and_loaded_is_bit_equal(config):
    encoder, given = build(config), sequence(TABLES)
    stored, again = save(encoder.state_dict()), build(config)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(load(stored))
    assert torch.equal(again(given).vectors, encoder(given).vectors)


def test_bfloat16_is_finite_and_close_where_search_cannot_choose_otherwise(config):
    """Rounded scores may select other events, so the histories are shorter than k."""
    encoder, given = build(config), sequence(TABLES, lengths=(3, 4, 0, 1), columns=4)
    exact = encoder(given).vectors
    rounded = encoder.bfloat16()(
        changed(given, lambda name, value: value.detach().bfloat16() if value.is_floating_point() else value)
    ).vectors
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - exact).norm() < 0.1 * exact.norm()
    assert rounded[:, 2].abs().max() == 0


EITHER = [config for config in CASES.values() if reads_attention(config) and not needs_attention(config)]


@pytest.mark.parametrize("config", EITHER, ids=repr)
def test_attention_of_its_own_decides_the_weights(config):
    encoder, given = build(config), sequence(TABLES)
    plain = dataclasses.replace(given, attention_target=None, attention_events=None)
    same = dataclasses.replace(given, attention_target=given.target, attention_events=given.events)
    torch.testing.assert_close(encoder(plain).vectors, encoder(same).vectors)
    assert not torch.allclose(encoder(plain).vectors, encoder(given).vectors)
