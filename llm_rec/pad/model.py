"""PAD: pre-train, align, disentangle (arXiv 2412.04107). Three towers whose logits a frequency gate mixes.

    score(u, i) = sum_k g_k(b(i)) <u_k, v_k,i>  =  <[u_1; u_2; u_3], [g_1 v_1,i; g_2 v_2,i; g_3 v_3,i]>

The right-hand side is how the model trains, ranks and is exported: one inner product per user and item. No language
model and, once exported (`llm_rec.pad.export`), no text vector is needed to serve it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.frequency_gate import BucketGateConfig, FrequencyGate, GateConfig, build_gate, paper_ends
from llm_rec.pad.alignment import AlignmentConfig, NoAlignmentConfig
from llm_rec.pad.experts import (
    AlignedItems,
    CollaborativeItems,
    ExpertItems,
    ExpertName,
    ItemInputs,
    TextProjectorConfig,
    build_expert_items,
)
from llm_rec.pad.mmd import MultiKernelMMDConfig
from llm_rec.sequential.backbones import BackboneConfig, build_backbone
from llm_rec.sequential.items import ROWS_AT_A_TIME, IdItemsConfig, ItemSources, distinct_rows
from llm_rec.sequential.model import SequentialConfig, SequentialModel, SourceSizes
from llm_rec.sequential.negatives import NegativesConfig
from llm_rec.sequential.protocols import Backbone
from llm_rec.sequential.sasrec import SASRecConfig, pad_sasrec
from llm_rec.sequential.task import BCEConfig, LossConfig, SampledSoftmaxConfig, usual_negatives

KIND = "pad_model"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
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


class ItemLookup(NamedTuple):
    """What the mixture knows of item rows: every expert's vectors, and the weights of the experts."""

    vectors: Float[Tensor, "experts rows dim"]
    weights: Float[Tensor, "rows experts"]

    def folded(self) -> Float[Tensor, "rows width"]:
        """Vectors of candidates: the weights multiplied in, the experts side by side."""
        return (self.vectors * self.weights.T[..., None]).transpose(0, 1).flatten(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedPAD:
    """What `config.json` of a saved model holds."""

    model: PADConfig
    sources: SourceSizes


class Expert(nn.Module):
    """One tower: its own item vectors and its own sequence encoder."""

    def __init__(self, name: ExpertName, config: PADConfig, sources: ItemSources) -> None:
        super().__init__()
        self.items: ExpertItems = build_expert_items(name, config.id_items, config.projector, sources, config.dim)
        self.backbone: Backbone = build_backbone(config.backbone, config.dim, config.max_length)


class PADModel(nn.Module):
    """The experts and their gate. A `Retriever` by gate folding. `width` below is experts * dim.

    Phase 2 trains the aligned expert of it alone, phase 3 everything. The frozen text vectors are a buffer, shared by
    the experts that read texts, and travel with the weights.
    """

    embeddings: Tensor | None
    known: Tensor | None

    def __init__(self, config: PADConfig, sources: ItemSources) -> None:
        super().__init__()
        self.config = config
        self.sizes = SourceSizes.of(sources)
        reads_text = [name for name in config.experts if name != "collaborative"]
        if reads_text and sources.embeddings is None:
            raise ConfigError(f"the {reads_text[0]} expert needs text embeddings; encode the catalog first")
        if sources.train_counts is None:
            raise ConfigError("PAD needs train_counts for its gate; build the sources with ItemSources.from_split")
        kept = sources.embeddings if reads_text else None
        self.register_buffer("embeddings", None if kept is None else kept.clone())
        self.register_buffer("known", sources.train_counts > 0 if config.mask_unseen_ids else None)
        self.experts = nn.ModuleDict({name: Expert(name, config, sources) for name in config.experts})
        ends = dict(zip(EVERY_EXPERT, paper_ends(config.gamma2), strict=True))
        counts = sources.train_counts.cpu().numpy()
        self.gate: FrequencyGate = build_gate(config.gate, counts, [ends[name] for name in config.experts])

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @property
    def num_items(self) -> int:
        return self.sizes.num_items

    def expert(self, name: ExpertName) -> Expert:
        """The tower called `name`; `ConfigError` when this model has none."""
        if name not in self.experts:
            raise ConfigError(f"this PAD model has no {name} expert; it has {', '.join(self.experts)}")
        return cast(Expert, self.experts[name])

    def copy_pretrained(self, pretrained: SequentialModel) -> None:
        """Start the collaborative expert from phase 1, and the aligned expert's ids and encoder from a copy of it."""
        for name in ("collaborative", "aligned"):
            if name in self.experts:
                tower = self.expert(name)
                cast(CollaborativeItems | AlignedItems, tower.items).ids.load_state_dict(_state(pretrained.items))
                cast(nn.Module, tower.backbone).load_state_dict(_state(pretrained.backbone))

    def inputs(self, rows: Int64[Tensor, "rows"]) -> ItemInputs:
        """What the experts may know of item rows; in training some ids are hidden (`id_dropout`)."""
        keep = None if self.known is None else self.known[rows]
        if self.training and self.config.id_dropout:
            drawn = torch.rand(rows.shape, device=rows.device) >= self.config.id_dropout
            keep = drawn if keep is None else keep & drawn
        return ItemInputs(rows, None if self.embeddings is None else self.embeddings[rows], keep)

    def look_up(self, rows: Int64[Tensor, "rows"]) -> ItemLookup:
        """Item vectors of every expert (zeros for padding) and the gate's weights."""
        inputs = self.inputs(rows)
        own: list[Tensor] = [self.expert(name).items(inputs) for name in self.config.experts]
        return ItemLookup(torch.stack(own) * (rows != 0)[:, None], self._weights(inputs))

    def _weights(self, inputs: ItemInputs) -> Float[Tensor, "rows experts"]:
        """Gate weights; where the id does not count, the collaborative expert's share goes to the others (ours).

        Its vector is zero there. If it kept its share, an item without id would have logits of a smaller scale.
        """
        weights: Tensor = self.gate(inputs.rows)
        if inputs.keep is None or "collaborative" not in self.experts:
            return weights
        index = self.config.experts.index("collaborative")
        silent = (torch.arange(weights.shape[1], device=weights.device) == index) & ~inputs.keep[:, None]
        weights = weights.masked_fill(silent, 0.0)
        return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)

    def states(
        self,
        vectors: Float[Tensor, "experts items dim"],
        places: Int64[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length width"]:
        """States of all experts, for histories given as places in `vectors`."""
        pairs = zip(self.config.experts, vectors, strict=True)
        return torch.cat([self.expert(name).backbone(F.embedding(places, own), mask) for name, own in pairs], dim=-1)

    @torch.no_grad()
    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch width"]:
        """[u_1; u_2; u_3] at the last event of each right-padded row, without dropout; zeros for an empty row."""
        with evaluating(self):
            rows, places = distinct_rows(history, self.num_items + 1)
            return last_states(self.states(self.look_up(rows).vectors, places, history != 0), history)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items_plus_one width"]:
        """[g_1 v_1; g_2 v_2; g_3 v_3] of every row: the folded item matrix."""
        with evaluating(self):
            return torch.cat([self.look_up(rows).folded() for rows in self.all_rows()])

    @torch.no_grad()
    def every_item(self) -> ItemLookup:
        """All rows, without dropout: what a serving model keeps."""
        with evaluating(self):
            parts = [self.look_up(rows) for rows in self.all_rows()]
        return ItemLookup(torch.cat([p.vectors for p in parts], dim=1), torch.cat([p.weights for p in parts]))

    @torch.no_grad()
    def live_scores(
        self, history: Int64[Tensor, "batch length"], candidates: Int64[Tensor, "batch number"]
    ) -> Float[Tensor, "batch number"]:
        """sum_k g_k <u_k, v_k> as the paper writes it: the reference that the folded product must equal."""
        with evaluating(self):
            users = rearrange(
                self.user_vectors(history), "batch (experts dim) -> experts batch dim", dim=self.config.dim
            )
            items = self.look_up(candidates.flatten())
            vectors = items.vectors.view(len(users), *candidates.shape, -1)
            weights = items.weights.view(*candidates.shape, -1)
            logits: Tensor = torch.einsum("ebd,ebnd->bne", users, vectors) * weights
            return logits.sum(-1)

    def all_rows(self) -> tuple[Tensor, ...]:
        """Every row, in chunks that bound what exists beside the result."""
        device = next(self.parameters()).device
        return torch.split(torch.arange(self.num_items + 1, device=device), ROWS_AT_A_TIME)

    def save_pretrained(self, folder: Path | str, *, catalog: str | None = None, overwrite: bool = False) -> None:
        """Write config and weights (frozen text vectors among them) as one artefact; `catalog` is its fingerprint."""
        write_model(folder, KIND, SavedPAD(model=self.config, sources=self.sizes), self, catalog, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "PADModel":
        """The model saved in `folder`, in evaluation mode, without any training data."""
        saved = read_saved(folder, KIND)
        model = cls(saved.model, saved.sources.blank())
        read_weights(folder, model)
        return model.to(device).eval()


class ExpertRetriever:
    """One expert of a PAD model seen as a recommender of its own: what phase 2 is validated by. A `Retriever`."""

    def __init__(self, model: PADModel, name: ExpertName) -> None:
        self.model = model
        self.name: ExpertName = name
        self.tower = model.expert(name)

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @torch.no_grad()
    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        with evaluating(self.model):
            rows, places = distinct_rows(history, self.model.num_items + 1)
            states = self.tower.backbone(F.embedding(places, self._vectors(rows)), history != 0)
            return last_states(states, history)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items_plus_one dim"]:
        with evaluating(self.model):
            return torch.cat([self._vectors(rows) for rows in self.model.all_rows()])

    def _vectors(self, rows: Int64[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        vectors: Tensor = self.tower.items(self.model.inputs(rows))
        return vectors * (rows != 0)[:, None]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the former mode after it."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def last_states(
    states: Float[Tensor, "batch length width"], history: Int64[Tensor, "batch length"]
) -> Float[Tensor, "batch width"]:
    """State at the last event of each right-padded row; zeros for an empty row, which ranks nothing."""
    lengths = (history != 0).sum(dim=1)
    last = states[torch.arange(len(history), device=history.device), (lengths - 1).clamp(min=0)]
    return last * (lengths > 0)[:, None]


def write_model(
    folder: Path | str, kind: str, saved: SavedPAD, module: nn.Module, catalog: str | None, *, overwrite: bool
) -> None:
    """Config and tensors of `module` as one artefact of `kind`."""
    plain = cast(dict[str, Plain], to_plain(saved))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    digest = fingerprint(kind, plain, *(tensor.numpy().tobytes() for tensor in state.values()))
    inputs = {} if catalog is None else {"catalog": catalog}
    with write_artifact(Path(folder), kind=kind, fingerprint=digest, inputs=inputs, overwrite=overwrite) as partial:
        write_json(partial / CONFIG, plain)
        save_file(state, partial / WEIGHTS)


def read_saved(folder: Path | str, kind: str) -> SavedPAD:
    """The config beside the weights in `folder`; `ArtifactError` when it is not an artefact of `kind`."""
    read_manifest(Path(folder), kind)
    return from_plain(SavedPAD, read_json(Path(folder) / CONFIG))


def read_weights(folder: Path | str, module: nn.Module) -> None:
    """Fill `module` from `folder`; `ArtifactError` when the file is damaged or of another model."""
    path = Path(folder) / WEIGHTS
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()  # torch lists every tensor; one is enough
        raise ArtifactError(f"{path}: not the weights of this model ({reason}); save it again") from error


def _state(part: object) -> dict[str, Tensor]:
    return cast(nn.Module, part).state_dict()
