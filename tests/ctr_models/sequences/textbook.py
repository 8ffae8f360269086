"""Attention written out event by event: what the encoders of past events are compared with."""

import torch


def softmax(numbers):
    powers = [(number - max(numbers)).exp() for number in numbers]
    return [power / sum(powers) for power in powers]


def heads_of(attention, table):
    """(query, key, value) matrices of each head, and the output matrix."""
    size = attention.head_dim
    for head in range(attention.heads):
        query = attention.query.weight[table][:, head * size : (head + 1) * size]
        yield query, attention.key[table][:, head], attention.value[table][:, head]


def head_scores(attention, table, target, events, biases=None):
    """Scores of every event, a list a head."""
    inherent = attention.key_width
    everything = []
    for number, (query, key, _) in enumerate(heads_of(attention, table)):
        scores = [(target[:inherent] @ query) @ (event[:inherent] @ key) / attention.head_dim**0.5 for event in events]
        if biases is not None:
            scores = [score + biases[number][place] for place, score in enumerate(scores)]
        everything.append(scores)
    return everything


def attend(attention, table, target, events, biases=None):
    """Multi-head target attention over `events`, every one of them projected; `biases` is a list a head."""
    if not len(events):
        return torch.zeros_like(target)
    results = []
    scores = head_scores(attention, table, target, events, biases)
    for (_, _, value), head in zip(heads_of(attention, table), scores, strict=True):
        weights = softmax(head)
        results.append(sum(weight * (event @ value) for weight, event in zip(weights, events, strict=True)))
    return torch.cat(results) @ attention.output.weight[table]


def outputs(attention, table, target, events, found, biases=None):
    """What `LongShortAttention` gives for one row, whose found events are named by number."""
    chosen = [events[number] for number in found]
    vectors = [attend(attention.long, table, target, chosen, biases)]
    if attention.short is not None:
        vectors.append(attend(attention.short, table, target, events[-attention.config.short_length :]))
    if attention.config.target_product:
        vectors += [vector * target for vector in vectors]
    return torch.stack(vectors)


def best(scores, top_k):
    """Numbers of the highest scores, the newest first among equals."""
    return sorted(range(len(scores)), key=lambda place: (-float(torch.as_tensor(scores[place]).detach()), -place))[
        :top_k
    ]
