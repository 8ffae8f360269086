"""The losses of arXiv 2403.14144 as loops over rows, pairs and lists, for double precision."""

import torch


def mean(terms, zero):
    return sum(terms) / len(terms) if terms else zero


def members(labels, groups):
    """(positives, negatives) of every list, as row numbers."""
    groups = [0] * len(labels) if groups is None else groups.tolist()
    for group in sorted(set(groups)):
        rows = [row for row, other in enumerate(groups) if other == group]
        yield [r for r in rows if labels[r] == 1], [r for r in rows if labels[r] == 0]


def bce(s, y, w=1.0):
    terms = [
        -(w * y[b] * torch.sigmoid(s[b]).log() + (1 - y[b]) * (1 - torch.sigmoid(s[b])).log()) for b in range(len(s))
    ]
    return sum(terms) / len(s)


def focal(s, y, gamma, w=1.0):
    p = torch.sigmoid(s)
    negatives = [j for j in range(len(s)) if y[j] == 0]
    shift = 1 - mean([p[j] ** gamma for j in negatives], 0.0)
    total = sum((p[j] ** gamma + shift) * -(1 - p[j]).log() for j in negatives)
    total = total + sum(w * (1 - p[i]) ** gamma * -p[i].log() for i in range(len(s)) if y[i] == 1)
    return total / len(s)


def pairwise(s, y, groups=None, reduction="pairs"):
    lists = [
        [(1 + (s[j] - s[i]).exp()).log() for i in positives for j in negatives]
        for positives, negatives in members(y, groups)
    ]
    if reduction == "groups":
        return mean([mean(pairs, 0.0) for pairs in lists if pairs], s.sum() * 0)
    return mean([pair for pairs in lists for pair in pairs], s.sum() * 0)


def listwise(s, y, groups=None, w=1.0, score=torch.exp):
    terms = []
    for positives, negatives in members(y, groups):
        if positives and negatives:
            below = sum(w * score(s[i]) for i in positives) + sum(score(s[j]) for j in negatives)
            terms += [-(score(s[i]) / below).log() for i in positives]
    return mean(terms, s.sum() * 0)


def jrc(z, y, groups=None, w=1.0):
    total = z.sum() * 0
    for positives, negatives in members(y, groups):
        if positives and negatives:
            for rows, column, weight in ((positives, 1, w), (negatives, 0, 1.0)):
                below = sum(w * z[i, column].exp() for i in positives) + sum(z[j, column].exp() for j in negatives)
                total = total - sum(weight * (z[b, column].exp() / below).log() for b in rows)
    return total / len(z)
