from dataclasses import replace

import numpy as np
import pytest
import torch

from llm_rec.errors import ConfigError
from llm_rec.frequency_gate import BucketGateConfig, LogFrequencyGateConfig, UniformGateConfig
from llm_rec.pad.alignment import (
    CoralConfig,
    InfoNCEConfig,
    LinearMMDConfig,
    NoAlignmentConfig,
    alignment_loss,
)
from llm_rec.pad.experts import TextProjectorConfig
from llm_rec.pad.mmd import MultiKernelMMDConfig, RandomFeatureMMDConfig, mkmmd
from llm_rec.pad.model import PADModel
from llm_rec.pad.task import AlignTask, DisentangleTask, every_place, next_item_loss, pad_groups, step_items
from llm_rec.sequential import losses
from llm_rec.sequential.batches import SequenceBatch
from llm_rec.sequential.caser import CaserConfig
from llm_rec.sequential.model import SequentialModel
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.sequential.task import (
    BCEConfig,
    CrossEntropyConfig,
    GBCEConfig,
    NextItemTask,
    SampledSoftmaxConfig,
    usual_negatives,
)
from tests.llm_rec.pad.worlds import GRU, tiny_batch, tiny_config, tiny_model, tiny_sources, tiny_split

QUIET = {"backbone": SASRecConfig(num_layers=1, dropout=0.0), "projector": TextProjectorConfig(dropout=0.0)}
LOSSES = [BCEConfig(), GBCEConfig(), SampledSoftmaxConfig(temperature=0.5), SampledSoftmaxConfig(log_q="negatives")]
LOSSES += [SampledSoftmaxConfig(log_q="both", remove_hits=False), CrossEntropyConfig(temperature=2.0)]
BATCH = SequenceBatch(
    history=torch.tensor([[1, 2, 3], [4, 0, 0]]),
    positions=torch.tensor([0, 1, 2, 3]),
    targets=torch.tensor([2, 3, 5, 6]),
    negatives=torch.tensor([[7], [8], [9], [1]]),
)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda c: f"{type(c).__name__}-{getattr(c, 'log_q', '')}")
def test_next_item_loss_is_that_of_the_sequential_task(loss):
    """On one tower the loss on places in a table equals `NextItemTask`, in value and gradient."""
    config = tiny_config(loss=loss, **QUIET)
    torch.manual_seed(0)
    model = SequentialModel(config.pretrained, tiny_sources())
    batch = tiny_batch(config)
    expected = NextItemTask(model, loss).loss(batch).total
    reference = torch.autograd.grad(expected, list(model.parameters()))
    items = step_items(batch, loss, model.num_items)
    vectors = model.items(items.rows)
    states = model.states(torch.nn.functional.embedding(items.history, vectors), batch.history != 0)
    states = states.flatten(0, 1)[batch.positions]
    total = next_item_loss(loss, states, vectors, items, batch, num_items=model.num_items)
    torch.testing.assert_close(total, expected)
    for mine, theirs in zip(torch.autograd.grad(total, list(model.parameters())), reference, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_mixture_loss_equals_bce_on_mixed_logits_each_item_under_its_own_bucket():
    model = tiny_model(tiny_config(**QUIET)).eval()
    batch = tiny_batch(model.config)
    total = DisentangleTask(model).loss(batch).total
    table = model.gate.table()
    positive, negative = torch.zeros(len(batch.targets)), torch.zeros(len(batch.targets))
    for k, name in enumerate(model.config.experts):
        tower = model.expert(name)

        def vectors(rows, tower=tower):
            flat = tower.items(model.inputs(rows.flatten())) * (rows.flatten() != 0)[:, None]
            return flat.view(*rows.shape, -1)

        states = tower.backbone(vectors(batch.history), batch.history != 0).flatten(0, 1)[batch.positions]
        positive += table[model.gate.buckets[batch.targets], k] * (states * vectors(batch.targets)).sum(-1)
        other = batch.negatives[:, 0]
        negative += table[model.gate.buckets[other], k] * (states * vectors(other)).sum(-1)
    torch.testing.assert_close(total, losses.bce(positive, negative[:, None]))


def test_a_step_weighs_as_many_targets_as_it_has():
    model = tiny_model(tiny_config(**QUIET)).eval()
    assert [task(model).loss(BATCH).weight for task in (AlignTask, DisentangleTask)] == [4.0, 4.0]


@torch.no_grad()
def test_swapping_the_buckets_of_positives_and_negatives_changes_the_loss():
    model = tiny_model(tiny_config(gate=BucketGateConfig(num_buckets=2), **QUIET)).eval()
    rows = torch.arange(1, 25)
    hot, cold = rows[model.gate.buckets[1:] == 1], rows[model.gate.buckets[1:] == 2]
    batch = SequenceBatch(
        history=hot[:1][None],
        positions=torch.tensor([0]),
        targets=hot[1:2],
        negatives=cold[:1][None],
    )
    task = DisentangleTask(model)
    before = task.loss(batch).total
    model.gate.buckets[[int(hot[1]), int(cold[0])]] = model.gate.buckets[[int(cold[0]), int(hot[1])]]
    swapped = task.loss(batch).total
    assert abs(float(before - swapped)) > 1e-4
    with torch.no_grad():
        model.gate.logits[:] = model.gate.logits[1]  # all buckets alike: now a swap cannot matter
    alike = task.loss(batch).total
    model.gate.buckets[[int(hot[1]), int(cold[0])]] = model.gate.buckets[[int(cold[0]), int(hot[1])]]
    assert torch.equal(task.loss(batch).total, alike)


def test_alignment_term_is_the_mmd_of_the_distinct_items_of_the_batch():
    model = tiny_model(tiny_config(**QUIET)).eval()
    batch = tiny_batch(model.config)
    step = AlignTask(model).loss(batch)
    rows = torch.cat([batch.history.flatten(), batch.targets, batch.negatives.flatten()]).unique()
    parts = model.expert("aligned").items.parts(model.inputs(rows[rows > 0]))
    expected = 0.2 * mkmmd(parts.texts, parts.ids, MultiKernelMMDConfig())
    torch.testing.assert_close(step.parts["alignment"], expected.detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(step.total.detach(), step.parts["anchor"] + step.parts["alignment"])
    assert step.weight == len(batch.targets)


def test_all_rows_are_sequences_negatives_and_padding():
    items = step_items(BATCH, BCEConfig(), 24)
    rows = items.rows[every_place(items, BATCH)]
    assert rows.tolist() == [1, 2, 3, 5, 4, 6, 0, 0, 7, 8, 9, 1, 0, 0]
    shared = replace(BATCH, negatives=torch.tensor([8, 8]))
    items = step_items(shared, SampledSoftmaxConfig(), 24)
    assert items.rows[every_place(items, shared)].tolist() == [1, 2, 3, 5, 4, 6, 0, 0, 8, 8]


def test_released_mode_compares_every_row_with_its_offset():
    alignment = MultiKernelMMDConfig(estimator="official")
    model = tiny_model(tiny_config(alignment=alignment, alignment_rows="all", **QUIET)).eval()
    step = AlignTask(model).loss(BATCH)
    rows = torch.tensor([1, 2, 3, 5, 4, 6, 0, 0, 7, 8, 9, 1, 0, 0])
    parts = model.expert("aligned").items.parts(model.inputs(rows))
    expected = alignment_loss(alignment, parts.texts, parts.ids)
    torch.testing.assert_close(step.parts["alignment"], expected.detach(), atol=1e-6, rtol=1e-4)


def test_limit_of_alignment_rows_draws_items_at_random():
    model = tiny_model(tiny_config(max_alignment_rows=4, **QUIET)).eval()
    torch.manual_seed(0)
    values = {float(AlignTask(model).loss(BATCH).parts["alignment"]) for _ in range(6)}
    assert len(values) > 1


def test_ids_that_are_never_read_are_not_aligned():
    model = tiny_model(tiny_config(mask_unseen_ids=True, **QUIET)).eval()
    unseen = int((tiny_split().train_counts[1:] == 0).nonzero()[0][0]) + 1
    batch = replace(BATCH, negatives=torch.full((4, 1), unseen))
    before = AlignTask(model).loss(batch).total
    with torch.no_grad():
        model.expert("aligned").items.ids.table.weight[unseen] += 9
    torch.testing.assert_close(AlignTask(model).loss(batch).total, before)


ALIGNMENTS = [
    MultiKernelMMDConfig(),
    MultiKernelMMDConfig(kernel="laplacian"),
    RandomFeatureMMDConfig(num_features=32),
    LinearMMDConfig(),
    LinearMMDConfig(cosine=True),
    InfoNCEConfig(),
    CoralConfig(),
    NoAlignmentConfig(),
]


@pytest.mark.parametrize(
    "loss", [BCEConfig(), SampledSoftmaxConfig(), CrossEntropyConfig()], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize("alignment", ALIGNMENTS, ids=lambda c: type(c).__name__)
def test_phase_two_reaches_every_parameter_of_the_aligned_expert_and_no_other(alignment, loss):
    model = tiny_model(tiny_config(alignment=alignment, loss=loss)).train()
    step = AlignTask(model).loss(tiny_batch(model.config))
    assert torch.isfinite(step.total)
    step.total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("experts.aligned."), name


def test_without_the_anchor_only_the_alignment_is_learned():
    model = tiny_model(tiny_config(anchor=False))
    step = AlignTask(model).loss(tiny_batch(model.config))
    assert set(step.parts) == {"alignment"}
    step.total.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert any("projector" in name for name in reached)
    assert not any("backbone" in name or "fusion" in name for name in reached)


@pytest.mark.parametrize("backbone", [SASRecConfig(num_layers=1), GRU, CaserConfig()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(
    "gate", [BucketGateConfig(), LogFrequencyGateConfig(), UniformGateConfig()], ids=lambda c: type(c).__name__
)
def test_phase_three_reaches_every_parameter(backbone, gate):
    model = tiny_model(tiny_config(backbone=backbone, gate=gate)).train()
    step = DisentangleTask(model).loss(tiny_batch(model.config))
    assert set(step.parts) == {"loss"}  # no alignment term
    step.total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("loss", LOSSES, ids=lambda c: f"{type(c).__name__}-{getattr(c, 'log_q', '')}")
def test_every_loss_trains_the_mixture(loss):
    config = tiny_config(loss=loss, id_dropout=0.2, mask_unseen_ids=True)
    model = tiny_model(config)
    batch = tiny_batch(config)
    task = DisentangleTask(model)
    optimizer = torch.optim.AdamW(pad_groups(model), lr=1e-2)
    values = []
    for _ in range(25):
        torch.manual_seed(0)
        total = task.loss(batch).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    assert values[-1] < 0.9 * values[0]


def test_rows_do_not_depend_on_whether_duplicates_are_merged(monkeypatch):
    """A device computes every occurrence instead of sorting; both give the same loss."""

    def occurrences(rows, num_rows):
        return rows.flatten(), torch.arange(rows.numel()).view(rows.shape)

    model = tiny_model(tiny_config(**QUIET)).eval()
    merged = [task(model).loss(BATCH).total for task in (AlignTask, DisentangleTask)]
    monkeypatch.setattr("llm_rec.pad.task.distinct_rows", occurrences)
    for task, expected in zip((AlignTask, DisentangleTask), merged, strict=True):
        torch.testing.assert_close(task(model).loss(BATCH).total, expected)


def test_gate_stays_outside_weight_decay():
    model = tiny_model()
    rest, gate = pad_groups(model)
    assert gate["weight_decay"] == 0.0
    assert [id(p) for p in gate["params"]] == [id(model.gate.logits)]
    assert "weight_decay" not in rest
    assert len(rest["params"]) + 1 == len(list(model.parameters()))
    assert len(pad_groups(tiny_model(tiny_config(gate=UniformGateConfig())))) == 1
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("experts.aligned."))
    (only,) = pad_groups(model)
    assert len(only["params"]) == len(list(model.expert("aligned").parameters()))


def test_bf16_autocast_is_close_to_float32():
    model = tiny_model(tiny_config(**QUIET)).eval()
    for task in (AlignTask(model), DisentangleTask(model)):
        exact = task.loss(BATCH).total
        with torch.autocast("cpu", dtype=torch.bfloat16):
            close = task.loss(BATCH).total
        torch.testing.assert_close(close.float(), exact, atol=0.05, rtol=0.05)


def test_missing_negatives_and_probabilities_are_named():
    model: PADModel = tiny_model()
    with pytest.raises(ConfigError, match=r"BCEConfig needs negatives; build the batches with usual_negatives\(loss\)"):
        DisentangleTask(model).loss(replace(BATCH, negatives=None))
    model = tiny_model(tiny_config(loss=SampledSoftmaxConfig(log_q="both")))
    with pytest.raises(
        ConfigError, match="log_q='both' needs log probabilities in the batch; set log_q of the negatives"
    ):
        DisentangleTask(model).loss(BATCH)
    assert usual_negatives(BCEConfig()) is not None
    assert np.array_equal(BATCH.positions.numpy(), np.arange(4))


@pytest.mark.parametrize("alignment", ALIGNMENTS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("limit", [None, 4])
def test_a_device_step_never_waits_for_values(alignment, limit):
    """The meta device has no values: any look at one (item, nonzero, unique) is an error there."""
    changes = {"id_dropout": 0.2, "mask_unseen_ids": True, "loss": SampledSoftmaxConfig()}
    config = tiny_config(alignment=alignment, max_alignment_rows=limit, **changes)
    model = tiny_model(config).to("meta").train()
    batch = tiny_batch(config).to("meta")
    for task in (AlignTask(model), DisentangleTask(model)):
        step = task.loss(batch)
        step.total.backward()
        assert step.total.device.type == "meta"
