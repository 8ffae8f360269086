"""Training of domain methods: a list of phases over all rows and, by D-Train, one for each domain after them.

```
<folder>/01-pretrain  02-joint  domain-000/01-heads  domain-001/01-heads  ...
```
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.domains.model import DomainModel, split_heads
from llm_rec.artifacts import fingerprint
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.batches import ClickBatches
from llm_rec.ctr.d_train import DTrainConfig
from llm_rec.ctr.domain_evaluation import domain_names, domain_numbers
from llm_rec.ctr.domain_heads import (
    FeatureRows,
    HeadBatches,
    HeadRows,
    HeadTask,
    head_alone,
    head_figures,
    head_groups,
    own_names,
    put_head,
    row_figures,
)
from llm_rec.ctr.domain_method import (
    DomainMethodConfig,
    build_domain_click_model,
    domain_groups,
    domain_model,
    domain_validation,
)
from llm_rec.ctr.domain_task import DomainTask
from llm_rec.ctr.evaluation import in_batches
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.training.phases import Phase, run_phases
from llm_rec.training.task import Task
from llm_rec.training.trainer import TrainerConfig, TrainResult

LABEL = 0  # models by domain are trained on the first label


class RoutedDomains(nn.Module):
    """A whole model for each domain: a row's score is that of its own. For evaluation: all models see all rows."""

    def __init__(self, models: Sequence[DomainModel]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "batch 1"]:
        scores = torch.stack([model(batch)[:, 0] for model in self.models])
        return scores.gather(0, domain_model(self.models[0]).domains_of(batch)[None]).T


@dataclass(frozen=True, eq=False)
class TrainedDomains:
    """The trained model, in evaluation mode, and how each phase went: of a domain's own as ``last/<domain>``.

    `model` is a `RoutedDomains` where the last phase trained whole models.
    """

    model: DomainModel | RoutedDomains
    results: dict[str, TrainResult]

    @property
    def updates(self) -> int:
        """Optimiser updates of all phases."""
        last = (result.history[-1]["updates"] for result in self.results.values())
        return sum(number for number in last if isinstance(number, int))


def train_domains(
    method: DomainMethodConfig,
    log: ClickLog,
    *,
    seed: int,
    folder: Path | None = None,
    inputs: Mapping[str, str] | None = None,
) -> TrainedDomains:
    """Train `method` on the train rows of `log`, early stopping on its validation rows where it has some.

    Every random choice comes from `seed`. With a folder a stopped run goes on there, and a finished one is loaded.
    """
    run = _Run(method, log, seed, folder, {"log": log.fingerprint, **(inputs or {})})
    phases = run.shared_phases()
    finished = run_phases(phases, folder) if phases else []
    results = {phase.name: phase.result for phase in finished}
    before = domain_model(finished[-1].task.module) if finished else None
    mark = finished[-1].fingerprint if finished else fingerprint(run.settings)
    plan = method.d_train
    if plan is not None and plan.last == "all":
        return run.whole_models(before, mark, results)
    if before is None:
        raise TypeError("a method trains a phase over all rows, or whole models")
    if plan is None or plan.last == "none":
        return TrainedDomains(before.eval(), results)
    return run.heads(_with_heads(before).eval(), mark, results)


@dataclass(frozen=True, eq=False)
class _Run:
    """One training: its phases know what, on which rows, from which seed."""

    method: DomainMethodConfig
    log: ClickLog
    seed: int
    folder: Path | None
    inputs: dict[str, str]

    @property
    def settings(self) -> dict[str, Plain]:
        """The method without its phases: what every phase is made of."""
        plain = to_plain(replace(self.method, trainer=TrainerConfig(epochs=1), d_train=None), tagged=True)
        return plain if isinstance(plain, dict) else {}

    def shared_phases(self) -> list[Phase[FeatureBatch]]:
        """Phases over all rows; without a plan, one joint training."""
        plan, trainer = self.method.d_train, self.method.trainer
        if plan is None:
            return [self._joint("train", trainer, lambda before: self._fresh())]
        phases = []
        if plan.pretrain:
            phases.append(
                self._joint("pretrain", plan.pretrain_trainer or trainer, lambda before: self._fresh(root=True))
            )
        if plan.joint:
            start = self._split if plan.pretrain else lambda before: self._fresh()
            phases.append(self._joint("joint", plan.joint_trainer or trainer, start))
        return phases

    def heads(self, base: DomainModel, mark: str, results: dict[str, TrainResult]) -> TrainedDomains:
        """The third phase of D-Train, domain by domain; one without validation rows keeps its head."""
        model = copy.deepcopy(base)
        for domain, name in enumerate(domain_names(self.log)):
            phase = self._head_phase(base, mark, domain, name)
            if phase is not None:
                (finished,) = run_phases([phase], self._place(domain))
                put_head(model, domain, finished.task.module)
                results[f"last/{name}"] = finished.result
        return TrainedDomains(model.eval(), results)

    def whole_models(self, before: DomainModel | None, mark: str, results: dict[str, TrainResult]) -> TrainedDomains:
        """A copy of the model for each domain (a fresh one without `before`), trained on its rows alone."""
        models = []
        for domain, name in enumerate(domain_names(self.log)):
            if not len(self._rows("train", domain)):
                models.append(self._fresh() if before is None else _with_heads(before))
                continue
            phase = self._whole_phase(before, mark, domain, name)
            (finished,) = run_phases([phase], self._place(domain))
            models.append(domain_model(finished.task.module))
            results[f"last/{name}"] = finished.result
        return TrainedDomains(RoutedDomains(models).eval(), results)

    def _fresh(self, *, root: bool = False) -> DomainModel:
        return build_domain_click_model(self.method, self.log.schema, root=root)

    def _split(self, before: Task[FeatureBatch] | None) -> DomainModel:
        if before is None:
            raise TypeError("heads are split from a pre-trained root")
        return split_heads(domain_model(before.module))

    def _joint(
        self, name: str, trainer: TrainerConfig, start: Callable[[Task[FeatureBatch] | None], DomainModel]
    ) -> Phase[FeatureBatch]:
        method, log = self.method, self.log
        batches = ClickBatches(log, "train", method.batches, self.seed)
        return Phase(
            name=name,
            build=lambda before: self._task(start(before)),
            source=lambda task: batches,
            trainer=self._trainer(trainer),
            validate=(lambda task: domain_validation(task.module, method, log)) if "validation" in log.rows else None,
            groups=lambda module: domain_groups(method, module),
            config=self.settings,
            inputs=self.inputs,
        )

    def _task(self, model: DomainModel) -> DomainTask:
        method = self.method
        return DomainTask(model, weighting=method.weighting, label=LABEL, task_weights=method.task_weights)

    def _head_phase(self, base: DomainModel, mark: str, domain: int, name: str) -> Phase[FeatureRows] | None:
        """None for a domain without validation rows, or train rows (a sample of a log may have lost them)."""
        asked, seen = self._rows("validation", domain), self._rows("train", domain)
        if not len(asked) or not len(seen):
            return None
        kept = self._plan.cache_features
        rows = HeadRows(base, self.log.part("train"), seen, label=LABEL, kept=kept)
        checked = HeadRows(base, self.log.part("validation"), asked, label=LABEL, kept=kept)
        names, trainer, method = own_names(base), self._last_trainer(asked), self.method
        return Phase(
            name="heads",
            build=lambda before: HeadTask(head_alone(base, domain)),
            source=lambda task: HeadBatches(rows, method.batches.batch_size, self.seed),
            trainer=trainer,
            validate=lambda task: head_figures(task, checked),
            trainable=lambda parameter: parameter in names,
            groups=lambda module: head_groups(
                module, names, weight_decay=trainer.weight_decay, decay_biases=method.decay_biases
            ),
            config=self.settings,
            inputs={**self.inputs, "model": mark, "domain": name},
        )

    def _whole_phase(self, before: DomainModel | None, mark: str, domain: int, name: str) -> Phase[FeatureBatch]:
        method, log, asked = self.method, self.log, self._rows("validation", domain)
        batches = replace(method.batches, drop_last=False, shuffle="rows")
        trainer = self._last_trainer(asked)
        return Phase(
            name="whole",
            build=lambda previous: self._task(self._fresh() if before is None else _with_heads(before)),
            source=lambda task: ClickBatches(log, "train", batches, self.seed, rows=self._rows("train", domain)),
            trainer=trainer if len(asked) else replace(trainer, patience=None, schedule="constant"),
            validate=(lambda task: _figures_of(task.module, log, asked)) if len(asked) else None,
            groups=lambda module: domain_groups(method, module),
            config=self.settings,
            inputs={**self.inputs, "model": mark, "domain": name},
        )

    @property
    def _plan(self) -> DTrainConfig:
        return self.method.d_train or DTrainConfig()

    def _trainer(self, trainer: TrainerConfig) -> TrainerConfig:
        return replace(trainer, seed=self.seed)

    def _last_trainer(self, asked: Int64[np.ndarray, "rows"]) -> TrainerConfig:
        """Monitors the AUC of the domain, or its log loss where its validation rows are of one class."""
        given = self._plan.last_trainer or replace(self.method.trainer, monitor="auc")
        labels = np.asarray(self.log.part("validation").labels)[asked, LABEL] if len(asked) else np.zeros(0)
        one_class = len(set((labels >= 0.5).tolist())) < 2
        return replace(given, seed=self.seed, monitor="-log_loss" if one_class else given.monitor)

    def _rows(self, part: Part, domain: int) -> Int64[np.ndarray, "rows"]:
        """Numbers of the rows of a domain; none in a part that the log lacks."""
        if part not in self.log.rows:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(domain_numbers(self.log.schema, self.log.part(part)) == domain)

    def _place(self, domain: int) -> Path | None:
        return None if self.folder is None else Path(self.folder) / f"domain-{domain:03d}"


def _with_heads(model: DomainModel) -> DomainModel:
    """A copy with a head for each domain."""
    return split_heads(model) if model.config.heads == "root" else copy.deepcopy(model)


def _figures_of(module: nn.Module, log: ClickLog, rows: Int64[np.ndarray, "rows"]) -> Mapping[str, float]:
    """Of a model's scores of some validation rows."""
    columns = log.part("validation").select(rows)
    found = in_batches(module, module, columns)
    logits = np.zeros(0) if found is None else found[:, 0].double().cpu().numpy()
    return row_figures(logits, columns.labels[:, LABEL], columns.groups)
