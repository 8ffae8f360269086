"""Models of past events written down row by row and event by event, from the equations, in plain torch.

They read parameters by the names our models have, and nothing else of ours.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ITEMS = 23  # rows of items come first in a table


@dataclass(frozen=True, kw_only=True)
class Naive:
    """What a variant is: which tables it reads, its score, search, and what it gives."""

    tables: str = "shared"
    score: str = "split"
    search: str = "soft"
    position: str = "concat"
    k: int | None = 4
    features: tuple[str, ...] = ("target", "pooled", "product")
    softmax: bool = True
    auxiliary: bool = True
    released: bool = False
    dims: tuple[int, int, int] = (4, 4, 4)


def embed(given: dict[str, Tensor], table: str, item: int, category: int, place: int, variant: Naive) -> list[Tensor]:
    """Vectors of item, category and place."""
    prefix = f"sequence.events.{table}"
    found = {name[len(prefix) + 1 :]: value for name, value in given.items() if name.startswith(prefix + ".")}
    if "tables.1.embedding.weight" in found:  # item and category of different widths
        parts = [found["tables.0.embedding.weight"][item], found["tables.1.embedding.weight"][category]]
    else:
        weight = found["tables.0.embedding.weight"]
        parts = [weight[item], weight[ITEMS + category]]
    if variant.position == "none":
        return parts
    when = found["times.weight"][place]
    if variant.position == "add":
        return [torch.cat(parts) + when]
    return [*parts, when]


def vectors(given, variant: Naive, role: str, side: str, item: int, category: int, place: int) -> list[Tensor]:
    kind, own = variant.tables, {"attention": "attention", "representation": "representation"}[role]
    match kind:
        case "shared" | "projection":
            table = "representation.events"
        case "dare":
            table = f"{own}.events"
        case "three":
            table = f"attention.{side}" if role == "attention" else "representation.events"
        case "four":
            table = f"{own}.{side}"
    parts = embed(given, table, item, category, place, variant)
    if kind != "projection":
        return parts
    map_name = {
        ("attention", "target"): "query",
        ("attention", "events"): "key",
        ("representation", "target"): "target",
        ("representation", "events"): "event",
    }[role, side]
    weight = given[f"sequence.events.projections.{map_name}.weight"][0]
    return [part @ weight[number] for number, part in enumerate(parts)]


def score_of(given, variant: Naive, query: list[Tensor], key: list[Tensor]) -> Tensor:
    if variant.score == "mlp":
        q, k = torch.cat(query), torch.cat(key)
        hidden = torch.cat([q, k, q - k, q * k]) @ given["sequence.encoder.score.weight"][0]
        hidden = hidden + given["sequence.encoder.score.bias"][0]
        hidden = torch.where(hidden > 0, hidden, hidden * given["sequence.encoder.score.slopes.0.weight"][0])
        out = hidden @ given["sequence.encoder.score.layers.0.weight"][0]
        return (out + given["sequence.encoder.score.layers.0.bias"][0])[0] / len(q)
    if variant.score == "joint":
        q, k = torch.cat(query), torch.cat(key)
        return q @ k / math.sqrt(len(q))
    semantic = query[0] @ key[0] + query[1] @ key[1]
    time = query[2] @ key[2] / math.sqrt(len(query[2]))
    return semantic / math.sqrt(len(query[0]) + len(query[1])) + time


def pooled(given, variant: Naive, row: int, ids: Tensor, events: Tensor, *, every: bool) -> tuple[Tensor, Tensor]:
    """The candidate's representation, and the pooled one: of all events with `every`, else of those searched for."""
    item, category = (int(number) for number in ids[row])
    target = torch.cat(vectors(given, variant, "representation", "target", item, category, 0))
    query = vectors(given, variant, "attention", "target", item, category, 0)
    past = [(len(events[row]) - c, int(e[0]), int(e[1])) for c, e in enumerate(events[row]) if int(e[0]) != 0]
    scored = []
    for place, i, c in past:
        score = score_of(given, variant, query, vectors(given, variant, "attention", "events", i, c, place))
        scored.append((score, place, torch.cat(vectors(given, variant, "representation", "events", i, c, place)), c))
    if variant.search == "hard":
        scored.sort(key=lambda event: (event[3] != category, event[1]))
    else:
        scored.sort(key=lambda event: (-float(event[0].detach()), event[1]))
    if variant.k is not None and not every:
        scored = scored[: variant.k]
    if not scored:
        return target, torch.zeros_like(target)
    scores = torch.stack([event[0] for event in scored])
    weights = torch.exp(scores) / torch.exp(scores).sum() if variant.softmax else scores
    return target, sum(weight * event[2] for weight, event in zip(weights, scored, strict=True))


def batch_norm(given, name: str, x: Tensor) -> Tensor:
    normal = (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5)
    return normal * given[f"{name}.weight"][0] + given[f"{name}.bias"][0]


def head(given, name: str, bias: str, x: Tensor, activation: str) -> Tensor:
    if f"{name}.hidden.input_norm.weight" in given:
        x = batch_norm(given, f"{name}.hidden.input_norm", x)
    number = 0
    while f"{name}.hidden.layers.{number}.linear.weight" in given:
        layer = f"{name}.hidden.layers.{number}"
        x = x @ given[f"{layer}.linear.weight"][0] + given[f"{layer}.linear.bias"][0]
        x = x.sigmoid() if activation == "sigmoid" else torch.where(x > 0, x, x * given[f"{layer}.prelu.weight"])
        number += 1
    return x @ given[f"{name}.head.weight"][0] + given[bias]


def features(given, variant: Naive, ids: Tensor, events: Tensor, *, every: bool) -> Tensor:
    """What the head reads, a row for each candidate; batch statistics are those of the whole batch."""
    pairs = [pooled(given, variant, row, ids, events, every=every) for row in range(len(ids))]
    targets, sums = (torch.stack(side) for side in zip(*pairs, strict=True))
    if variant.released:
        sums = batch_norm(given, "sequence.encoder.norm", sums)
        sums = sums @ given["sequence.encoder.dense.weight"][0] + given["sequence.encoder.dense.bias"][0]
        sums = sums * torch.tensor([[float(bool((row[:, 0] != 0).any()))] for row in events])
    named = {"target": targets, "pooled": sums, "product": targets * sums}
    return torch.cat([named[name] for name in variant.features], 1)


def logits(given, variant: Naive, ids: Tensor, events: Tensor) -> tuple[Tensor, Tensor | None]:
    """Of both heads; `ids` and `events` hold item and category."""
    activation = "sigmoid" if variant.released else "prelu"
    main = head(given, "towers.0", "bias", features(given, variant, ids, events, every=False), activation)
    if variant.released:
        for row, (item, category) in enumerate(ids.tolist()):
            weight = given["linear.vectors.sources.0.embedding.weight"]
            added = weight[item] + weight[ITEMS + category]
            main = main + torch.nn.functional.one_hot(torch.tensor(row), len(ids)).unsqueeze(1) * added
    if not variant.auxiliary:
        return main, None
    full = features(given, variant, ids, events, every=True)
    return main, head(given, "auxiliary.0", "auxiliary_bias", full, activation)


def loss(given, variant: Naive, ids: Tensor, events: Tensor, labels: Tensor, l2: float = 0.0) -> Tensor:
    """Cross-entropies of both heads, and the squares of weights that are neither biases nor embeddings."""
    total = torch.zeros(())
    for found in logits(given, variant, ids, events):
        if found is not None:
            total = total + torch.nn.functional.cross_entropy(found, labels.long())
    embeddings = ("sequence.events.representation", "sequence.events.attention", "linear")
    for name, value in given.items():
        if not name.endswith("bias") and not name.startswith(embeddings):
            total = total + l2 * value.square().sum()
    return total
