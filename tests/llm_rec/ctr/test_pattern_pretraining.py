from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.sequences.pattern_corruption import CorruptionConfig, NoiseItems, corrupt
from ctr_models.sequences.pattern_losses import DenoisingConfig, denoising_loss, detection_loss, sampled_softmax_loss
from ctr_models.sequences.pattern_refiner import TransformerRefiner, TransformerRefinerConfig
from ctr_models.sequences.patterns import DPN, PatternConfig
from ctr_models.sequences.protocols import SequenceInput
from llm_rec.ctr.event_windows import EventSequences, EventWindows
from llm_rec.ctr.pattern_metrics import noise_report, recovery_report
from llm_rec.ctr.pattern_pretraining import (
    PatternPretraining,
    PatternPretrainingConfig,
    inherit,
    newest_events,
    outside_refiner,
    pretraining_phase,
    refiner_groups,
)
from llm_rec.errors import ConfigError, DataError
from llm_rec.training.groups import ParameterGroup
from llm_rec.training.phases import Phase, run_phases
from llm_rec.training.task import BatchSource, StepLoss, Task
from llm_rec.training.trainer import TrainerConfig
from tests.llm_rec.ctr.triples import SIZE, triples_world

CUTOFF, SLOTS, DIM = 30, 4, 8


class Tables(nn.Module):
    """Items and categories side by side, zeros for id 0; as many ids as it is told, so that others are errors."""

    def __init__(self, items: int, num_tables: int = 1, dim: int = DIM) -> None:
        super().__init__()
        self.num_tables = num_tables
        self.items = nn.Embedding(items, num_tables * dim, padding_idx=0)
        self.categories = nn.Embedding(7, num_tables * dim, padding_idx=0)
        for table in (self.items, self.categories):
            nn.init.normal_(table.weight, std=0.3)
            nn.init.zeros_(table.weight[0])

    def forward(self, ids: Tensor) -> Tensor:
        parts = [self.items(ids[..., 0]), self.categories(ids[..., 1])]
        split = [torch.unflatten(part, -1, (self.num_tables, -1)) for part in parts]
        return torch.cat(split, -1).movedim(-2, 0)


class Clicks(nn.Module):
    """A small click model: tables, patterns, a linear head."""

    def __init__(self, items: int, num_tables: int = 1) -> None:
        super().__init__()
        self.tables = Tables(items, num_tables)
        refiner = TransformerRefinerConfig(hidden=32, num_heads=2)
        self.patterns = DPN(PatternConfig(pattern_length=SLOTS, top_k=3, refiner=refiner), None, num_tables, 2, DIM)
        self.head = nn.Linear(num_tables * 2 * 2 * DIM, 1)

    @property
    def refiner(self) -> TransformerRefiner:
        assert isinstance(self.patterns.refiner, TransformerRefiner)
        return self.patterns.refiner

    def forward(self, batch: FeatureBatch) -> Tensor:
        assert batch.history is not None
        given = SequenceInput(
            target=self.tables(batch.ids.unsqueeze(1)).squeeze(2),
            events=self.tables(batch.history.ids),
            mask=batch.history.mask,
            target_ids=batch.ids,
            event_ids=batch.history.ids,
        )
        logits: Tensor = self.head(self.patterns(given).vectors.movedim(0, 1).flatten(1))
        return logits.squeeze(1)


class ClicksTask:
    def __init__(self, model: Clicks) -> None:
        self.model = model

    @property
    def module(self) -> nn.Module:
        return self.model

    def loss(self, batch: FeatureBatch) -> StepLoss:
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(batch), batch.labels[:, 0])
        return StepLoss(loss, {}, float(len(batch)))


def trainer(epochs: int = 1, learning_rate: float = 5e-3) -> TrainerConfig:
    return TrainerConfig(epochs=epochs, learning_rate=learning_rate, optimizer="adam", device="cpu")


def settings(epochs: int = 1, *, batch_size: int = 128) -> PatternPretrainingConfig:
    return PatternPretrainingConfig(
        denoising=DenoisingConfig(uniform_negatives=32), batch_size=batch_size, trainer=trainer(epochs)
    )


def phase(
    config: PatternPretrainingConfig, events: EventSequences, items: int, num_tables: int = 1
) -> Phase[FeatureBatch]:
    def build(noise: NoiseItems) -> PatternPretraining:
        model = Clicks(items, num_tables)
        return PatternPretraining(model, model.refiner, model.tables, noise, config, tables=model.tables)

    return pretraining_phase(config, build, events, seed=0, inputs={"events": "planted"})


def done(task: Task[FeatureBatch]) -> PatternPretraining:
    assert isinstance(task, PatternPretraining)
    return task


@pytest.fixture(scope="module")
def world_windows() -> tuple[Tensor, Tensor]:
    """Windows of events that pre-training has not seen, and their noise."""
    world = triples_world()
    assert world.events.times is not None
    anchors = np.flatnonzero(world.events.times >= CUTOFF + SLOTS)
    noise = world.noise[anchors[:, None] + np.arange(1 - SLOTS, 1)]
    return torch.from_numpy(world.events.windows(anchors, SLOTS)), torch.from_numpy(noise)


@pytest.fixture(scope="module")
def trained() -> PatternPretraining:
    events = triples_world().events.until(CUTOFF)
    return done(run_phases([phase(settings(12), events, SIZE)])[-1].task)


def test_recovery_beats_popularity_and_leaving_all_as_it_is(
    trained: PatternPretraining, world_windows: tuple[Tensor, Tensor]
) -> None:
    found = recovery_report(
        trained.refiner, trained.vectors, trained.items, world_windows[0], CorruptionConfig(), seed=1
    )
    assert found.recovered > 2 * found.popular
    assert found.restored > found.unchanged + 0.01
    assert found.detection_auc > 0.6


def test_planted_noise_is_found_without_having_been_shown(
    trained: PatternPretraining, world_windows: tuple[Tensor, Tensor]
) -> None:
    found = noise_report(trained.refiner, trained.vectors, *world_windows, threshold=0.3)
    assert found.detection_auc > 0.7
    assert found.r_precision > 2.5 * found.noise / found.events
    assert found.precision > 2.5 * found.noise / found.events


def test_an_untrained_refiner_finds_nothing(world_windows: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = Clicks(SIZE)
    found = noise_report(model.refiner, model.tables, *world_windows)
    assert abs(found.detection_auc - 0.5) < 0.12


def test_pretraining_reads_nothing_from_the_cutoff_on() -> None:
    """Later events have items that the tables lack: one look at them would be an error."""
    log = triples_world().events
    assert log.times is not None
    late = log.times >= CUTOFF
    events = EventSequences(np.where(late[:, None], 10_000, log.ids), log.times, log.starts)
    task = done(run_phases([phase(settings(), events.until(CUTOFF), SIZE)])[-1].task)
    assert int(task.items.known.max()) < SIZE
    with pytest.raises(IndexError):
        run_phases([phase(settings(), events, SIZE)])


def test_only_what_the_pretext_task_reads_is_trained() -> None:
    events = triples_world().events.until(CUTOFF)
    one = phase(settings(), events, SIZE)
    before = {name: value.clone() for name, value in one_built(one).module.state_dict().items()}
    task = done(run_phases([one])[-1].task)
    moved = {name for name, value in task.module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == task.trained()
    assert {"tables.items.weight", "patterns.refiner.slots", "patterns.refiner.summary"} <= moved
    assert not any(name.startswith(("patterns.refiner.pattern_norm", "patterns.keys", "head")) for name in moved)
    assert all(parameter.requires_grad for parameter in task.module.parameters())


def one_built(one: Phase[FeatureBatch]) -> Task[FeatureBatch]:
    with torch.random.fork_rng():
        torch.manual_seed(one.trainer.seed)
        return one.build(None)


def click_phase(
    events: EventSequences, *, frozen: bool, learning_rate: float, factor: float = 0.1
) -> Phase[FeatureBatch]:
    """One update on rows whose candidate is the newest event."""

    def build(previous: Task[FeatureBatch] | None) -> Task[FeatureBatch]:
        model = Clicks(SIZE)
        inherit(model, previous)
        return ClicksTask(model)

    def groups(module: nn.Module) -> Sequence[ParameterGroup]:
        whole = ParameterGroup(params=list(module.parameters()))
        return refiner_groups([whole], module, factor)

    return Phase(
        name="clicks",
        build=build,
        source=lambda task: Rows(events),
        trainer=trainer(learning_rate=learning_rate),
        trainable=outside_refiner if frozen else None,
        groups=groups,
    )


class Rows(BatchSource[FeatureBatch]):
    def __init__(self, events: EventSequences) -> None:
        self.windows = EventWindows(events, 7, 64)

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, first_step: int = 0):
        batch = next(self.windows.epoch(epoch))
        assert batch.history is not None
        ids, labels = batch.history.ids, torch.arange(64).remainder(2).float()
        yield FeatureBatch(
            ids[:, -1], batch.numbers, batch.dense, labels.unsqueeze(1), history=HistoryBatch(ids[:, :-1])
        )


@pytest.mark.parametrize("frozen", [True, False])
def test_the_click_phase_keeps_the_refiner_or_moves_it_by_a_tenth(frozen: bool, tmp_path: Path) -> None:
    events = triples_world().events.until(CUTOFF)
    phases = [phase(settings(), events, SIZE), click_phase(events, frozen=frozen, learning_rate=0.02)]
    pretrained, clicks = run_phases(phases, tmp_path)
    before, after = pretrained.task.module.state_dict(), clicks.task.module.state_dict()
    steps = {name: (after[name] - before[name]).abs().max() for name in after}
    refiner = {name: step for name, step in steps.items() if not outside_refiner(name)}
    others = {name: step for name, step in steps.items() if outside_refiner(name)}
    assert len(refiner) > 10
    for name, step in others.items():
        assert float(step) == pytest.approx(0.02, rel=0.02), name  # Adam's first step is the learning rate
    for name, step in refiner.items():
        assert float(step) == (0 if frozen else pytest.approx(0.002, rel=0.02)), name
    assert not any(found.trained for found in run_phases(phases, tmp_path))


def test_several_embedding_sets_have_refiners_of_their_own() -> None:
    events = triples_world().events.until(CUTOFF)
    task = done(run_phases([phase(settings(), events, SIZE, num_tables=2)])[-1].task)
    assert not torch.equal(task.refiner.outward.weight[0], task.refiner.outward.weight[1])
    found = recovery_report(
        task.refiner, task.vectors, task.items, torch.from_numpy(events.windows(np.arange(300), 4)), CorruptionConfig()
    )
    assert 0 < found.recovered < 1


def test_loss_is_the_same_for_the_same_seed_and_says_what_was_changed() -> None:
    events = triples_world().events.until(CUTOFF)
    task = done(one_built(phase(settings(), events, SIZE)))
    batch = next(EventWindows(events, SLOTS, 512).epoch(1))
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(task.loss(batch))
    assert torch.equal(losses[0].total, losses[1].total)
    assert losses[0].weight == 512
    assert float(losses[0].parts["changed"]) == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(losses[0].total.detach(), losses[0].parts["recovery"] + losses[0].parts["detection"])


def test_short_histories_are_padded_and_missing_ones_refused() -> None:
    empty = torch.zeros(2, 0)
    ids = torch.tensor([[[3, 4]], [[0, 0]]])
    batch = FeatureBatch(torch.zeros(2, 0, dtype=torch.int64), empty, empty, empty, history=HistoryBatch(ids))
    assert newest_events(batch, 3)[:, :, 0].tolist() == [[0, 0, 3], [0, 0, 0]]
    bare = FeatureBatch(batch.ids, empty, empty, empty)
    with pytest.raises(DataError, match="patterns come from histories, and these batches have none"):
        newest_events(bare, 3)


def test_batches_without_a_changed_event_have_a_finite_loss() -> None:
    torch.manual_seed(0)
    model = Clicks(SIZE)
    items = NoiseItems.seen(torch.tensor([[2, 2], [3, 3]]))
    patterns = corrupt(torch.zeros(5, SLOTS, 2, dtype=torch.int64), items, CorruptionConfig())
    found = denoising_loss(model.refiner, model.tables, patterns, items, DenoisingConfig())
    found.total.backward()
    assert found.total.item() == 0.0
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_sampled_softmax_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, true = torch.randn(2, 2, 5, 4, dtype=torch.float64, generator=generator)
    others = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    true_items, other_items = torch.tensor([2, 3, 4, 5, 6]), torch.tensor([3, 7, 0, 8, 1, 5])
    where = torch.tensor([True, True, False, True, False])
    own, drawn = torch.rand(5, generator=generator), torch.rand(6, generator=generator)
    found = sampled_softmax_loss(
        outputs,
        true,
        others,
        true_items=true_items,
        other_items=other_items,
        true_log_expected=own,
        other_log_expected=drawn,
        where=where,
        temperature=0.07,
    )
    losses = []
    for table in range(2):
        for query in (0, 1, 3):
            cosine = nn.functional.cosine_similarity
            logits = [cosine(outputs[table, query], true[table, query], 0) / 0.07 - own[query]]
            for negative in (0, 1, 3, 5):  # the others are padding and unknown
                if other_items[negative] != true_items[query]:
                    logits.append(cosine(outputs[table, query], others[table, negative], 0) / 0.07 - drawn[negative])
            losses.append(torch.stack(logits).logsumexp(0) - logits[0])
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_detection_counts_the_events_that_are_shown() -> None:
    items = NoiseItems.seen(torch.tensor([[2], [3], [4]]))
    ids = torch.randint(2, 5, (300, SLOTS, 1), generator=torch.Generator().manual_seed(0))
    patterns = corrupt(ids, items, CorruptionConfig(ratio=0.5), torch.Generator().manual_seed(0))
    right = torch.where(patterns.noise, 50.0, -50.0).masked_fill(patterns.dropped, 1e4)
    assert float(detection_loss(right.unsqueeze(0), patterns)) < 1e-20
    even = detection_loss(torch.zeros(2, 300, SLOTS), patterns)
    torch.testing.assert_close(even, torch.tensor(2.0).log())


def test_settings_and_modules_are_checked() -> None:
    model, items = Clicks(SIZE), NoiseItems.seen(torch.tensor([[2, 2], [3, 3]]))
    with pytest.raises(ConfigError, match="the module does not hold the refiner; pass the model"):
        PatternPretraining(model.tables, model.refiner, model.tables, items, settings())
    with pytest.raises(ConfigError, match="the phase before must be 'pretrain-patterns', got NoneType"):
        inherit(model, None)
    with pytest.raises(ConfigError, match="batch_size must be at least 2, for negatives of the batch, got 1"):
        settings(batch_size=1)
    with pytest.raises(ConfigError, match="max_windows must be at least 2, got 1"):
        PatternPretrainingConfig(max_windows=1)
    with pytest.raises(ConfigError, match="learning_rate_factor must be above 0, got 0.0; finetuning 'frozen' leaves"):
        PatternPretrainingConfig(learning_rate_factor=0.0)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0.0"):
        DenoisingConfig(temperature=0.0)
    with pytest.raises(ValueError, match="detection_weight must not be negative, got -1.0"):
        DenoisingConfig(detection_weight=-1.0)
    with pytest.raises(DataError, match="no event is missing, so there is nothing to recover"):
        recovery_report(
            model.refiner, model.tables, items, torch.zeros(2, SLOTS, 2, dtype=torch.int64), CorruptionConfig()
        )
