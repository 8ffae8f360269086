"""Next-item losses: pure functions of logits (or of states and item vectors, where logits would not fit)."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def bce(positive: Float[Tensor, "targets"], negative: Float[Tensor, "*negatives"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of positives plus that of negatives, each averaged on its own (SASRec, arXiv 1808.09781,
    eq. 7):

        L = mean -log sigmoid(s+) + mean -log(1 - sigmoid(s-))

    A sum of two means, not a mean over both; with one negative a position it is the loss of SASRec and PAD.
    Overestimates probabilities when negatives are few: prefer `sampled_softmax` or `gbce` for ranking quality.

    >>> round(bce(torch.tensor([0.0]), torch.tensor([[0.0]])).item(), 4)
    1.3863
    """
    return F.softplus(-positive).mean() + F.softplus(negative).mean()


def gbce(
    positive: Float[Tensor, "targets"], negative: Float[Tensor, "targets number"], *, num_items: int, t: float = 0.75
) -> Float[Tensor, ""]:
    """Generalised binary cross-entropy (gSASRec, arXiv 2308.07192), with negatives uniform over the catalog:

        L = -(1 / (k + 1)) * mean[ beta log sigmoid(s+) + sum_k log(1 - sigmoid(s-)) ],   beta = `gbce_beta`

    t = 0 gives plain BCE over k + 1 logits, t = 1 probabilities as calibrated as full softmax gives them.
    """
    beta = gbce_beta(negative.shape[1], num_items=num_items, t=t)
    return (beta * F.softplus(-positive) + F.softplus(negative).sum(dim=1)).mean() / (negative.shape[1] + 1)


def gbce_beta(number: int, *, num_items: int, t: float) -> float:
    """beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a), a = k / (num_items - 1) the sampling rate (arXiv 2308.07192).

    A rate above 1 (more draws than items) counts as 1, our choice.

    >>> gbce_beta(256, num_items=257, t=0.75), gbce_beta(10, num_items=101, t=0.5)
    (1.0, 0.55)
    """
    rate = min(1.0, number / max(num_items - 1, 1))
    return 1 - t * (1 - rate)


def sampled_softmax(
    positive: Float[Tensor, "targets"],
    negative: Float[Tensor, "targets number"],
    *,
    pos_log_q: Float[Tensor, "targets"] | None = None,
    neg_log_q: Float[Tensor, "targets number"] | Float[Tensor, "number"] | None = None,
    hits: Bool[Tensor, "targets number"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the positive among itself and sampled negatives, corrected for how often items are drawn.

        L = mean -log( exp(s+') / (exp(s+') + sum_k exp(s-')) ),   s' = s - log q

    The correction (Bengio & Senecal 2008; as in two-tower training, Yi et al. 2019) makes popular negatives no heavier
    than they are in the full softmax. With uniform q, correcting both sides changes nothing. Correcting the negatives
    alone, with log(k q) in place of log q, estimates the full softmax itself. `hits` marks negatives to leave out
    (those equal to their own positive). Prefer `cross_entropy` when the catalog is small enough.
    """
    if pos_log_q is not None:
        positive = positive - pos_log_q
    if neg_log_q is not None:
        negative = negative - neg_log_q
    if hits is not None:
        negative = negative.masked_fill(hits, -torch.inf)
    rest = torch.logsumexp(negative, dim=1)
    return F.softplus(rest - positive).mean()


def shared_softmax(
    states: Float[Tensor, "targets dim"],
    positive: Float[Tensor, "targets"],
    negatives: Float[Tensor, "number dim"],
    *,
    pos_log_q: Float[Tensor, "targets"] | None = None,
    neg_log_q: Float[Tensor, "number"] | None = None,
    target_ids: Int64[Tensor, "targets"] | None = None,
    negative_ids: Int64[Tensor, "number"] | None = None,
    max_logits: int = 2**24,
) -> Float[Tensor, ""]:
    """`sampled_softmax` of `states @ negatives.T`, for negatives that all targets share; with both ids, negatives whose
    id is that of the row's target are left out.

    Logits of negatives are in memory once, about `max_logits` at a time, and gradients are computed in the same pass.
    """
    if pos_log_q is not None:
        positive = positive - pos_log_q
    chunk = max(1, max_logits // len(negatives))
    loss = _SharedSoftmax.apply(  # type: ignore[no-untyped-call]
        states, positive, negatives, neg_log_q, target_ids, negative_ids, chunk
    )
    return cast(Tensor, loss)


def cross_entropy(
    states: Float[Tensor, "targets dim"],
    items: Float[Tensor, "items_plus_one dim"],
    targets: Int64[Tensor, "targets"],
    *,
    max_logits: int = 2**24,
) -> Float[Tensor, ""]:
    """Full softmax cross-entropy over every item but padding (row 0): mean of logsumexp_i <u, v_i> - <u, v_target>.

    At most about `max_logits` logits exist at a time, whatever the number of targets: chunks of targets are done one
    after another, and the gradients of `states` and `items` are computed in the same pass, so nothing is kept or
    computed twice.
    """
    chunk = max(1, max_logits // len(items))
    return cast(Tensor, _ChunkedCrossEntropy.apply(states, items, targets, chunk))  # type: ignore[no-untyped-call]


def at_least_float32(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Logits in the precision that sums of exponentials need, whatever mixed precision made of them."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _SharedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        states: Tensor,
        positive: Tensor,
        negatives: Tensor,
        log_q: Tensor | None,
        target_ids: Tensor | None,
        negative_ids: Tensor | None,
        chunk: int,
    ) -> Tensor:
        state_grad, positive_grad = torch.empty_like(states), torch.empty_like(positive)
        negative_grad = torch.zeros_like(negatives)
        total = positive.new_zeros(())
        wanted = states.requires_grad or positive.requires_grad or negatives.requires_grad
        for first in range(0, len(states), chunk):
            part = slice(first, first + chunk)
            u = states[part]
            logits = at_least_float32(u @ negatives.T)
            if log_q is not None:
                logits -= log_q
            if target_ids is not None and negative_ids is not None:
                logits.masked_fill_(negative_ids == target_ids[part, None], -torch.inf)
            rest = torch.logsumexp(logits, dim=1)
            with torch.set_grad_enabled(wanted):  # its slope by autograd: to the bit that of `sampled_softmax`
                margin = (rest - positive[part]).detach().requires_grad_(wanted)
                loss = F.softplus(margin).sum() / len(states)
            total += loss.detach()
            if not wanted:
                continue
            (slope,) = torch.autograd.grad(loss, margin)
            positive_grad[part] = -slope
            rest = rest.clamp_min(torch.finfo(rest.dtype).min)[:, None]  # -inf where all negatives are left out
            error = logits.sub_(rest).exp_().mul_(slope[:, None])
            state_grad[part] = error @ negatives.to(error.dtype)
            negative_grad += (u.to(error.dtype).T @ error).T
        if wanted:
            ctx.save_for_backward(state_grad, positive_grad, negative_grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        state_grad, positive_grad, negative_grad = ctx.saved_tensors  # type: ignore[attr-defined]
        return state_grad * grad, positive_grad * grad, negative_grad * grad, None, None, None, None


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, items: Tensor, targets: Tensor, chunk: int) -> Tensor:
        state_grad, item_grad = torch.empty_like(states), torch.zeros_like(items)
        total = at_least_float32(states.new_zeros(()))
        wanted = states.requires_grad or items.requires_grad
        for first in range(0, len(states), chunk):
            u, target = states[first : first + chunk], targets[first : first + chunk, None]
            logits = at_least_float32(u @ items.T)
            logits[:, 0] = -torch.inf
            normaliser = torch.logsumexp(logits, dim=1, keepdim=True)
            total += (normaliser - logits.gather(1, target)).sum()
            if wanted:  # d loss / d logits = softmax - one-hot
                error = logits.sub_(normaliser).exp_()
                error.scatter_add_(1, target, error.new_full((), -1.0).expand(target.shape))
                state_grad[first : first + chunk] = error @ items.to(error.dtype)
                item_grad += error.T @ u.to(error.dtype)
        if wanted:
            ctx.save_for_backward(state_grad, item_grad)
        return total / len(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        state_grad, item_grad = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = grad / len(state_grad)
        return state_grad * scale, item_grad * scale, None, None
