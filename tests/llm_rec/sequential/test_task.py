import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llm_rec.codec import from_plain, to_plain
from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ConfigError
from llm_rec.sequential.batches import BatchConfig, SequenceBatch, SequenceBatches
from llm_rec.sequential.caser import CaserConfig
from llm_rec.sequential.gru4rec import GRU4RecConfig
from llm_rec.sequential.items import IdItemsConfig, ItemSources, MixedItemsConfig, TextItemsConfig
from llm_rec.sequential.model import SequentialConfig, SequentialModel
from llm_rec.sequential.negatives import PositionNegativesConfig, SharedNegativesConfig
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.sequential.task import (
    BCEConfig,
    CrossEntropyConfig,
    GBCEConfig,
    LossConfig,
    NextItemTask,
    SampledSoftmaxConfig,
    usual_negatives,
)
from llm_rec.training.trainer import Trainer, TrainerConfig

LOSSES = {
    "bce": BCEConfig(),
    "cross_entropy": CrossEntropyConfig(temperature=0.5, max_logits=100),
    "sampled_softmax": SampledSoftmaxConfig(temperature=0.5),
    "sampled_softmax_both": SampledSoftmaxConfig(log_q="both", remove_hits=False),
    "sampled_softmax_negatives": SampledSoftmaxConfig(log_q="negatives"),
    "gbce": GBCEConfig(),
}


@dataclass(frozen=True)
class Holder:
    loss: LossConfig


@pytest.fixture(name="world", scope="module")
def fixture_world():
    return planted_world(400, 120, num_clusters=6, dim=16)


@pytest.fixture(name="split", scope="module")
def fixture_split(world):
    return leave_one_out(world.log)


def model_for(split, world, items=None, backbone=None, score="dot", item_dropout=0.0):
    torch.manual_seed(0)
    config = SequentialConfig(
        items=items or IdItemsConfig(),
        backbone=backbone or SASRecConfig(num_layers=1, num_heads=1, dropout=0.1),
        dim=32,
        max_length=15,
        score=score,
        item_dropout=item_dropout,
    )
    return SequentialModel(config, ItemSources.from_split(split, embeddings=world.embeddings))


def train(task, split, epochs, negatives=None, learning_rate=5e-3):
    negatives = negatives or usual_negatives(task.config)
    source = SequenceBatches(split, BatchConfig(max_length=15, tokens=512), negatives, seed=0)
    optimiser = torch.optim.Adam(task.module.parameters(), lr=learning_rate)
    task.module.train()
    for epoch in range(epochs):
        for batch in source.epoch(epoch):
            optimiser.zero_grad()
            task.loss(batch).total.backward()
            optimiser.step()


def recall_at_10(model, split, events):
    """Share of target events among the ten best items that their users have not met before."""
    users = split.log.users_of(events)
    history = torch.zeros(len(events), model.max_length, dtype=torch.int64)
    seen = torch.zeros(len(events), split.num_items + 1, dtype=torch.bool)
    for row, (user, event) in enumerate(zip(users, events, strict=True)):
        items = torch.from_numpy(split.log.items[split.log.offsets[user] : event])
        seen[row, items] = True
        history[row, : min(len(items), model.max_length)] = items[-model.max_length :]
    targets = torch.from_numpy(split.log.items[events])
    scores = model.user_vectors(history) @ model.item_vectors().T
    seen.scatter_(1, targets[:, None], False)
    scores = scores.masked_fill(seen, -torch.inf)
    scores[:, 0] = -torch.inf
    return (scores.topk(10).indices == targets[:, None]).any(1).float().mean().item()


def naive_loss(model, loss, batch):
    """Target by target, from the score of every item."""
    states = model(batch.history).flatten(0, 1)[batch.positions]
    table = model.comparable(model.items.all())
    temperature = getattr(loss, "temperature", 1.0)
    scores = states @ table.T / temperature
    terms = []
    for row, target in enumerate(batch.targets.tolist()):
        negatives = batch.negatives if batch.negatives is None or batch.negatives.dim() == 1 else batch.negatives[row]
        if isinstance(loss, CrossEntropyConfig):
            terms.append(-scores[row, 1:].log_softmax(0)[target - 1])
        elif isinstance(loss, SampledSoftmaxConfig):
            positive, rest = scores[row, target], []
            for place, negative in enumerate(negatives.tolist()):
                shift = {"none": 0.0, "both": 1.0, "negatives": 1.0}[loss.log_q]
                log_q = batch.neg_log_q[place].item() * shift if shift else 0.0
                log_q += math.log(len(negatives)) if loss.log_q == "negatives" else 0.0
                if not (loss.remove_hits and negative == target):
                    rest.append(scores[row, negative] - log_q)
            positive = positive - (batch.pos_log_q[row] if loss.log_q == "both" else 0.0)
            terms.append(torch.logsumexp(torch.stack([positive, *rest]), 0) - positive)
        elif isinstance(loss, BCEConfig):
            terms.append(F.softplus(-scores[row, target]) + F.softplus(scores[row, negatives]).mean())
        else:
            beta = 1 - loss.t * (1 - len(negatives) / (model.num_items - 1))
            sums = beta * F.softplus(-scores[row, target]) + F.softplus(scores[row, negatives]).sum()
            terms.append(sums / (len(negatives) + 1))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("items", [IdItemsConfig(), MixedItemsConfig()])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_equals_a_loop_over_targets(loss, items, split, world):
    model = model_for(split, world, items, score="cosine").double().eval()
    negatives = usual_negatives(loss)
    if isinstance(loss, GBCEConfig):
        negatives = PositionNegativesConfig(number=20, exclude_seen=False)
    if isinstance(negatives, SharedNegativesConfig):
        negatives = SharedNegativesConfig(number=40, popularity=0.5, log_q=negatives.log_q)
    batch = next(SequenceBatches(split, BatchConfig(max_length=15, tokens=64), negatives, seed=0).epoch(0))
    ours, naive = NextItemTask(model, loss).loss(batch), naive_loss(model, loss, batch)
    assert ours.total.item() == pytest.approx(naive.item(), rel=1e-6)
    assert torch.equal(ours.parts["loss"], ours.total.detach())
    for one, other in zip(
        torch.autograd.grad(ours.total, model.parameters()),
        torch.autograd.grad(naive, model.parameters()),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_item_dropout_is_dropout_on_the_table_that_histories_and_candidates_share(loss, split, world):
    """A step equals one without dropout on a table whose rows were dropped beforehand."""
    backbone = SASRecConfig(num_layers=1, dropout=0.0)
    model = model_for(split, world, backbone=backbone, score="cosine", item_dropout=0.5).double().train()
    negatives = usual_negatives(loss)
    if isinstance(loss, GBCEConfig):
        negatives = PositionNegativesConfig(number=20, exclude_seen=False)
    batch = next(SequenceBatches(split, BatchConfig(max_length=15, tokens=64), negatives, seed=0).epoch(0))
    named = [part.flatten() for part in (batch.history, batch.targets, batch.negatives) if part is not None]
    rows = torch.arange(split.num_items + 1) if batch.negatives is None else torch.cat(named).unique()
    torch.manual_seed(7)
    ours = NextItemTask(model, loss).loss(batch).total
    torch.manual_seed(7)
    dropped = model.step_vectors(rows).detach()
    assert (dropped == 0).double().mean() == pytest.approx(0.5, abs=0.05)
    plain = model_for(split, world, backbone=backbone, score="cosine").double().train()
    with torch.no_grad():
        plain.items.table.weight[rows] = dropped
    assert ours.item() == pytest.approx(naive_loss(plain, loss, batch).item(), rel=1e-6)


class Batches:
    """Given batches, the same in every epoch."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, first_step=0):
        yield from self.batches[first_step:]


def joined(one, other):
    """Both batches as one."""
    length = max(one.history.shape[1], other.history.shape[1])
    histories = [F.pad(batch.history, (0, length - batch.history.shape[1])) for batch in (one, other)]
    places = [
        batch.positions // batch.history.shape[1] * length + batch.positions % batch.history.shape[1]
        for batch in (one, other)
    ]
    places[1] = places[1] + histories[0].numel()
    negatives = None if one.negatives is None else torch.cat([one.negatives, other.negatives])
    return SequenceBatch(torch.cat(histories), torch.cat(places), torch.cat([one.targets, other.targets]), negatives)


@pytest.mark.parametrize("loss", [BCEConfig(), GBCEConfig(), CrossEntropyConfig()], ids=lambda c: type(c).__name__)
def test_accumulating_two_unequal_batches_equals_one_larger_batch(loss, split, world):
    negatives = PositionNegativesConfig(number=4) if isinstance(loss, GBCEConfig) else usual_negatives(loss)
    one, other = (
        next(SequenceBatches(split, BatchConfig(max_length=15, tokens=None, users=users), negatives, seed=0).epoch(1))
        for users in (3, 11)
    )
    trained = []
    for batches, accumulation in ((Batches(one, other), 2), (Batches(joined(one, other)), 1)):
        model = model_for(split, world, backbone=SASRecConfig(num_layers=1, dropout=0.0)).double()
        task = NextItemTask(model, loss)
        assert task.loss(one).weight == len(one.targets)
        config = TrainerConfig(
            epochs=3, learning_rate=0.01, eps=1e-4, accumulation=accumulation, clip_norm=None, device="cpu"
        )
        Trainer(config).fit(task, batches)
        trained.append(model)
    assert len(one.targets) != len(other.targets)
    for (name, left), right in zip(trained[0].named_parameters(), trained[1].parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-12, rtol=1e-9, msg=name)
    fresh = model_for(split, world, backbone=SASRecConfig(num_layers=1, dropout=0.0)).double()
    assert not torch.allclose(trained[0].items.table.weight, fresh.items.table.weight)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_config_of_the_loss_survives_json(loss):
    assert from_plain(Holder, to_plain(Holder(loss))) == Holder(loss)


LEARNERS = {
    "bce": (BCEConfig(), SASRecConfig(num_layers=1, num_heads=1, dropout=0.1)),
    "cross_entropy": (CrossEntropyConfig(), SASRecConfig(num_layers=1, norm="post", final_norm=False)),
    "sampled_softmax": (SampledSoftmaxConfig(), SASRecConfig(num_layers=1, positions="from_start")),
    "gbce": (GBCEConfig(), SASRecConfig(num_layers=1)),
    "gru4rec": (SampledSoftmaxConfig(), GRU4RecConfig(hidden=32)),
    "caser": (SampledSoftmaxConfig(), CaserConfig()),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_loss_and_backbone_learns_the_planted_walk(name, split, world):
    """Untrained: about .1 (ten of 120 items). Random items of the planted next cluster: about .4."""
    loss, backbone = LEARNERS[name]
    model = model_for(split, world, IdItemsConfig(), backbone)
    assert recall_at_10(model, split, split.validation) < 0.16
    shared = PositionNegativesConfig(number=32, exclude_seen=False) if isinstance(loss, GBCEConfig) else None
    train(NextItemTask(model, loss), split, epochs=12, negatives=shared)
    assert recall_at_10(model, split, split.validation) > 0.33


def test_text_reaches_items_that_training_never_saw_and_ids_do_not(split, world):
    unseen = split.test[world.unseen[split.log.items[split.test]]]
    assert len(unseen) > 50
    reached = {}
    for name, items in {
        "id": IdItemsConfig(),
        "text": TextItemsConfig(),
        "mixed": MixedItemsConfig(id_dropout=0.3, mask_unseen_ids=True),
    }.items():
        model = model_for(split, world, items)
        negatives = SharedNegativesConfig(number=64, seen_in_train_only=True)
        train(NextItemTask(model, SampledSoftmaxConfig()), split, epochs=12, negatives=negatives)
        reached[name] = recall_at_10(model, split, unseen)
    assert reached["id"] < 0.15
    assert reached["text"] > 0.3
    assert reached["mixed"] > 0.3


def test_only_the_item_rows_of_the_batch_get_a_gradient_from_a_sampled_loss(split, world):
    model = model_for(split, world)
    batch = next(
        SequenceBatches(split, BatchConfig(max_length=15, tokens=30), SharedNegativesConfig(number=3), seed=0).epoch(0)
    )
    NextItemTask(model, SampledSoftmaxConfig()).loss(batch).total.backward()
    touched = np.flatnonzero(model.items.table.weight.grad.abs().sum(1).numpy())
    named = torch.cat([batch.history.flatten(), batch.targets, batch.negatives]).unique()
    assert set(touched.tolist()) <= set(named.tolist()) - {0}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_step_never_reads_a_value_on_the_host(loss, split, world):
    """Tensors without values (device "meta") go through loss and gradient, so nothing in a step waits for a value."""
    items = MixedItemsConfig(id_dropout=0.2, mask_unseen_ids=True)
    source = SequenceBatches(split, BatchConfig(max_length=15, tokens=64), usual_negatives(loss), seed=0)
    batch = next(source.epoch(0)).to("meta")
    for backbone in (SASRecConfig(), SASRecConfig(positions="from_start"), GRU4RecConfig(), CaserConfig()):
        model = model_for(split, world, items, backbone, score="cosine", item_dropout=0.3).to("meta")
        step = NextItemTask(model, loss).loss(batch)
        step.total.backward()
        assert step.total.is_meta


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_step_in_bf16_is_close_to_one_in_fp32(loss, split, world):
    source = SequenceBatches(split, BatchConfig(max_length=15, tokens=64), usual_negatives(loss), seed=0)
    batch = next(source.epoch(0))
    for backbone in (SASRecConfig(), GRU4RecConfig()):
        task = NextItemTask(model_for(split, world, MixedItemsConfig(), backbone).eval(), loss)
        exact = task.loss(batch).total
        with torch.autocast("cpu", torch.bfloat16):
            rough = task.loss(batch).total
        assert rough.dtype == torch.float32
        assert rough.item() == pytest.approx(exact.item(), rel=0.02)
        exact, rough = (torch.autograd.grad(loss, task.module.items.id.table.weight)[0] for loss in (exact, rough))
        assert F.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.98


def test_a_batch_without_what_the_loss_needs_is_an_error(split, world):
    model = model_for(split, world)
    bare = next(SequenceBatches(split, BatchConfig(max_length=15, tokens=64), None, seed=0).epoch(0))
    with pytest.raises(ConfigError, match=r"BCEConfig needs negatives; build the batches with usual_negatives\(loss\)"):
        NextItemTask(model, BCEConfig()).loss(bare)
    batch = SequenceBatch(bare.history, bare.positions, bare.targets, negatives=torch.tensor([1, 2]))
    with pytest.raises(
        ConfigError, match="log_q='both' needs log probabilities in the batch; set log_q of the negatives"
    ):
        NextItemTask(model, SampledSoftmaxConfig(log_q="both")).loss(batch)


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="temperature must be positive, got 0.0"):
        SampledSoftmaxConfig(temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be positive, got -1.0"):
        CrossEntropyConfig(temperature=-1.0)
    with pytest.raises(ValueError, match="t must lie in 0..1, got 1.5"):
        GBCEConfig(t=1.5)
