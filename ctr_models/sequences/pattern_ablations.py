"""What each part of DPN is worth: the settings to compare, by name.

Reconstruction from the published description of DPN (arXiv 2404.11456), which reports ablations of all three modules;
the paper's hyper-parameters are unknown to us. "Without pre-training" is no setting of the encoder: leave the phase
out. Nor is the noise ratio: it is that of `CorruptionConfig`.
"""

from dataclasses import replace

from ctr_models.sequences.pattern_refiner import MeanPatternConfig
from ctr_models.sequences.patterns import PatternConfig


def without_refinement(config: PatternConfig) -> PatternConfig:
    """-SPRM: a pattern is the mean of its events."""
    return replace(config, refiner=MeanPatternConfig())


def without_retrieval(config: PatternConfig) -> PatternConfig:
    """-TPRM: the patterns of all events. The costly one: length + 1 windows a candidate."""
    return replace(config, retrieval="all", suppression=0)


def newest_patterns(config: PatternConfig) -> PatternConfig:
    """-TPRM at equal cost: the newest K patterns."""
    return replace(config, retrieval="newest", suppression=0)


def without_pattern_attention(config: PatternConfig) -> PatternConfig:
    """TPA -> TA: target attention over the same retrieved events, each by itself."""
    return replace(config, attention="items")


def pattern_ablations(config: PatternConfig) -> dict[str, PatternConfig]:
    """The full model and each of its modules taken out, for tables.

    >>> list(pattern_ablations(PatternConfig()))
    ['full', 'mean pool', 'all patterns', 'newest patterns', 'target attention']
    """
    return {
        "full": config,
        "mean pool": without_refinement(config),
        "all patterns": without_retrieval(config),
        "newest patterns": newest_patterns(config),
        "target attention": without_pattern_attention(config),
    }
