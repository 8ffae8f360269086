"""How well a pattern refiner denoises: events it recovers, noise it finds. Against baselines that need no learning.

Reconstruction from the published description of DPN (arXiv 2404.11456); the paper's hyper-parameters are unknown to us.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ctr_models.schema import RESERVED
from ctr_models.sequences.pattern_corruption import CorruptedPatterns, CorruptionConfig, NoiseItems, corrupt
from ctr_models.sequences.pattern_losses import EventLookup
from ctr_models.sequences.pattern_refiner import RefinedTokens, TransformerRefiner
from llm_rec.errors import DataError
from llm_rec.metrics.classification import auc

_CHUNK = 256  # windows scored at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryReport:
    """Of corrupted windows. `recovered` is the share of missing events (replaced or dropped) whose item comes first
    among all items of the train period; `popular` that of the most frequent item; "predict unchanged" recovers none.

    `restored` is the share of all events, the unchanged among them, that are right once the recovered item stands
    wherever the slot is empty or P(noise) is above a half; `unchanged` their share as shown, before.
    `detection_auc` ranks shown events by P(noise).
    """

    windows: int
    missing: int
    recovered: float
    popular: float
    restored: float
    unchanged: float
    detection_auc: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseReport:
    """P(noise) above the threshold against noise that is known to be there. The share of noise in the pretext task is
    rarely that of the data, so `r_precision` asks without a threshold: the share of noise among as many of the most
    suspicious events as there is noise (there, precision and recall are equal; chance gives `noise / events`).
    """

    events: int
    noise: int
    precision: float
    recall: float
    r_precision: float
    detection_auc: float


@torch.no_grad()
def recovery_report(
    refiner: TransformerRefiner,
    vectors: EventLookup,
    items: NoiseItems,
    windows: Int64[Tensor, "patterns slots fields"],
    corruption: CorruptionConfig,
    *,
    seed: int = 0,
) -> RecoveryReport:
    """Noise for `windows` by `seed`, and what the refiner makes of it (in the mode it is in; call `eval()` first).

    With several embedding sets, logits and similarities are their means. `DataError` without a missing event.
    """
    generator = torch.Generator(windows.device).manual_seed(seed)
    patterns = corrupt(windows, items, corruption, generator)
    known = items.events[items.known]
    catalog = F.normalize(vectors(known.unsqueeze(0)).squeeze(1), dim=-1)
    guessed, logits = [], []
    for start in range(0, len(windows), _CHUNK):
        tokens = _tokens(refiner, vectors, *(part[start : start + _CHUNK] for part in (patterns.ids, patterns.mask)))
        guessed.append(known[_nearest(tokens, catalog), 0])
        logits.append(tokens.noise_logits.mean(0))
    return _recovery(patterns, items, torch.cat(guessed), torch.cat(logits))


def _recovery(
    patterns: CorruptedPatterns,
    items: NoiseItems,
    guessed: Int64[Tensor, "patterns slots"],
    logits: Float[Tensor, "patterns slots"],
) -> RecoveryReport:
    clean, shown = patterns.clean[:, :, 0], patterns.ids[:, :, 0]
    missing = patterns.missing & clean.ge(RESERVED)
    if not missing.any():
        raise DataError("no event is missing, so there is nothing to recover; corrupt more windows, or a higher ratio")
    events = clean.ge(RESERVED)  # an inserted item stands where no event belongs
    restored = torch.where(patterns.dropped | (logits > 0), guessed, shown)
    seen = patterns.mask & ~patterns.dropped
    return RecoveryReport(
        windows=len(clean),
        missing=int(missing.sum()),
        recovered=_share(guessed.eq(clean)[missing]),
        popular=_share(clean.eq(items.counts.argmax())[missing]),
        restored=_share(restored.eq(clean)[events]),
        unchanged=_share(shown.eq(clean)[events]),
        detection_auc=_auc(logits[seen], patterns.noise[seen]),
    )


@torch.no_grad()
def noise_report(
    refiner: TransformerRefiner,
    vectors: EventLookup,
    windows: Int64[Tensor, "patterns slots fields"],
    noise: Bool[Tensor, "patterns slots"],
    *,
    threshold: float = 0.5,
) -> NoiseReport:
    """Detection in `windows` as they are, where `noise` marks the events that were planted as noise."""
    mask = windows[:, :, 0].ne(0)
    logits = torch.cat(
        [
            _tokens(refiner, vectors, windows[start : start + _CHUNK], mask[start : start + _CHUNK]).noise_logits.mean(
                0
            )
            for start in range(0, len(windows), _CHUNK)
        ]
    )
    scores, truth = logits[mask], noise[mask]
    called = scores.sigmoid() > threshold
    hits = int((called & truth).sum())
    return NoiseReport(
        events=len(truth),
        noise=int(truth.sum()),
        precision=hits / max(int(called.sum()), 1),
        recall=hits / max(int(truth.sum()), 1),
        r_precision=_share(truth[scores.argsort(descending=True, stable=True)[: int(truth.sum())]]),
        detection_auc=_auc(scores, truth),
    )


def _tokens(refiner: TransformerRefiner, vectors: EventLookup, ids: Tensor, mask: Tensor) -> RefinedTokens:
    found = vectors(ids)
    seen = mask.expand(len(found), -1, -1)
    return refiner.tokens(found * seen.unsqueeze(-1), seen)


def _nearest(tokens: RefinedTokens, catalog: Float[Tensor, "tables items width"]) -> Int64[Tensor, "patterns slots"]:
    """The item of the highest mean cosine over sets."""
    outputs = F.normalize(tokens.outputs, dim=-1)
    return torch.einsum("tpsw,tiw->psi", outputs, catalog).argmax(-1)


def _share(hits: Bool[Tensor, "events"]) -> float:
    return float(hits.double().mean())


def _auc(logits: Float[Tensor, "events"], noise: Bool[Tensor, "events"]) -> float:
    return auc(logits.double().cpu().numpy(), noise.cpu().numpy().astype(np.int64))
