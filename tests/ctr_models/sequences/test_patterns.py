import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ctr_models.sequences.pattern_ablations import newest_patterns, pattern_ablations, without_pattern_attention
from ctr_models.sequences.pattern_refiner import (
    IdentityPatternConfig,
    MeanPatternConfig,
    PatternRefiner,
    TransformerRefiner,
    TransformerRefinerConfig,
)
from ctr_models.sequences.patterns import DPN, PatternConfig
from ctr_models.sequences.protocols import SequenceEncoder, SequenceInput, SequenceOutput

SMALL = PatternConfig(
    pattern_length=3, top_k=4, attention_dim=5, refiner=TransformerRefinerConfig(hidden=8, num_heads=2)
)
TARGET_ATTENTION = replace(SMALL, pattern_length=1, refiner=IdentityPatternConfig())


def sequence(
    *,
    batch: int = 3,
    length: int = 7,
    width: int = 6,
    tables: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> SequenceInput:
    """Rows of length 0, 1, .., full in turn; vectors of padding are not zero, as after a position was added."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([0, 1, length, length // 2, 2])[:batch]
    mask = torch.arange(length) >= length - counts.unsqueeze(1)
    ids = torch.randint(2, 30, (batch, length, 1), generator=generator) * mask.unsqueeze(-1)
    return SequenceInput(
        target=torch.randn(tables, batch, width, dtype=dtype, generator=generator),
        events=torch.randn(tables, batch, length, width, dtype=dtype, generator=generator),
        mask=mask,
        target_ids=torch.randint(2, 30, (batch, 1), generator=generator),
        event_ids=ids,
    )


def newest(given: SequenceInput, length: int) -> SequenceInput:
    return replace(
        given, events=given.events[:, :, -length:], mask=given.mask[:, -length:], event_ids=given.event_ids[:, -length:]
    )


def build(config: PatternConfig, *, tables: int = 2, seed: int = 0, backbone: SequenceEncoder | None = None) -> DPN:
    """Every parameter random, biases and norms too."""
    torch.manual_seed(seed)
    model = DPN(config, backbone, tables, 2, 3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


class SumOfEvents(nn.Module):
    """The simplest backbone: one vector, an auxiliary one, and a loss."""

    num_outputs, num_auxiliary = 1, 1

    def forward(self, given: SequenceInput) -> SequenceOutput:
        pooled = (given.events * given.mask.unsqueeze(-1)).sum(2, keepdim=True)
        return SequenceOutput(pooled, -pooled, pooled.mean())


def naive_target_attention(model: DPN, given: SequenceInput) -> Tensor:
    """Loops over sets, rows and events: softmax over all events, then the target-aware product."""
    tables, batch, length, width = given.events.shape
    pooled = torch.zeros(tables, batch, width, dtype=given.events.dtype)
    for t in range(tables):
        for b in range(batch):
            logits, values = [], []
            for i in range(length):
                if given.mask[b, i]:
                    e, q = given.events[t, b, i], given.target[t, b]
                    s = (q @ model.scorer.queries.weight[t]) @ (e @ model.scorer.keys.weight[t]) / math.sqrt(5)
                    logits.append((q @ model.queries.weight[t]) @ (e @ model.keys.weight[t]) / math.sqrt(5) + s)
                    values.append(e * q)
            if logits:
                pooled[t, b] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return pooled


def test_one_event_and_no_refiner_is_target_attention() -> None:
    given = sequence(dtype=torch.float64)
    model = build(replace(TARGET_ATTENTION, top_k=7)).double()
    vectors = model(given).vectors
    torch.testing.assert_close(vectors[:, :, 0], naive_target_attention(model, given), rtol=1e-12, atol=1e-12)
    assert torch.equal(vectors[:, :, 1], given.target)


def test_attention_over_items_is_that_case_whatever_the_length_and_refiner() -> None:
    given, items = sequence(), without_pattern_attention(SMALL)
    first, second = build(items), build(TARGET_ATTENTION)
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in second.named_parameters()]
    assert torch.equal(first(given).vectors, second(given).vectors)


def test_pattern_attention_equals_a_loop() -> None:
    given = sequence(dtype=torch.float64, batch=5)
    model = build(SMALL).double()
    scores = model.scores(given).detach()
    vectors = model(given).vectors
    for t in range(2):
        for b in range(5):
            start = int((~given.mask[b]).sum())
            order = sorted(range(start, 7), key=lambda i, t=t, b=b: (-float(scores[t, b, i]), -i))[:4]
            target = window_vector(
                model, given, t, torch.cat([given.events[t, b, max(start, 5) :], given.target[t, b, None]])
            )
            torch.testing.assert_close(vectors[t, b, 1], target)
            expected = torch.zeros(6, dtype=torch.float64)
            if order:
                z = torch.stack(
                    [window_vector(model, given, t, given.events[t, b, max(start, i - 2) : i + 1]) for i in order]
                )
                logits = (z @ model.keys.weight[t]) @ (target @ model.queries.weight[t]) / math.sqrt(5)
                expected = (logits + scores[t, b, order]).softmax(0) @ (z * target)
            torch.testing.assert_close(vectors[t, b, 0], expected)


def window_vector(model: DPN, given: SequenceInput, table: int, events: Tensor) -> Tensor:
    """z of one window of up to 3 events."""
    vectors = torch.zeros(2, 1, 3, 6, dtype=events.dtype)
    vectors[table, 0, 3 - len(events) :] = events
    mask = torch.arange(3) >= 3 - len(events)
    vector: Tensor = model.refiner(vectors, mask.expand(2, 1, 3))[table, 0]
    return vector


@pytest.mark.parametrize("config", [SMALL, TARGET_ATTENTION])
def test_the_scorer_learns_although_the_choice_has_no_gradient(config: PatternConfig) -> None:
    model, given = build(replace(config, top_k=2)), sequence()
    model(given).vectors[:, :, 0].square().sum().backward()
    for parameter in model.scorer.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum((1, 2)).min()) > 1e-4  # in every set


@pytest.mark.parametrize("config", pattern_ablations(SMALL).values(), ids=pattern_ablations(SMALL))
def test_every_ablation_keeps_the_contract(config: PatternConfig) -> None:
    model, given = build(config, backbone=SumOfEvents()), sequence(batch=5)
    assert isinstance(model, SequenceEncoder)
    assert (model.num_outputs, model.num_auxiliary) == (3, 1)
    found, plain = model(given), SumOfEvents()(given)
    assert found.vectors.shape == (2, 5, 3, 6)
    assert torch.equal(found.vectors[:, :, :1], plain.vectors)
    assert found.auxiliary is not None
    assert found.loss is not None
    assert torch.equal(found.vectors[:, 0, :2], torch.zeros(2, 2, 6))  # no events: nothing is pooled
    found.vectors.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("config", pattern_ablations(SMALL).values(), ids=pattern_ablations(SMALL))
@pytest.mark.parametrize("suppression", [0, 1])
def test_padding_changes_nothing(config: PatternConfig, suppression: int) -> None:
    config = replace(config, suppression=suppression) if config.retrieval == "scores" else config
    model, given = build(config).double(), sequence(dtype=torch.float64)
    short = replace(given, mask=given.mask & torch.tensor([0, 0, 0, 0, 1, 1, 1]).bool())
    torch.testing.assert_close(model(short).vectors, model(newest(short, 3)).vectors)


@pytest.mark.parametrize("config", pattern_ablations(SMALL).values(), ids=pattern_ablations(SMALL))
def test_each_set_works_by_itself(config: PatternConfig) -> None:
    model, given = build(config), sequence()
    for t in range(2):
        single = DPN(config, None, 1, 2, 3)
        single.load_state_dict({name: value[t : t + 1] for name, value in model.state_dict().items()})
        own = replace(given, target=given.target[t : t + 1], events=given.events[t : t + 1])
        torch.testing.assert_close(single(own).vectors[0], model(given).vectors[t])


@pytest.mark.parametrize(("config", "windows"), [(SMALL, 4 + 1), (replace(SMALL, retrieval="all"), 7 + 1)])
def test_a_candidate_costs_its_patterns_and_its_own(config: PatternConfig, windows: int) -> None:
    model, given, calls = build(config), sequence(batch=5), []
    model.refiner.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape[1]))
    model(given)
    assert calls == [5 * windows]
    model.forward_cached(given, torch.zeros(2, 5, 7, 6))
    assert calls == [5 * windows, 5]


@pytest.mark.parametrize("config", pattern_ablations(SMALL).values(), ids=pattern_ablations(SMALL))
def test_cached_vectors_give_the_same_result(config: PatternConfig) -> None:
    model, given = build(config, backbone=SumOfEvents()).double(), sequence(batch=5, dtype=torch.float64)
    encoded = model.encode_events(given.events, given.mask)
    torch.testing.assert_close(model.forward_cached(given, encoded).vectors, model(given).vectors)


def test_appending_an_event_adds_one_vector_and_changes_none() -> None:
    model = build(SMALL).double()
    longer = sequence(batch=5, length=8, dtype=torch.float64)
    before = model.encode_events(longer.events[:, :, :-1], longer.mask[:, :-1])
    after = model.encode_events(longer.events, longer.mask)
    old = longer.mask[:, :-1]
    torch.testing.assert_close(after[:, :, :-1][:, old], before[:, old], rtol=1e-12, atol=1e-12)
    fresh = model.encode_events(longer.events[:, :, -3:], longer.mask[:, -3:])[:, :, -1]
    torch.testing.assert_close(fresh, after[:, :, -1], rtol=1e-12, atol=1e-12)


def test_patterns_leave_out_parts_that_hold_the_position() -> None:
    torch.manual_seed(0)
    model, given = DPN(SMALL, None, 2, 2, 3, content_parts=1), sequence()
    moved = replace(given, events=torch.cat([given.events[..., :3], torch.randn(2, 3, 7, 3)], -1))
    encoded = model.encode_events(given.events, given.mask)
    assert encoded.shape == (2, 3, 7, 3)
    assert torch.equal(encoded, model.encode_events(moved.events, moved.mask))
    assert not torch.equal(model.scores(given), model.scores(moved))
    assert model(given).vectors.shape == (2, 3, 2, 6)
    assert torch.equal(model(given).vectors[:, 0, 0], torch.zeros(2, 6))


def test_scores_may_come_from_vectors_of_their_own() -> None:
    torch.manual_seed(0)
    given = replace(sequence(), attention_target=torch.randn(2, 3, 4), attention_events=torch.randn(2, 3, 7, 4))
    dot = DPN(replace(SMALL, scorer="dot"), None, 2, 2, 3, attention_width=4)
    assert given.attention_events is not None
    assert given.attention_target is not None
    expected = (given.attention_events * given.attention_target.unsqueeze(2)).sum(-1) / 2
    torch.testing.assert_close(dot.scores(given), expected)
    projected = DPN(SMALL, None, 2, 2, 3, attention_width=4)
    assert projected.scores(given).shape == (2, 3, 7)


def test_newest_patterns_do_not_ask_the_scores() -> None:
    model, given = build(newest_patterns(SMALL)), sequence()
    assert model.retrieve(model.scores(given), given.mask).columns[0, 2].tolist() == [6, 5, 4, 3]


def test_gradient_of_the_whole_head_is_exact() -> None:
    given = sequence(batch=3, length=4, tables=1, dtype=torch.float64)
    model = build(replace(SMALL, top_k=2), tables=1).double()
    names = [name for name, _ in model.named_parameters()]

    def vectors(target: Tensor, events: Tensor, *parameters: Tensor) -> Tensor:
        inputs = replace(given, target=target, events=events)
        found: SequenceOutput = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (inputs,))
        return found.vectors

    values = [given.target, given.events, *(parameter.detach() for parameter in model.parameters())]
    assert torch.autograd.gradcheck(vectors, [value.clone().requires_grad_() for value in values], fast_mode=True)


@pytest.mark.parametrize("length", [1, 2])
def test_histories_shorter_than_a_window(length: int) -> None:
    model, given = build(SMALL), newest(sequence(batch=5), length)
    vectors = model(given).vectors
    assert bool(vectors.isfinite().all())
    assert not vectors[:, 0, 0].any()


def test_refiners_follow_the_protocol_and_stay_finite_without_events() -> None:
    for config in (SMALL.refiner, MeanPatternConfig(), IdentityPatternConfig()):
        refiner = build(replace(SMALL, refiner=config)).refiner
        assert isinstance(refiner, PatternRefiner)
        found = refiner(torch.zeros(2, 3, 3, 6), torch.zeros(2, 3, 3, dtype=torch.bool))
        assert found.shape == (2, 3, 6)
        assert bool(found.isfinite().all())


def test_masked_slots_do_not_reach_the_vector() -> None:
    refiner = build(SMALL).refiner
    mask = torch.tensor([False, True, True]).expand(2, 4, 3)
    first, second = torch.randn(2, 2, 4, 3, 6)
    second[:, :, 1:] = first[:, :, 1:]
    assert torch.equal(refiner(first, mask), refiner(second, mask))


def test_gates_leave_out_events_that_are_surely_noise() -> None:
    torch.manual_seed(0)
    refiner = TransformerRefiner(TransformerRefinerConfig(hidden=8, num_heads=2), 1, 2, 4)
    vectors, mask = torch.randn(1, 5, 2, 4), torch.ones(1, 5, 2, dtype=torch.bool)
    tokens = refiner.tokens(vectors, mask)
    gates = 1 - tokens.noise_logits.sigmoid()
    mean = (gates.unsqueeze(-1) * tokens.outputs).sum(2) / gates.sum(2, keepdim=True)
    expected = refiner.pattern_norm(tokens.outputs[:, :, 1] + mean)
    torch.testing.assert_close(refiner(vectors, mask), expected)
    nn.init.constant_(refiner.noise.bias, 200.0)  # all noise: the mean is 0, nothing overflows
    torch.testing.assert_close(refiner(vectors, mask), refiner.pattern_norm(tokens.outputs[:, :, 1]))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="pattern_length must be at least 1, got 0"):
        PatternConfig(pattern_length=0)
    with pytest.raises(ValueError, match="suppression 2 belongs to retrieval 'scores', not 'all'; set it to 0"):
        PatternConfig(retrieval="all", suppression=2)
    with pytest.raises(ValueError, match="hidden 10 cannot be shared by num_heads 4; choose a divisor"):
        TransformerRefinerConfig(hidden=10)
    with pytest.raises(ValueError, match="content_parts must be in 1..2, the parts of an event, got 3"):
        DPN(SMALL, None, 1, 2, 3, content_parts=3)
