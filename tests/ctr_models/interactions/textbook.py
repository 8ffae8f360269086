"""Each preset's equation written out with loops over fields, reading the parameters of a model: the slow references."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from ctr_models.batch import FeatureBatch
from ctr_models.layers import MLP
from ctr_models.model import CTRModel
from ctr_models.towers import Tower
from tests.ctr_models.interactions.textbook_modules import MODULE_REFERENCES
from tests.ctr_models.interactions.worlds import FIELDS, GROUPS

Reference = Callable[[CTRModel, Tensor], Tensor]  # vectors (tables batch fields dim) -> logits without the linear part
PAIRS = list(combinations(range(FIELDS), 2))


def textbook_logits(name: str, model: CTRModel, batch: FeatureBatch) -> Tensor:
    rows = range(len(batch))
    logits = model.bias.expand(len(batch))
    if model.linear is not None:
        w = model.linear.weight
        logits = logits + torch.stack([sum(w[i, batch.ids[row, i], 0] for i in range(FIELDS)) for row in rows])
    if name == "lr":
        return logits
    e = _vectors(model.sources.weight, batch)
    if model.linear_vectors is not None:
        logits = logits + torch.einsum("tbfk,tbfk->b", e, _vectors(model.linear_vectors.weight, batch))
    return logits + {**REFERENCES, **MODULE_REFERENCES}[name](model, e)


def _vectors(weight: Tensor, batch: FeatureBatch) -> Tensor:
    rows = [torch.stack([weight[:, i, row[i]] for i in range(FIELDS)], 1) for row in batch.ids]
    return torch.stack(rows, 1)


def mlp(module: MLP | None, x: Tensor, table: int = 0) -> Tensor:
    if module is None:
        return x
    for layer in module.layers:
        x = (x @ layer.linear.weight[table] + layer.linear.bias[table]).clamp(min=0)
    return x


def head(tower: Tower, x: Tensor) -> Tensor:
    return (mlp(tower.hidden, x) @ tower.head.weight[0]).squeeze(1)


def deep(tower: Tower, e: Tensor) -> Tensor:
    return head(tower, torch.cat([e[0, :, i] for i in range(FIELDS)], 1))


def _function(model: CTRModel) -> object:
    stack = model.towers[0].interactions[0].stack
    return stack.first if hasattr(stack, "first") else stack.function


def _scale(model: CTRModel, name: str, pair: int) -> Tensor:
    """M_ab of a pair as a (dim, dim) matrix."""
    weights, a = _function(model).weights, PAIRS[pair][0]
    dim = _function(model).dim
    if name == "naive":
        return torch.eye(dim, dtype=torch.float64)
    if name == "number":
        return weights.left[0, pair] * torch.eye(dim, dtype=torch.float64)
    if name == "diagonal":
        return weights.left[0, pair].diag()
    if name == "low rank":
        return weights.left[0, pair] @ weights.right[0, pair]
    if name == "all":
        return weights.left[0, 0, :, 0]
    if name == "source":
        return weights.left[0, a, :, 0]
    return weights.left[0, pair]


def pair_terms(model: CTRModel, e: Tensor, kind: str) -> list[Tensor]:
    return [(e[0, :, a] @ _scale(model, kind, p)) * e[0, :, b] for p, (a, b) in enumerate(PAIRS)]


def fm_like(kind: str) -> Reference:
    return lambda model, e: sum(pair_terms(model, e, kind)).sum(1)


def product_network(kind: str) -> Reference:
    def logits(model: CTRModel, e: Tensor) -> Tensor:
        products = [term.sum(1, keepdim=True) for term in pair_terms(model, e, kind)]
        return head(model.towers[0], torch.cat([*(e[0, :, i] for i in range(FIELDS)), *products], 1))

    return logits


def fibinet(kind: str) -> Reference:
    return lambda model, e: head(model.towers[0], torch.cat(pair_terms(model, e, kind), 1))


def full_fibinet(model: CTRModel, e: Tensor) -> Tensor:
    plain, excited = model.towers[0].interactions
    senet, terms = excited.transforms[0], []
    for row in e[0]:
        squeezed = torch.stack([row[i].mean() for i in range(FIELDS)])
        weights = ((squeezed @ senet.down.weight[0]).clamp(min=0) @ senet.up.weight[0]).clamp(min=0)
        halves = [(plain, row), (excited.interaction, torch.stack([weights[i] * row[i] for i in range(FIELDS)]))]
        matrices = [(x, network.stack.function.weights.left[0]) for network, x in halves]
        terms.append(torch.cat([(x[a] @ w[p]) * x[b] for x, w in matrices for p, (a, b) in enumerate(PAIRS)]))
    return head(model.towers[0], torch.stack(terms))


def ffm(model: CTRModel, e: Tensor) -> Tensor:
    v = e[0].reshape(e.shape[1], FIELDS, FIELDS - 1, -1)
    partners = [[b for b in range(FIELDS) if b != a] for a in range(FIELDS)]
    return sum((v[:, a, partners[a].index(b)] * v[:, b, partners[b].index(a)]).sum(1) for a, b in PAIRS)


def gwpfm_vector(model: CTRModel, e: Tensor) -> Tensor:
    v, r = e[0].reshape(e.shape[1], FIELDS, max(GROUPS) + 1, -1), _function(model).weights.left[0]
    g = GROUPS
    return sum((r[g[a], g[b]] + r[g[b], g[a]]) / 2 * v[:, a, g[b]] * v[:, b, g[a]] for a, b in PAIRS)


def anova(x: Tensor, order: int) -> Tensor:
    """(batch fields dim): the sum over increasing tuples, by enumeration."""
    return sum(torch.stack([x[:, i] for i in t]).prod(0) for t in combinations(range(x.shape[1]), order))


def cin_layers(model: CTRModel, e: Tensor) -> Tensor:
    x0, x, pooled = e[0], e[0], []
    for layer in model.towers[0].interactions[0].stack.layers:
        width, sources = layer.weight.shape[1:3]
        maps = []
        for n in range(width):
            products = [layer.weight[0, n, h, m] * x[:, h] * x0[:, m] for h in range(sources) for m in range(FIELDS)]
            maps.append(sum(products) + (0 if layer.bias is None else layer.bias[0, n]))
        x = torch.stack(maps, 1)
        x = x.clamp(min=0) if layer.activation == "relu" else x
        pooled.append(x.sum(2))
    return head(model.towers[0], torch.cat(pooled, 1))


def _matrix(function: object) -> Tensor:
    """W of y = W x (rows are outputs), built block by block."""
    dim, weight = function.dim, function.weights
    size = FIELDS * dim
    if weight is None:
        return (function.inward[0] @ function.outward[0]).T
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for a in range(FIELDS):
        for b in range(FIELDS):
            matrix[b * dim : (b + 1) * dim, a * dim : (a + 1) * dim] = weight.left[0, a, :, b].T
    return matrix


def cross(kind: str) -> Callable[[CTRModel, Tensor], Tensor]:
    def last(model: CTRModel, e: Tensor) -> Tensor:
        rows = []
        for row in e[0]:
            x0 = x = row.reshape(-1)
            for layer in model.towers[0].interactions[0].stack.layers:
                x = _cross_layer(kind, layer, x0, x)
            rows.append(x)
        return torch.stack(rows)

    return last


def _cross_layer(kind: str, layer: object, x0: Tensor, x: Tensor) -> Tensor:
    if kind == "v1":
        return x0 * (layer.function.inward[0, :, 0] @ x) + layer.bias[0].reshape(-1) + x
    w = _matrix(layer.function)
    b = layer.bias[0].reshape(-1)
    if kind == "finalnet":
        h1, h2 = w @ x + b, _matrix(layer.mapped) @ x + layer.mapped_bias[0].reshape(-1)
        return h2 + h1 * h2
    gate = torch.sigmoid(_matrix(layer.gate) @ x) if kind == "gated" else 1.0
    return x0 * (w @ x + b) * gate + x


def crossed(kind: str, *, parallel: bool = False) -> Reference:
    def logits(model: CTRModel, e: Tensor) -> Tensor:
        out = head(model.towers[0], cross(kind)(model, e))
        return out + deep(model.towers[1], e) if parallel else out

    return logits


def pfl(model: CTRModel, e: Tensor) -> Tensor:
    network = model.towers[0].interactions[0]
    terms, layers = [e[0, :, i] for i in range(FIELDS)], [e[0]]
    for layer in network.stack.layers:
        w = layer.function.weights.left[0]
        new = [sum(terms[j] @ w[j, :, i] for j in range(FIELDS)) for i in range(FIELDS)]
        if layer.bias is not None:
            new = [term + layer.bias[0, i] for i, term in enumerate(new)]
        new = [term * e[0, :, i] for i, term in enumerate(new)]
        if layer.pooling.residual == "previous":
            new = [term + old for term, old in zip(new, terms, strict=True)]
        terms = new
        layers.append(torch.stack(new, 1))
    config = network.aggregator.config
    scaled = [alpha[0] * layer for alpha, layer in zip(network.aggregator.weights, layers, strict=True)]
    h = torch.cat(scaled, 1) if config.combine == "concat" else sum(scaled)
    return head(model.towers[0], h.flatten(1))


def _plus_deep(reference: Reference) -> Reference:
    return lambda model, e: reference(model, e) + deep(model.towers[1], e)


REFERENCES: dict[str, Reference] = {
    "fm": fm_like("naive"),
    "fwfm": fm_like("number"),
    "fwfm_vector": fm_like("number"),
    "fvfm": fm_like("diagonal"),
    "fmfm": fm_like("matrix"),
    "fmfm_rank": fm_like("low rank"),
    "ffm": ffm,
    "gwpfm": lambda model, e: head(model.towers[0], gwpfm_vector(model, e)),
    "gwpfm_sum": lambda model, e: gwpfm_vector(model, e).sum(1),
    "hofm": lambda model, e: sum(anova(e[order - 2], order) for order in (2, 3, 4)).sum(1),
    "hofm_tied": lambda model, e: sum(anova(e[0], order) for order in (2, 3, 4)).sum(1),
    "deepim": lambda model, e: head(model.towers[0], torch.cat([anova(e[0], order) for order in (2, 3, 4)], 1)),
    "nfm": lambda model, e: head(model.towers[0], anova(e[0], 2)),
    "ipnn": product_network("naive"),
    "opnn_mat": product_network("matrix"),
    "opnn_vec": product_network("diagonal"),
    "opnn_num": product_network("number"),
    "fibinet_all": fibinet("all"),
    "fibinet_each": fibinet("source"),
    "fibinet_pair": fibinet("matrix"),
    "fibinet": full_fibinet,
    "cin": cin_layers,
    "cin_relu": cin_layers,
    "xdeepfm": _plus_deep(cin_layers),
    "crossnet": crossed("v1"),
    "dcn": crossed("v1", parallel=True),
    "crossnet_v2": crossed("v2"),
    "dcn_v2": crossed("v2", parallel=True),
    "dcn_v2_stacked": crossed("v2"),
    "dcn_v2_rank": crossed("v2", parallel=True),
    "gdcn": crossed("gated"),
    "gdcn_parallel": crossed("gated", parallel=True),
    "finalnet_product": crossed("finalnet"),
    "dnn": lambda model, e: deep(model.towers[0], e),
    "wide_deep": lambda model, e: deep(model.towers[0], e),
    "deepfm": _plus_deep(fm_like("naive")),
    "pfl": pfl,
    "pfl_term": pfl,
    "pfl_dim": pfl,
}
