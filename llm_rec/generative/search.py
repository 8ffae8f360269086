"""Beam search that admits only items that exist, and free beam search that counts what does not.

All beams of all users take a step together: one decoder step with kept keys and values, one look into the trie, one
top-k. Nothing of it waits for the host.

Beam search finds the true best items when no prefix that leads to one was dropped. Log probabilities only add up to
less, so no item below a dropped prefix scores more than the prefix did: every search tells the best score it dropped
(`Found.bound`), and what it found above that is exact. A width of `exact_width` drops no prefix at all.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from llm_rec.generative.t5 import Decoding, Encoded
from semantic_ids.trie import NOWHERE, ROOT, CodeTrie


@runtime_checkable
class CodeWriter(Protocol):
    """What search asks of a model: `GenerativeModel` is one. `starts` is the token of code 0 of every book, `allowed`
    the tokens that each book may take."""

    starts: Int64[Tensor, " books"]
    allowed: Bool[Tensor, "books vocabulary"]

    @property
    def num_items(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def trie(self) -> CodeTrie: ...

    def encode(self, history: Int64[Tensor, "batch length"], users: Int64[Tensor, "batch"]) -> Encoded: ...

    def start(self, encoded: Encoded) -> Decoding: ...

    def next_codes(
        self, decoding: Decoding, tokens: Int64[Tensor, "rows"], book: int
    ) -> Float[Tensor, "rows vocabulary"]: ...

    def log_likelihood(
        self, encoded: Encoded, items: Int64[Tensor, "batch number"]
    ) -> Float[Tensor, "batch number"]: ...


class Found(NamedTuple):
    """Items of every user, best first; row 0 and score -inf where there are fewer.

    `bound`: no item that is not here scores more. So items that score more than it are exactly the best ones.
    """

    items: Int64[Tensor, "users beams"]
    scores: Float[Tensor, "users beams"]
    bound: Float[Tensor, " users"]


class Options(NamedTuple):
    """What each beam may go on with: nodes of the trie, tokens of the vocabulary, and whether there is one."""

    nodes: Int64[Tensor, "users beams width"]
    tokens: Int64[Tensor, "users beams width"]
    mask: Bool[Tensor, "users beams width"]


Expand = Callable[[int, Int64[Tensor, "users beams"]], Options]


@torch.no_grad()
def beam_search(
    model: CodeWriter,
    history: Int64[Tensor, "users length"],
    users: Int64[Tensor, "users"],
    *,
    beams: int,
    seen: Int64[Tensor, "users hidden"] | None = None,
) -> Found:
    """The best `beams` items of each history by log p(item | history), of those that exist and are not `seen`.

    `seen` are item rows, 0 for padding. Evaluation behaviour is the caller's: call `eval` first.
    """
    trie = model.trie
    hidden = None if seen is None else trie.excluded_leaves(seen)[:, None]

    def expand(book: int, nodes: Int64[Tensor, "users beams"]) -> Options:
        excluded = None if hidden is None else hidden.expand(-1, nodes.shape[1], -1)
        children = trie.children(book, nodes, excluded)
        return Options(children.nodes, children.codes + model.starts[book], children.mask)

    nodes, scores, bound = _search(model, model.encode(history, users), beams, expand)
    there = scores.gt(-torch.inf)
    return Found(trie.items_of(nodes) * there, scores, bound)


@torch.no_grad()
def free_beam_search(
    model: CodeWriter, history: Int64[Tensor, "users length"], users: Int64[Tensor, "users"], *, beams: int
) -> Int64[Tensor, "users beams"]:
    """What beam search writes without any constraint: item rows, best first, 0 for ids that no item has."""
    trie = model.trie
    everything = torch.arange(model.allowed.shape[1], device=model.device)

    def expand(book: int, nodes: Int64[Tensor, "users beams"]) -> Options:
        tokens = everything.expand(*nodes.shape, -1)
        reached = trie.step(book, nodes[..., None].expand_as(tokens), tokens - model.starts[book])
        return Options(reached, tokens, model.allowed[book].expand_as(tokens))

    nodes, _, _ = _search(model, model.encode(history, users), beams, expand)
    return trie.items_of(nodes)


@torch.no_grad()
def score_all(
    model: CodeWriter, history: Int64[Tensor, "users length"], users: Int64[Tensor, "users"], *, chunk: int = 256
) -> Float[Tensor, "users items_plus_one"]:
    """log p(item | history) of every item row (row 0: -inf), `chunk` items at a time: for small catalogs, and exact
    whatever the width of a search would have to be."""
    encoded = model.encode(history, users)
    rows = torch.arange(model.num_items + 1, device=model.device)
    parts = [model.log_likelihood(encoded, some.expand(len(history), -1)) for some in torch.split(rows, chunk)]
    return torch.cat(parts, 1)


def exact_width(trie: CodeTrie) -> int:
    """The width at which beam search drops no prefix: that of the widest level before the last.

    Search for k items is then exact whenever the width is at least k too.
    """
    return max((len(level.keys) for level in trie.levels[:-1]), default=1)


def _search(
    model: CodeWriter, encoded: Encoded, beams: int, expand: Expand
) -> tuple[Int64[Tensor, "users beams"], Float[Tensor, "users beams"], Float[Tensor, " users"]]:
    """Nodes of the last level, their scores, and the best score that was dropped on the way."""
    if beams < 1:
        raise ValueError(f"beams must be at least 1, got {beams}")
    users = len(encoded.mask)
    own = torch.arange(users, device=model.device)[:, None]
    nodes = torch.full((users, 1), ROOT, device=model.device)
    tokens = torch.zeros_like(nodes)
    scores = torch.zeros(users, 1, device=model.device)
    bound = torch.full((users,), -torch.inf, device=model.device)
    decoding = model.start(encoded)
    books = len(model.starts)
    for book in range(books):
        width = nodes.shape[1]
        options = expand(book, nodes)
        found = model.next_codes(decoding, tokens.flatten(), book).view(users, width, -1)
        totals = scores[..., None] + found.gather(-1, options.tokens)
        totals = totals.masked_fill(~options.mask, -torch.inf).flatten(1)
        kept = min(beams, totals.shape[1])
        best = totals.topk(min(kept + 1, totals.shape[1]), dim=1)
        if best.values.shape[1] > kept:
            bound = torch.maximum(bound, best.values[:, kept])
        scores, places = best.values[:, :kept], best.indices[:, :kept]
        there = scores.gt(-torch.inf)
        nodes = torch.where(there, options.nodes.flatten(1).gather(1, places), NOWHERE)
        tokens = options.tokens.flatten(1).gather(1, places)
        if book + 1 < books:
            parents = own * width + places // options.tokens.shape[-1]
            decoding.take(parents.flatten(), within_histories=kept == width)
    return nodes, scores, bound
