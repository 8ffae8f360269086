"""Losses of several domains or tasks, from logits."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ctr_models.losses.lists import at_least_float32


def domain_mean_bce(
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    domains: Int64[Tensor, "batch"],
    num_domains: int,
    *,
    pos_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Binary cross-entropy, a mean in each domain, summed over domains (Crocodile, arXiv 2405.12706):

        L = sum_s (1 / N_s) sum_(k in s) BCE_k

    Small domains weigh as much as large ones, so a domain with few rows in a batch is noisy: prefer stratified batches.
    A domain without rows adds exactly 0. Divide by `num_domains` for the risk of D-Train, an average over domains.

    >>> labels, domains = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 2])
    >>> round(float(domain_mean_bce(torch.zeros(3), labels, domains, 3)), 4)  # two domains with rows, log 2 each
    1.3863
    """
    terms = _bce(logits, labels, pos_weight)
    counts = terms.new_zeros(num_domains).index_add_(0, domains, torch.ones_like(terms))
    sums = terms.new_zeros(num_domains).index_add(0, domains, terms)
    return (sums / counts.clamp(min=1)).sum()


def task_bce(
    logits: Float[Tensor, "batch tasks"],
    labels: Float[Tensor, "batch tasks"],
    weights: Float[Tensor, "tasks"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy, a mean over rows for each task, summed over tasks with `weights` (1 each by default)."""
    means = _bce(logits, labels, 1.0).mean(0) if len(logits) else logits.sum(0) * 0.0
    return means.sum() if weights is None else (means * weights).sum()


def _bce(logits: Tensor, labels: Tensor, pos_weight: float) -> Tensor:
    logits, labels = at_least_float32(logits), at_least_float32(labels)
    return pos_weight * labels * F.softplus(-logits, threshold=40) + (1 - labels) * F.softplus(logits, threshold=40)
