"""Each preset outside the normal form written out row by row, reading the parameters of a model: slow references.

A reference takes a model and vectors (tables batch fields dim) to logits without linear part and bias.
"""

from itertools import combinations

import torch
from torch import Tensor, nn

from ctr_models.model import CTRModel


def _dense(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = torch.clamp(x @ layer.linear.weight[0] + layer.linear.bias[0], min=0)
    return x


def _branch(tower: nn.Module, x: Tensor) -> Tensor:
    hidden = x if tower.hidden is None else _dense(tower.hidden.layers, x)
    return (hidden * tower.head.weight[0, :, 0]).sum()


def _rows(vector):
    """The reference of a model whose interaction is `vector` of one row, with a deep branch where it has one."""

    def logits(model: CTRModel, e: Tensor) -> Tensor:
        cross, *deep = model.towers
        return torch.stack(
            [
                _branch(cross, vector(cross.interactions[0], row)) + sum(_branch(d, row.flatten()) for d in deep)
                for row in e[0]
            ]
        )

    return logits


def _normal(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def afm(module: nn.Module, row: Tensor) -> Tensor:
    products = [row[a] * row[b] for a, b in combinations(range(len(row)), 2)]
    hidden = [torch.clamp(p @ module.hidden.weight[0] + module.hidden.bias[0], min=0) for p in products]
    exponentials = [(h @ module.query.weight[0, :, 0]).exp() for h in hidden]
    return sum(x * p for x, p in zip(exponentials, products, strict=True)) / sum(exponentials)


def autoint(module: nn.Module, row: Tensor) -> Tensor:
    for layer in module.layers:
        query, key, value, residual = layer.project.weight[0].chunk(4, dim=1)
        size, fields = query.shape[1] // layer.num_heads, []
        for i in range(len(row)):
            heads = []
            for h in range(layer.num_heads):
                own = slice(h * size, (h + 1) * size)
                scores = [((row[i] @ query[:, own]) * (row[j] @ key[:, own])).sum().exp() for j in range(len(row))]
                heads.append(sum(s * (row[j] @ value[:, own]) for j, s in enumerate(scores)) / sum(scores))
            fields.append(torch.clamp(torch.cat(heads) + row[i] @ residual, min=0))
        row = torch.stack(fields)
    return row.flatten()


def eulernet(module: nn.Module, row: Tensor) -> Tensor:
    z = [m * torch.exp(1j * x) for m, x in zip(module.modulus[0, 0, :, 0], row, strict=True)]
    for layer in module.layers:
        linear = layer.implicit
        implicit = [
            torch.clamp(torch.cat(part) @ linear.weight[0] + linear.bias[0], min=0).view(-1, row.shape[1])
            for part in ([x.real for x in z], [x.imag for x in z])
        ]
        following = []
        for k in range(layer.orders.shape[2]):
            modulus = sum(
                0.5 * a * (x.abs().square() + 1e-8).log() for a, x in zip(layer.orders[0, :, k], z, strict=True)
            )
            angle = sum(a * x.angle() for a, x in zip(layer.orders[0, :, k], z, strict=True))
            modulus, angle = (modulus + layer.shift[0, 0, 0, k]).exp(), angle + layer.shift[0, 1, 0, k]
            parts = (modulus * angle.cos() + implicit[0][k], modulus * angle.sin() + implicit[1][k])
            scale, shift = layer.norm.weight[0, :, 0, 0], layer.norm.bias[0, :, 0, 0]
            parts = [_normal(x) * scale[p] + shift[p] for p, x in enumerate(parts)]
            following.append(torch.complex(*parts))
        z = following
    return torch.cat([x.real + x.imag for x in z])


def finalmlp(model: CTRModel, e: Tensor) -> Tensor:
    (tower,) = model.towers
    return torch.stack([_fused(tower, row) for row in e[0]])


def _fused(tower: nn.Module, row: Tensor) -> Tensor:
    x, y = (_stream(stream, row) for stream in (tower.first, tower.second))
    fusion = tower.fusion
    logit = (fusion.first[:, 0] * x).sum() + (fusion.second[:, 0] * y).sum()
    heads = zip(x.chunk(fusion.num_heads), y.chunk(fusion.num_heads), fusion.weight[0], strict=True)
    return logit + sum(left @ w @ right for left, right, w in heads)


def _stream(stream: nn.Module, row: Tensor) -> Tensor:
    if stream.gate is not None and stream.gate.network is None:
        row = row * 2 * _sigmoid(stream.gate.logits[0, 0])
    elif stream.gate is not None:
        hidden, last = stream.gate.network
        context = _dense(hidden.layers, torch.cat([row[i] for i in stream.gate.context]))
        row = row * 2 * _sigmoid(context @ last.weight[0] + last.bias[0]).view(row.shape)
    return _dense(stream.network.layers, row.flatten())


def finalnet(module: nn.Module, row: Tensor) -> Tensor:
    x = row.flatten()
    for layer in module.first.layers[::2]:  # a dropout after each
        u, v = (x @ layer.project.weight[0] + layer.project.bias[0]).chunk(2)
        x = torch.cat([u, u * v])
    return x


def mixture(module: nn.Module, row: Tensor) -> Tensor:
    start = x = row.flatten()
    for layer in module.layers:
        gates = (x @ layer.gate.weight[0]).softmax(0)
        downs = layer.down.weight[0].chunk(len(gates), dim=1)
        parts = [((x @ down).tanh() @ layer.inner[0, i]).tanh() @ layer.up[0, i] for i, down in enumerate(downs)]
        x = x + sum(g * start * (part + layer.bias[0, 0]) for g, part in zip(gates, parts, strict=True))
    return x


def xdeepint(module: nn.Module, row: Tensor) -> Tensor:
    x = row
    for weight in module.weight[0]:
        factors = [sum(weight[m, n] * row[m] for m in range(len(row))) for n in range(len(row))]
        x = torch.stack([x[n] * factors[n] + x[n] for n in range(len(row))])
    return x.sum(1)


def masknet(module: nn.Module, row: Tensor) -> Tensor:
    scale, shift = module.norm.weight[0, 0], module.norm.bias[0, 0]
    hidden = torch.cat([_normal(row[i]) * scale[i] + shift[i] for i in range(len(row))])
    for layer in (module.first, *module.rest):
        inner = torch.clamp(row.flatten() @ layer.down.weight[0] + layer.down.bias[0], min=0).chunk(layer.blocks)
        outs = []
        for n in range(layer.blocks):
            out = ((inner[n] @ layer.up[0, n] + layer.up_bias[0, 0, n]) * hidden) @ layer.weight[0, n]
            outs.append(torch.clamp(_normal(out) * layer.norm.weight[0, 0, n] + layer.norm.bias[0, 0, n], min=0))
        hidden = torch.cat(outs)
    return hidden


def edcn(module: nn.Module, row: Tensor) -> Tensor:
    bridge, start = row.flatten(), None
    for regulation, crossing, linear in zip(module.regulations, module.crosses, module.deeps, strict=True):
        gates = regulation.logits[0, :, 0].softmax(1).repeat_interleave(row.shape[1], dim=1)
        cross, deep = bridge * gates[0], bridge * gates[1]
        start = cross if start is None else start
        cross = start * (cross @ crossing.weight.weight[0, :, 0]) + crossing.bias[0, 0] + cross
        deep = torch.clamp(deep @ linear.weight[0] + linear.bias[0], min=0)
        bridge = cross * deep
    return torch.cat([cross, deep, bridge])


MODULE_REFERENCES = {
    "afm": _rows(afm),
    "autoint": _rows(autoint),
    "autoint_plus": _rows(autoint),
    "eulernet": _rows(eulernet),
    "finalmlp": finalmlp,
    "finalmlp_heads": finalmlp,
    "finalnet": _rows(finalnet),
    "crossnet_mix": _rows(mixture),
    "dcn_mix": _rows(mixture),
    "xdeepint": _rows(xdeepint),
    "masknet": _rows(masknet),
    "masknet_parallel": _rows(masknet),
    "edcn": _rows(edcn),
}
