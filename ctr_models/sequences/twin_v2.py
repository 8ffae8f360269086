"""TWIN-V2: target attention over clusters of a history, aware of their sizes (arXiv 2407.16357).

Written from memory: clusters instead of events, sizes in the score, the same attention in both stages. The details of
the paper are not established here; what fills them (`ctr_models.sequences.clusters`, mean vectors, ln n) is our choice.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.sequences.clusters import Clusters, cluster_means, hierarchical_clusters
from ctr_models.sequences.found import best_events, take_events
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput
from ctr_models.sequences.twin import TWIN, TWINConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TWINV2Config:
    """Up to 2^num_levels clusters, each split while it has more than `max_size` events, by `iterations` of two-means.

    `twin` is the attention: its `top_k` counts clusters. `size_aware` adds ln n to the score of a cluster of n events:
    n events that are alike then weigh as much as they would one by one.
    """

    num_levels: int = 5
    max_size: int = 4
    iterations: int = 2
    size_aware: bool = True
    twin: TWINConfig = field(default_factory=TWINConfig)

    def __post_init__(self) -> None:
        check_at_least("num_levels", self.num_levels, 0)
        check_at_least("max_size", self.max_size, 1)
        check_at_least("iterations", self.iterations, 0)


class TWINV2(nn.Module):
    """alpha'_c = alpha(target, mean of cluster c) + ln n_c;  S = TopK(alpha');  h = MHA over S with alpha'.

    Clusters follow from the vectors of the model, without a gradient; their means have one. They do not depend on the
    candidate, so a service makes them once a user (`cluster`, then `attend`). `TWIN` is exact where the history is
    short enough to be searched event by event.
    """

    def __init__(self, config: TWINV2Config, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.twin = TWIN(config.twin, num_tables, parts, dim)
        self.num_outputs, self.num_auxiliary = self.twin.num_outputs, 0

    def cluster(self, sequence: SequenceInput) -> Clusters:
        """Clusters of the users' events; candidates are not looked at."""
        config = self.config
        clusters = hierarchical_clusters(
            sequence.events,
            sequence.mask,
            num_levels=config.num_levels,
            max_size=config.max_size,
            iterations=config.iterations,
        )
        return cluster_means(sequence.events, sequence.mask, clusters, 1 << config.num_levels)

    def attend(self, sequence: SequenceInput, clusters: Clusters) -> SequenceOutput:
        """Both stages over clusters; events are read for a short window alone."""
        bias = self._bias(clusters)
        with torch.no_grad():
            scores = self.twin.attention.long.scores(sequence.target, clusters.vectors) + bias
            found = best_events(scores.mean(2), clusters.sizes.gt(0), self.config.twin.top_k)
        chosen = take_events(clusters.vectors, found.indices)
        taken = bias.gather(3, found.indices.unsqueeze(2).expand(-1, -1, bias.shape[2], -1))
        return SequenceOutput(self.twin.attention(sequence, chosen, found.mask, taken))

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        return self.attend(sequence, self.cluster(sequence))

    def _bias(self, clusters: Clusters) -> Tensor:
        sizes = clusters.sizes.clamp(min=1.0).log() if self.config.size_aware else torch.zeros_like(clusters.sizes)
        bias = sizes.unsqueeze(2).to(clusters.vectors.dtype)
        return bias if self.twin.cross is None else bias + self.twin.cross(clusters.vectors)
