"""Every body row after row, head after head, expert after expert, from the parameters of a model."""

import torch

from ctr_models.batch import FeatureBatch
from ctr_models.domains.adasparse import AdaSparse
from ctr_models.domains.crocodile import Crocodile
from ctr_models.domains.hinet import HiNet
from ctr_models.domains.mixture import ExpertMixture
from ctr_models.domains.model import DomainModel
from ctr_models.domains.pepnet import PEPNet
from ctr_models.domains.scenario_hmoe import ScenarioHMoE
from ctr_models.domains.star import STAR
from ctr_models.domains.table_experts import HeteroMoE


def naive_logits(model: DomainModel, rows: FeatureBatch) -> torch.Tensor:
    """(batch, 1) by domain and (batch, tasks) by task."""
    found = [source(rows) for source in model.body.sources]
    domains = model.domains_of(rows).tolist()
    by_task = model.config.by == "task"
    batch = []
    for row, domain in enumerate(domains):
        vectors = [each[:, row] for each in found]
        heads = range(model.num_heads) if by_task else [domain]
        batch.append(torch.stack([one_logit(model, vectors, head, row, found, domains) for head in heads]))
    return torch.stack(batch)


def one_logit(model, vectors, head, row, found, domains):
    body, x = model.body, vectors[0].flatten(1)
    match body:
        case ExpertMixture():
            view = mixture(body, x, head)
        case STAR():
            return star(model, x[0], head, row, found, domains)
        case PEPNet():
            view = pepnet(body, vectors[0][0], head)
        case AdaSparse():
            view = adasparse(body, vectors[0][0])
        case HiNet():
            view = hinet(body, x[0], head)
        case ScenarioHMoE():
            return scenario_hmoe(model, x[0], head)
        case Crocodile():
            view = crocodile(model, vectors, head)
        case HeteroMoE():
            view = hetero(body, vectors, head)
    return of_set(model.heads.towers, head, view)[0]


def of_set(mlp, number, x):
    """Network `number` of a `HeadMLP`."""
    for layer in mlp.layers:
        x = (x @ layer.weight[number] + layer.bias[number]).relu()
    if mlp.last is None:
        return x
    out = x @ mlp.last.weight[number]
    return out if mlp.last.bias is None else out + mlp.last.bias[number]


def of_plain(mlp, number, x):
    """Set `number` of an `MLP`."""
    for layer in mlp.layers:
        x = (x @ layer.linear.weight[number] + layer.linear.bias[number]).relu()
    return x


def mixture(body, x, head):
    config, heads = body.config, body.setting.num_heads
    own, shared = config.num_specific, config.num_shared
    if config.tables == "one":
        inputs = {**{(h, c): x[0] for h in range(heads) for c in range(own)}, **dict.fromkeys(range(shared), x[0])}
        reads, common = dict.fromkeys(range(heads), x[0]), None
        both = x[0]
    elif config.tables == "head":
        inputs = {(h, c): x[h] for h in range(heads) for c in range(own)}
        reads, common = {h: x[h] for h in range(heads)}, x[heads] if shared else None
        inputs |= dict.fromkeys(range(shared), common)
        both = common
    else:
        inputs = {(h, c): x[h * own + c] for h in range(heads) for c in range(own)}
        inputs |= {s: x[heads * own + s] for s in range(shared)}
        both = sum(inputs[s] for s in range(shared)) if shared else None
        reads = {h: sum(inputs[h, c] for c in range(own)) if own else both for h in range(heads)}
        common = both if own else None
    for number, level in enumerate(body.levels):
        last = number == len(body.levels) - 1
        outputs = {(h, c): of_set(level.specific, h * own + c, inputs[h, c]) for h in range(heads) for c in range(own)}
        outputs |= {s: of_plain(level.shared, s, inputs[s]) for s in range(shared)}
        views = {}
        for h in [head] if last else range(heads):
            read = reads[h]
            if config.gate_reads == "own_and_shared" and common is not None:
                read = read + common
            views[h] = gated(config, level, h, read, outputs)
        if last:
            return views[head]
        gate = of_set(level.shared_gate, 0, both).softmax(0)
        keys = sorted(outputs, key=lambda key: (not isinstance(key, tuple), key if isinstance(key, tuple) else (key,)))
        both = common = sum(weight * outputs[key] for weight, key in zip(gate, keys, strict=True))
        reads = views
        inputs = {(h, c): views[h] for h in range(heads) for c in range(own)} | dict.fromkeys(range(shared), both)
    raise AssertionError("there is a last level")


def gated(config, level, head, read, outputs):
    """The experts a head sees: its own, then shared ones; or those of all heads, then shared ones."""
    seen = []
    for key, output in outputs.items():
        foreign = isinstance(key, tuple) and key[0] != head
        if foreign and (config.foreign == "hidden" or (config.main is not None and head != config.main)):
            seen.append(None)
        else:
            seen.append(output.detach() if foreign and config.foreign == "stopped" else output)
    if level.gate is None:
        return next(output for output in seen if output is not None)
    logits = of_set(level.gate, 0 if config.gates == "one" else head, read)
    if config.foreign == "hidden":
        seen = [output for output in seen if output is not None]
    kept = [place for place, output in enumerate(seen) if output is not None]
    weights = logits[kept].softmax(0)
    return sum(weight * seen[place] for weight, place in zip(weights, kept, strict=True))


def star(model, x, head, row, found, domains):
    body, heads = model.body, model.heads
    logit = 0.0 if body.auxiliary is None else of_set(body.auxiliary, 0, x)[0]
    if body.norm is not None:
        mean, var = body.norm.running_mean[head], body.norm.running_var[head]
        if body.training:
            mine = torch.stack([found[0][0, other].flatten() for other, own in enumerate(domains) if own == head])
            mean, var = mine.mean(0), mine.var(0, unbiased=False)
        x = (x - mean) / (var + 1e-5).sqrt()
        scale = heads.scale
        x = scale.weight[0] * scale.factor[head] * x + scale.bias[0] + scale.shift[head]
    for number, layer in enumerate(heads.layers):
        x = x @ (layer.weight[0] * layer.factor[head]) + layer.bias[0] + layer.shift[head]
        x = x if number == len(heads.layers) - 1 else x.relu()
    return x[0] + logit


def gate_nu(gate, head, x):
    hidden = of_set(gate.hidden, 0, x)
    return gate.gamma / (1 + (-of_set(gate.last, head, hidden)).exp())


def pepnet(body, fields, head):
    e = fields.flatten()
    o = gate_nu(body.embedding_gate, 0, torch.cat([fields[body.domain], e.detach()])) * e
    prior = torch.cat([*(fields[place] for place in body.prior), o.detach()])
    for tower, gate in zip(body.towers, body.tower_gates, strict=True):
        o = gate_nu(gate, head, prior) * of_set(tower, head, o)
    return o


def adasparse(body, fields):
    h = fields.flatten()
    for layer, pruner in zip(body.layers, body.pruners, strict=True):
        h = of_plain(layer, 0, h)
        v = torch.cat([h, fields[body.domain]]) @ pruner.weight[0] + pruner.bias[0]
        h = h * body.factors(v)
    return h


def hinet(body, x, head):
    def extracted(part, number):
        outputs = [of_set(part.experts, number * part.copies + copy, x) for copy in range(part.copies)]
        return sum(w * out for w, out in zip(of_set(part.gate, number, x).softmax(0), outputs, strict=True))

    heads = body.setting.num_heads
    scenarios = [extracted(body.scenarios, number) for number in range(heads)]
    others = [number for number in range(heads) if number != head]
    weights = torch.ones(len(others)) if body.attention is None else of_set(body.attention, head, x)[others].softmax(0)
    none = torch.zeros_like(scenarios[head])
    taken = sum((weight * scenarios[number] for weight, number in zip(weights, others, strict=True)), none)
    return torch.cat([extracted(body.common, 0), scenarios[head], taken])


def scenario_hmoe(model, x, head):
    body, heads = model.body, model.heads
    outputs = [of_plain(body.experts, number, x) for number in range(body.config.num_experts)]
    scores = []
    for other in range(model.num_heads):
        weights = of_set(body.gate, other, x).softmax(0)
        z = sum(weight * output for weight, output in zip(weights, outputs, strict=True))
        score = of_set(body.towers, other, z)
        scores.append(score if other == head else score.detach())
    weights = of_set(heads.gate, head, x).softmax(0)
    return sum(weight * score for weight, score in zip(weights, scores, strict=True))[0]


def crocodile(model, vectors, head):
    body, config = model.body, model.body.config
    tables = vectors[0].flatten(1)
    outputs = [of_plain(body.experts, p, tables[p if config.use_me else 0]) for p in range(config.num_experts)]
    context = vectors[1].flatten() if config.use_peg else tables.sum(0)
    if config.use_peg and config.stop_prior_gradient:
        context = context.detach()
    logits = of_set(model.heads.gate, head if config.gate_per_domain else 0, context).view(config.num_experts, -1)
    total = torch.zeros_like(outputs[0])
    for dimension in range(len(total)):
        own = logits[:, dimension if logits.shape[1] > 1 else 0]
        weights = own.exp() / own.exp().sum()
        mixed = sum(weight * output[dimension] for weight, output in zip(weights, outputs, strict=True))
        total = total.index_put((torch.tensor(dimension),), mixed)
    return total


def hetero(body, vectors, head):
    taken = [0] * len(vectors)
    outputs = []
    for experts, (place, count) in zip(body.experts, body.places, strict=True):
        for table in range(count):
            number, fields = table * experts.num_experts, vectors[place][taken[place] + table]
            alone = experts.interaction(fields.expand(count, *fields.shape).unsqueeze(1))[table, 0]
            outputs += [of_plain(experts.layers, number + copy, alone) for copy in range(experts.num_experts)]
        taken[place] += count
    side_by_side = torch.cat([each.flatten() for each in vectors])
    match body.config.merge:
        case "gate":
            weights = of_set(body.gate, head, side_by_side).softmax(0)
        case "static":
            weights = body.static[head].softmax(0)
        case "mean":
            weights = torch.full((len(outputs),), 1 / len(outputs))
        case "sum":
            weights = torch.ones(len(outputs))
    return sum(weight * output for weight, output in zip(weights, outputs, strict=True))
