"""The settings of a PAD model and of its losses: the paper's, and ours beyond it."""

from dataclasses import dataclass, field, replace
from typing import Literal

from llm_rec.frequency_gate import BucketGateConfig, GateConfig
from llm_rec.pad.alignment import AlignmentConfig, NoAlignmentConfig
from llm_rec.pad.experts import ExpertName, TextProjectorConfig
from llm_rec.pad.mmd import MultiKernelMMDConfig
from llm_rec.sequential.backbones import BackboneConfig
from llm_rec.sequential.items import IdItemsConfig
from llm_rec.sequential.model import SequentialConfig
from llm_rec.sequential.negatives import NegativesConfig
from llm_rec.sequential.objective import BCEConfig, LossConfig, SampledSoftmaxConfig, usual_negatives
from llm_rec.sequential.sasrec import SASRecConfig, pad_sasrec

EVERY_EXPERT: tuple[ExpertName, ...] = ("collaborative", "aligned", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class PADConfig:
    """The model and the three phases' losses. The defaults are the paper's mechanism at a size for small catalogs.

    `loss` trains all three phases (the paper: BCE); `anchor` keeps it in phase 2 beside the alignment term. `gamma2` is
    the aligned expert's initial gate logit. `alignment_rows`: "distinct" compares each item of a batch once, at most
    `max_alignment_rows` of them, drawn at random (the limit is ours); "all" takes every position, duplicates and
    padding rows too, as the released code does. `id_dropout` hides the ids of items at random in training, from the
    collaborative and the aligned expert together; `mask_unseen_ids` gives items without train events no id at all
    (both ours). Ablations: leave out `experts`, `pretrain` or `anchor`, or set another `alignment` or `gate`.
    """

    dim: int = 64
    max_length: int = 50
    id_items: IdItemsConfig = field(default_factory=IdItemsConfig)
    backbone: BackboneConfig = field(default_factory=SASRecConfig)
    projector: TextProjectorConfig = field(default_factory=TextProjectorConfig)
    alignment: AlignmentConfig = field(default_factory=MultiKernelMMDConfig)
    alignment_rows: Literal["distinct", "all"] = "distinct"
    max_alignment_rows: int | None = 1024
    loss: LossConfig = field(default_factory=BCEConfig)
    pretrain: bool = True
    anchor: bool = True
    experts: tuple[ExpertName, ...] = EVERY_EXPERT
    gate: GateConfig = field(default_factory=BucketGateConfig)
    gamma2: float = -4.0
    id_dropout: float = 0.0
    mask_unseen_ids: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_alignment_rows is not None and self.max_alignment_rows < 2:
            raise ValueError(f"max_alignment_rows must be at least 2, got {self.max_alignment_rows}")
        if not self.experts or len(set(self.experts)) < len(self.experts):
            raise ValueError(f"experts must name each of {', '.join(EVERY_EXPERT)} at most once, got {self.experts}")
        if not 0 <= self.id_dropout < 1:
            raise ValueError(f"id_dropout must lie in 0..1 (1 excluded), got {self.id_dropout}")
        if not self.anchor and isinstance(self.alignment, NoAlignmentConfig):
            raise ValueError("phase 2 has nothing to learn without anchor and without alignment; keep one of them")

    @property
    def pretrained(self) -> SequentialConfig:
        """The recommender of phase 1: ids alone."""
        return SequentialConfig(items=self.id_items, backbone=self.backbone, dim=self.dim, max_length=self.max_length)


def faithful_pad(*, dim: int = 128, max_length: int = 20, backbone: BackboneConfig | None = None) -> PADConfig:
    """The paper's settings (section 5 and released scripts); the MMD is the V-statistic over distinct items.

    It needs long training at small learning rates (1e-5, 1e-5, 1e-4): see `PADConfig` for a lighter start.
    """
    return PADConfig(dim=dim, max_length=max_length, backbone=backbone or pad_sasrec())


def released_pad(*, dim: int = 128, max_length: int = 20, backbone: BackboneConfig | None = None) -> PADConfig:
    """`faithful_pad` with the estimator and the rows of the released code: its offset, duplicates, padding and all."""
    return PADConfig(
        dim=dim,
        max_length=max_length,
        backbone=backbone or pad_sasrec(),
        alignment=MultiKernelMMDConfig(estimator="official"),
        alignment_rows="all",
        max_alignment_rows=None,
    )


def pad(*, dim: int = 64, max_length: int = 50, backbone: BackboneConfig | None = None) -> PADConfig:
    """Our own step beyond the paper: sampled softmax in all phases, a shallow projector with a linear end, the aligned
    expert on from the start; no ids for unseen items, and ids of others hidden at random, so that texts alone learn to
    rank. Train it with `pad_negatives`. On planted worlds these reach unseen items, which the faithful preset does not.
    """
    return PADConfig(
        dim=dim,
        max_length=max_length,
        backbone=backbone or SASRecConfig(),
        projector=TextProjectorConfig(num_layers=1, end="linear"),
        loss=SampledSoftmaxConfig(),
        gamma2=0.0,
        id_dropout=0.3,
        mask_unseen_ids=True,
    )


def pad_negatives(config: PADConfig) -> NegativesConfig | None:
    """The negatives a PAD model is trained with: those usual for its loss.

    Where unseen items have no id, they are no negatives either: as negatives they only ever lose, and their texts learn
    to rank last (our choice).
    """
    negatives = usual_negatives(config.loss)
    return negatives if negatives is None else replace(negatives, seen_in_train_only=config.mask_unseen_ids)
