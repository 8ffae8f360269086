"""Models of past events by name: each a whole model, encoder, tables and head with its numbers.

Those of DARE's paper (arXiv 2410.02604) differ in what they are named after and in nothing else: 20 of 200 events,
[candidate, pooled, candidate * pooled] through batch normalisation, 200 and 80 PReLU units and two logits, and an
auxiliary head with 200 units over all events. Its training is Adam at 0.01 with every weight from N(0, 0.01^2); a
different start changes its results. Fields that events do not have stand beside all of them.

SIM, ETA, SDIM, TWIN as published, TWIN-V2, DIEN, BST and HSTU have that head too, and the product of candidate and
pooled where attention pools: what differs is how events are found and weighed. Their own sizes are those of their
modules, or our choices there.

The loss decides how many logits a model has: `CrossEntropyConfig` gives two. For other encoders, heads and interactions
replace parts of the config.
"""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModelConfig
from ctr_models.sequences.attention import DotScoreConfig, MLPScoreConfig, Scale
from ctr_models.sequences.bst import BSTConfig
from ctr_models.sequences.dien import DIENConfig
from ctr_models.sequences.din import DINConfig
from ctr_models.sequences.encoder import EncoderConfig
from ctr_models.sequences.eta import ETAConfig
from ctr_models.sequences.events import Decouple, EventsConfig
from ctr_models.sequences.hstu import HSTUConfig
from ctr_models.sequences.multi_head import MultiHeadConfig
from ctr_models.sequences.patterns import PatternConfig
from ctr_models.sequences.sdim import SDIMConfig
from ctr_models.sequences.sim import HardSearchConfig, SIMConfig, SoftSearchConfig
from ctr_models.sequences.source import SequenceConfig
from ctr_models.sequences.target_attention import TargetAttentionConfig
from ctr_models.sequences.tin import TINConfig
from ctr_models.sequences.twin import TWINConfig
from ctr_models.sequences.twin_v2 import TWINV2Config
from ctr_models.towers import TowerConfig

HEAD = MLPConfig(widths=(200, 80), activation="prelu", input_batch_norm=True)
AUXILIARY_HEAD = MLPConfig(widths=(200,), activation="prelu", input_batch_norm=True)
SHARED = EventsConfig(decouple="shared")
PATTERNS, ATTENTION = PatternConfig(), TargetAttentionConfig(auxiliary=False)
PRODUCTS = MultiHeadConfig(target_product=True)
TWIN_HEADS = MultiHeadConfig(num_heads=4, target_product=True)
TIN_HEAD = MLPConfig(widths=(80, 40), activation="sigmoid")


def dare(
    *,
    dim: int = 16,
    attention_dims: tuple[int | None, ...] = (),
    top_k: int | None = 20,
    max_length: int = 200,
    target_aware: Literal["both", "none", "only"] = "both",
    auxiliary: bool = True,
    scale: Scale = "split",
) -> CTRModelConfig:
    """Decoupled attention and representation embeddings. Smaller `attention_dims` make search cheaper. `target_aware`
    "only" is the ablation whose head reads r_t * h alone.
    """
    score = DotScoreConfig(scale=scale)
    encoder = TargetAttentionConfig(top_k=top_k, score=score, target_aware=target_aware, auxiliary=auxiliary)
    events = EventsConfig(decouple="dare", attention_dims=attention_dims)
    odot = target_aware == "only"
    return with_encoder(encoder, events, dim, max_length, auxiliary=auxiliary, target_field=not odot)


def twin(*, dim: int = 16, top_k: int | None = 20, max_length: int = 200, auxiliary: bool = True) -> CTRModelConfig:
    """DARE with one table for both. This is the TWIN of DARE's repository, without the original's projections and
    cross-feature bias.
    """
    return _decoupled("shared", dim, top_k, max_length, auxiliary)


def twin_hard(*, dim: int = 16, top_k: int = 20, max_length: int = 200, auxiliary: bool = True) -> CTRModelConfig:
    """TWIN that attends to the newest events of the candidate's category, filled up with the newest others."""
    encoder = TargetAttentionConfig(top_k=top_k, search="hard", auxiliary=auxiliary)
    return with_encoder(encoder, EventsConfig(decouple="shared"), dim, max_length, auxiliary=auxiliary)


def twin_4e(*, dim: int = 16, top_k: int | None = 20, max_length: int = 200, auxiliary: bool = True) -> CTRModelConfig:
    """Four tables: attention and representation, each for candidates and for events."""
    return _decoupled("four", dim, top_k, max_length, auxiliary)


def twin_3e(*, dim: int = 16, top_k: int | None = 20, max_length: int = 200, auxiliary: bool = True) -> CTRModelConfig:
    """Three tables: attention for candidates, attention for events, and one representation."""
    return _decoupled("three", dim, top_k, max_length, auxiliary)


def twin_projection(
    *, dim: int = 16, top_k: int | None = 20, max_length: int = 200, auxiliary: bool = True
) -> CTRModelConfig:
    """One table and linear maps of each field for attention and representation: TWIN (w/ proj.)."""
    return _decoupled("projection", dim, top_k, max_length, auxiliary)


def twin_without_tr(
    *, dim: int = 16, top_k: int | None = 20, max_length: int = 200, auxiliary: bool = True
) -> CTRModelConfig:
    """TWIN without the target-aware representation: the head reads [candidate, pooled]."""
    encoder = TargetAttentionConfig(top_k=top_k, target_aware="none", auxiliary=auxiliary)
    return with_encoder(encoder, EventsConfig(decouple="shared"), dim, max_length, auxiliary=auxiliary)


def din(*, dim: int = 16, top_k: int | None = 20, max_length: int = 200, auxiliary: bool = True) -> CTRModelConfig:
    """DIN as DARE's paper compares it: its MLP's score, then search, softmax and products as TWIN."""
    encoder = TargetAttentionConfig(top_k=top_k, score=MLPScoreConfig(), auxiliary=auxiliary)
    return with_encoder(encoder, EventsConfig(decouple="shared"), dim, max_length, auxiliary=auxiliary)


def din_unsearched(*, dim: int = 16, max_length: int = 200, softmax: bool = False) -> CTRModelConfig:
    """DIN (arXiv 1706.06978): all events, weights not normalised, [candidate, pooled], no time. The head is DARE's."""
    events = EventsConfig(decouple="shared", position="none")
    return with_encoder(DINConfig(softmax=softmax), events, dim, max_length)


def tin(*, dim: int = 16, max_length: int = 200, time: Literal["position", "gap"] = "position") -> CTRModelConfig:
    """TIN (arXiv 2403.00793): positions added to vectors, all events, the product of candidate and pooled. `time` "gap"
    is its TTE-T. The head is DARE's (our choice; the paper's models are private).
    """
    events = EventsConfig(decouple="shared", position="add", time=time)
    return with_encoder(TINConfig(), events, dim, max_length)


def tin_released(*, dim: int = 64, max_length: int = 430) -> CTRModelConfig:
    """TIN as its repository has it: [u, candidate, u * candidate] with u after batch normalisation and a linear map,
    then 80 and 40 sigmoid units, and a weight of each item (with one of the category here). Trained by BCE there, with
    gradients clipped at norm 5.
    """
    events = EventsConfig(decouple="shared", position="add", max_positions=431)
    config = with_encoder(TINConfig(tr="post_dense"), events, dim, max_length)
    return replace(config, towers=(TowerConfig(hidden=TIN_HEAD),), linear="weight")


def sim_hard(*, dim: int = 16, top_k: int = 20, max_length: int = 200) -> CTRModelConfig:
    """SIM with the newest events of the candidate's category (the second field of the history)."""
    encoder = SIMConfig(search=HardSearchConfig(), top_k=top_k, attention=PRODUCTS)
    return with_encoder(encoder, SHARED, dim, max_length)


def sim_soft(*, dim: int = 16, top_k: int = 20, max_length: int = 200) -> CTRModelConfig:
    """SIM with a search of its own, trained by the second head."""
    encoder = SIMConfig(search=SoftSearchConfig(), top_k=top_k, attention=PRODUCTS)
    return with_encoder(encoder, SHARED, dim, max_length, auxiliary=encoder.auxiliary)


def eta(*, dim: int = 16, top_k: int = 20, bits: int = 32, max_length: int = 200) -> CTRModelConfig:
    """SimHash codes of whole event vectors, Hamming distance, attention over the nearest."""
    return with_encoder(ETAConfig(bits=bits, top_k=top_k, attention=PRODUCTS), SHARED, dim, max_length)


def sdim(*, dim: int = 16, bits: int = 48, group_size: int = 3, max_length: int = 200) -> CTRModelConfig:
    """Events whose hashes collide with the candidate's, without a search."""
    encoder = SDIMConfig(bits=bits, group_size=group_size, target_product=True)
    return with_encoder(encoder, SHARED, dim, max_length)


def twin_published(*, dim: int = 16, top_k: int = 20, max_length: int = 200) -> CTRModelConfig:
    """TWIN as its paper has it (arXiv 2302.02352): multi-head projections and the bias of cross features, the position
    here. `twin` is the variant that DARE's paper compares.
    """
    return with_encoder(TWINConfig(top_k=top_k, attention=TWIN_HEADS), SHARED, dim, max_length)


def twin_v2(*, dim: int = 16, top_k: int = 20, max_length: int = 200) -> CTRModelConfig:
    """TWIN over clusters of events; from memory, see its module."""
    encoder = TWINV2Config(twin=TWINConfig(top_k=top_k, attention=TWIN_HEADS))
    return with_encoder(encoder, SHARED, dim, max_length)


def dien(*, dim: int = 16, max_length: int = 200) -> CTRModelConfig:
    """Interests that evolve: two recurrent layers over time, so a step costs as many products as there are events."""
    return with_encoder(DIENConfig(), SHARED, dim, max_length)


def bst(*, dim: int = 16, max_length: int = 200) -> CTRModelConfig:
    """A transformer over the events and the candidate."""
    return with_encoder(BSTConfig(), SHARED, dim, max_length)


def hstu(*, dim: int = 16, num_layers: int = 2, max_length: int = 200) -> CTRModelConfig:
    """Pointwise, gated self-attention."""
    return with_encoder(HSTUConfig(num_layers=num_layers, max_length=max_length), SHARED, dim, max_length)


def dpn(
    *, dim: int = 16, patterns: PatternConfig = PATTERNS, encoder: EncoderConfig = ATTENTION, max_length: int = 200
) -> CTRModelConfig:
    """Patterns of behaviour beside an encoder, TWIN's without its second head by default. A reconstruction from the
    published description of DPN (arXiv 2404.11456); the paper's hyper-parameters are unknown to us.
    """
    sequence = SequenceConfig(encoder=encoder, events=SHARED, patterns=patterns, max_length=max_length)
    return CTRModelConfig(towers=(TowerConfig(hidden=HEAD),), dim=dim, sequence=sequence)


def with_encoder(
    encoder: EncoderConfig,
    events: EventsConfig,
    dim: int,
    max_length: int,
    *,
    auxiliary: bool = False,
    target_field: bool = True,
) -> CTRModelConfig:
    """Any encoder under DARE's head; `auxiliary` adds the second head, for encoders that have outputs for one."""
    return CTRModelConfig(
        towers=(TowerConfig(hidden=HEAD),),
        dim=dim,
        sequence=SequenceConfig(encoder=encoder, events=events, max_length=max_length, target_field=target_field),
        auxiliary=(TowerConfig(hidden=AUXILIARY_HEAD),) if auxiliary else (),
    )


def preset(name: str) -> CTRModelConfig:
    """The config called `name`, at its default size; ValueError for a name that is not in `PRESETS`.

    >>> preset("dare").history_length
    200
    """
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(PRESETS)}"
        raise ValueError(f"no sequence preset is called {name!r}; {hint}")
    return PRESETS[name]()


def _decoupled(decouple: Decouple, dim: int, top_k: int | None, max_length: int, auxiliary: bool) -> CTRModelConfig:
    encoder = TargetAttentionConfig(top_k=top_k, auxiliary=auxiliary)
    return with_encoder(encoder, EventsConfig(decouple=decouple), dim, max_length, auxiliary=auxiliary)


PRESETS: MappingProxyType[str, Callable[[], CTRModelConfig]] = MappingProxyType(
    {
        "dare": dare,
        "twin": twin,
        "twin_hard": twin_hard,
        "twin_4e": twin_4e,
        "twin_3e": twin_3e,
        "twin_projection": twin_projection,
        "twin_without_tr": twin_without_tr,
        "din": din,
        "din_unsearched": din_unsearched,
        "tin": tin,
        "tin_released": tin_released,
        "sim_hard": sim_hard,
        "sim_soft": sim_soft,
        "eta": eta,
        "sdim": sdim,
        "twin_published": twin_published,
        "twin_v2": twin_v2,
        "dien": dien,
        "bst": bst,
        "hstu": hstu,
        "dpn": dpn,
    }
)
