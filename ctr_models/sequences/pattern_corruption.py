"""Noise for patterns: items inserted, replaced and dropped, and which slots that changed.

The pretext task of DPN's refiner (arXiv 2404.11456: "random noise is added to patterns, the network recovers the
original"). Kinds, shares and the law of noise items (frequency^0.75 in the train period) are our choices: this is a
reconstruction from the published description; the paper's hyper-parameters are unknown to us.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from ctr_models.checks import check_fraction, check_positive
from ctr_models.schema import RESERVED


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptionConfig:
    """Each event is changed with probability `ratio`, in one of three ways, by their shares.

    `replace`: another item stands in its slot. `insert`: another item stands in its slot, and it and the events before
    move one slot back, the oldest out of the window. `drop`: its slot is empty.
    """

    ratio: float = 0.2
    insert: float = 1.0
    replace: float = 1.0
    drop: float = 1.0

    def __post_init__(self) -> None:
        check_fraction("ratio", self.ratio)
        check_positive("ratio", self.ratio)
        shares = (self.insert, self.replace, self.drop)
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"insert, replace and drop are shares: none negative, one above 0; got {shares}")


class NoiseItems:
    """The items of the train period with their events and counts; noise comes from here, so never from the future.

    `events` holds the event of every item id (its category and other fields with it), `counts` how often it was seen.
    """

    def __init__(self, events: Int64[Tensor, "ids fields"], counts: Int64[Tensor, "ids"], power: float = 0.75) -> None:
        self.events, self.counts, self.power = events, counts, power
        self.known = counts.nonzero().squeeze(1)
        if len(self.known) < 2:
            raise ValueError(f"noise needs at least two items that were seen, got {len(self.known)}")
        self.weights: Float64[Tensor, ids] = counts.double().pow(power) * counts.gt(0)
        self.ends: Float64[Tensor, ids] = self.weights.cumsum(0)

    @classmethod
    def seen(cls, events: Int64[Tensor, "events fields"]) -> "NoiseItems":
        """Of the events of the train period. Padding and unknown items are no noise."""
        items = events[:, 0]
        size = int(items.max()) + 1 if len(items) else 0
        counts = torch.bincount(items, minlength=size)
        counts[:RESERVED] = 0
        rows = torch.zeros(size, events.shape[1], dtype=torch.int64)
        rows[items] = events
        return cls(rows, counts)

    def to(self, device: torch.device | str) -> "NoiseItems":
        """The same items on `device`; itself when they are there."""
        if self.counts.device == torch.device(device):
            return self
        return NoiseItems(self.events.to(device), self.counts.to(device), self.power)

    def draw(
        self, instead: Int64[Tensor, "*shape"], generator: torch.Generator | None = None
    ) -> Int64[Tensor, "*shape fields"]:
        """An event for each item of `instead`, by frequency^0.75, and never that item: its share is cut out of the law.

        An item that was never seen has no share.
        """
        last = len(self.ends) - 1
        own = instead.clamp(max=last)
        share = self.weights[own].where(instead <= last, 0.0)
        uniform = torch.rand(instead.shape, dtype=torch.float64, device=instead.device, generator=generator)
        point = uniform * (self.ends[-1] - share)
        point = torch.where(point >= self.ends[own] - share, point + share, point)
        drawn = torch.searchsorted(self.ends, point, right=True).clamp(max=last)
        return self.events[drawn]

    def uniform(self, count: int, generator: torch.Generator | None = None) -> Int64[Tensor, "{count} fields"]:
        """Events of `count` items that were seen, each item as likely as any other."""
        place = torch.randint(len(self.known), (count,), device=self.known.device, generator=generator)
        return self.events[self.known[place]]

    def log_expected(self, items: Int64[Tensor, "*shape"], popular: int, uniform: int) -> Float32[Tensor, "*shape"]:
        """log of how often an item is expected among `popular` draws by frequency and `uniform` uniform ones."""
        share = self.counts.double() / self.counts.sum()
        expected = (popular * share + uniform * self.counts.gt(0) / len(self.known))[items.clamp(max=len(share) - 1)]
        return expected.where(items < len(share), 0.0).clamp(min=1e-12).log().float()


@dataclass(frozen=True, slots=True, eq=False)
class CorruptedPatterns:
    """Patterns with noise. `ids` is what is shown, with 0 in empty slots; `mask` which slots exist (a dropped event
    leaves its slot); `clean` the events that belong there, 0 under an inserted item.
    """

    ids: Int64[Tensor, "patterns slots fields"]
    clean: Int64[Tensor, "patterns slots fields"]
    mask: Bool[Tensor, "patterns slots"]
    inserted: Bool[Tensor, "patterns slots"]
    replaced: Bool[Tensor, "patterns slots"]
    dropped: Bool[Tensor, "patterns slots"]

    @property
    def noise(self) -> Bool[Tensor, "patterns slots"]:
        """Slots that show an item which does not belong there."""
        return self.inserted | self.replaced

    @property
    def missing(self) -> Bool[Tensor, "patterns slots"]:
        """Slots whose event is not shown: what recovery is asked for."""
        return self.replaced | self.dropped

    @property
    def changed(self) -> Bool[Tensor, "patterns slots"]:
        """Exactly the slots where `ids` and `clean` differ."""
        return self.noise | self.dropped


def corrupt(
    ids: Int64[Tensor, "patterns slots fields"],
    items: NoiseItems,
    config: CorruptionConfig,
    generator: torch.Generator | None = None,
) -> CorruptedPatterns:
    """Noise for patterns (the anchor in the last slot, 0 where there is no event), from `generator`.

    Every event is changed with probability `ratio`, independently; a shift by insertions changes no slot by itself,
    for `clean` shifts with it.
    """
    real = ids[:, :, 0].ne(0)
    uniform = torch.rand(real.shape, device=ids.device, generator=generator) / config.ratio
    scale = config.insert + config.replace + config.drop
    insert_end, replace_end = config.insert / scale, (config.insert + config.replace) / scale
    inserted = real & (uniform < insert_end)
    replaced = real & (uniform >= insert_end) & (uniform < replace_end)
    dropped = real & (uniform >= replace_end) & (uniform < 1)
    clean = _shifted(ids, inserted)
    drawn = items.draw(clean[:, :, 0], generator)
    noise, empty = (inserted | replaced).unsqueeze(-1), dropped.unsqueeze(-1)
    shown = torch.where(noise, drawn, clean).masked_fill(empty, 0)
    return CorruptedPatterns(
        ids=shown,
        clean=clean.masked_fill(inserted.unsqueeze(-1), 0),
        mask=inserted | clean[:, :, 0].ne(0),
        inserted=inserted,
        replaced=replaced & shown[:, :, 0].ne(clean[:, :, 0]),
        dropped=dropped,
    )


def _shifted(
    ids: Int64[Tensor, "patterns slots fields"], inserted: Bool[Tensor, "patterns slots"]
) -> Int64[Tensor, "patterns slots fields"]:
    """What each slot holds once the inserted items have pushed the events before them back. Under an inserted item
    stands the event it pushed away, so that it differs from it.
    """
    newer = inserted.flip(1).cumsum(1).flip(1) - inserted.long()  # insertions in newer slots
    source = torch.arange(ids.shape[1], device=ids.device) + newer
    return ids.gather(1, source.unsqueeze(-1).expand_as(ids))
