"""D-Train: decoupled training for several domains, general to specific (arXiv 2309.10302), for any domain model.

1. *Pre-train*: one root head for all domains, on all rows.
2. *Post-train*: the root head is split into one for each domain, which changes no score, and all is trained on; a row
   goes through the head of its own domain alone.
3. *Fine-tune*: the backbone stands still, each head is trained on its own domain alone (`llm_rec.ctr.domain_heads`).

What the paper leaves open, and was found nowhere, is our choice: a phase ends by early stopping on the mean AUC over
domains, the last one by that of each domain; learning rates stay; every phase starts with a fresh optimiser.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from llm_rec.errors import ConfigError
from llm_rec.training.trainer import TrainerConfig

LastPhase: TypeAlias = Literal["none", "heads", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DTrainConfig:
    """Which phases there are. `last` "heads" is the third phase; "all" trains a whole copy of the model for each domain
    instead (often called post-training, and not D-Train).

    `cache_features` keeps what heads read of every row of the domain in memory, which makes an epoch as cheap as its
    heads; the result is the same but for rounding. Trainers are the method's where they are None; the last phase's
    monitors a domain's own "auc", or "-log_loss" where its validation rows are of one class. A domain without
    validation rows keeps the head it has.

    | phases | pretrain | joint | last |
    |---|---|---|---|
    | joint training | no | yes | none |
    | a model for each domain | no | no | all |
    | joint, then all weights for each domain | no | yes | all |
    | 1 + 2, 1 + 3, 2 + 3 of D-Train | | | |
    | D-Train | yes | yes | heads |
    """

    pretrain: bool = True
    joint: bool = True
    last: LastPhase = "heads"
    cache_features: bool = True
    pretrain_trainer: TrainerConfig | None = None
    joint_trainer: TrainerConfig | None = None
    last_trainer: TrainerConfig | None = None

    def __post_init__(self) -> None:
        if not (self.pretrain or self.joint) and self.last != "all":
            raise ConfigError("without pretrain and joint there is no backbone to keep; set one, or last to 'all'")
        if self.pretrain and not self.joint and self.last == "none":
            raise ConfigError("pretrain alone leaves all domains one head; set joint, or last to 'heads' or 'all'")


PHASE_GRID: dict[str, DTrainConfig] = {
    "joint": DTrainConfig(pretrain=False, last="none"),
    "separate": DTrainConfig(pretrain=False, joint=False, last="all"),
    "joint + all weights": DTrainConfig(pretrain=False, last="all"),
    "1+2": DTrainConfig(last="none"),
    "1+3": DTrainConfig(joint=False),
    "2+3": DTrainConfig(pretrain=False),
    "1+2+3": DTrainConfig(),
}
