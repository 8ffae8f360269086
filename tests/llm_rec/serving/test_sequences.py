"""Served scores equal DARE's forward pass over the whole history, written here event by event in float64."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from ctr_models.sequences.cache import UserKeyCacheConfig
from ctr_models.sequences.key_storage import Storage
from ctr_models.sequences.separable import Scaling
from llm_rec.errors import ConfigError, DataError
from llm_rec.serving.sequences import AttentionParts, DecoupledTables, FoundEvents, SequenceServer

SIZES, K = (80, 9), 5


def tables(*, positions: bool = True, scaling: Scaling = "split") -> DecoupledTables:
    generator = torch.Generator().manual_seed(0)

    def drawn(rows: int, dim: int) -> Tensor:
        return torch.randn(rows, dim, generator=generator)

    attention, representation = tuple(drawn(n, 4) for n in SIZES), tuple(drawn(n, 6) for n in SIZES)
    if not positions:
        return DecoupledTables(attention, representation, scaling=scaling)
    return DecoupledTables(attention, representation, drawn(301, 3), drawn(301, 6), scaling)


def rows(length: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(1, n, (length,), generator=generator) for n in SIZES], 1)


def dare(given: DecoupledTables, candidates: Tensor, events: Tensor, k: int) -> Tensor:
    """[r_t, h, r_t * h] by the equations of the released code, one candidate and event at a time."""

    def vector(fields: tuple[Tensor, ...], positions: Tensor | None, ids: Tensor, place: int) -> tuple[Tensor, Tensor]:
        semantic = torch.cat([table[i].double() for table, i in zip(fields, ids.tolist(), strict=True)])
        return semantic, torch.zeros(0).double() if positions is None else positions[place].double()

    out = []
    for candidate in candidates:
        a_t, p_t = vector(given.attention, given.attention_positions, candidate, 0)
        r_t = torch.cat(vector(given.representation, given.representation_positions, candidate, 0))
        scores, values = [], []
        for column, event in enumerate(events):
            place = len(events) - column
            a, p = vector(given.attention, given.attention_positions, event, place)
            if given.scaling == "split":
                score = a @ a_t / math.sqrt(len(a)) + (p @ p_t / math.sqrt(len(p)) if len(p) else 0.0)
            else:
                score = (a @ a_t + p @ p_t) / math.sqrt(len(a) + len(p))
            scores.append(score)
            values.append(torch.cat(vector(given.representation, given.representation_positions, event, place)))
        best = sorted(range(len(events)), key=lambda i: (-float(scores[i]), -i))[:k]
        share = torch.stack([scores[i] for i in best]).softmax(0) if best else []
        h = sum((w * values[i] for w, i in zip(share, best, strict=True)), torch.zeros_like(r_t))
        out.append(torch.cat([r_t, h, r_t * h]))
    return torch.stack(out)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("scaling", get_args(Scaling))
@pytest.mark.parametrize("length", [0, 1, 3, 60])
def test_a_served_vector_is_that_of_the_full_forward_pass(positions: bool, scaling: Scaling, length: int) -> None:
    given = tables(positions=positions, scaling=scaling)
    server = SequenceServer(given, K, UserKeyCacheConfig(storage="float32", max_length=300))
    server.put("u", rows(length))
    candidates = rows(7, seed=2)
    found = given.vectors(candidates, server.find("u", candidates))
    wanted = dare(given, candidates, rows(length), K)
    assert (found.double() - wanted).abs().max() <= 1e-6 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("storage", get_args(Storage))
def test_appending_keeps_the_score_that_of_the_full_forward_pass(storage: Storage) -> None:
    given, candidates = tables(), rows(7, seed=2)
    server = SequenceServer(given, K, UserKeyCacheConfig(storage=storage, max_length=40))
    weight = torch.linspace(-1, 1, 54)
    server.put("u", rows(60)[:20])
    for done in range(20, 60, 8):
        assert server.append("u", rows(60)[done : done + 8])
        logits = server.score("u", candidates, lambda ids, found: given.vectors(ids, found) @ weight)
        wanted = dare(given, candidates, rows(60)[: done + 8][-40:], K) @ weight.double()
        torch.testing.assert_close(logits.double(), wanted, rtol=1e-6, atol=1e-5)


def test_what_was_found_reads_like_a_short_history() -> None:
    server = SequenceServer(tables(), K, UserKeyCacheConfig(max_length=300))
    server.put("long", rows(30))
    server.put("short", rows(3))
    found = server.find("long", rows(4, seed=2))
    assert (found.positions[:, :-1] > found.positions[:, 1:]).all()
    assert torch.equal(found.ids, rows(30)[30 - found.positions])
    few = server.find("short", rows(4, seed=2))
    assert few.positions.tolist() == [[0, 0, 3, 2, 1]] * 4
    assert torch.equal(few.ids[:, 2:], rows(3).expand(4, 3, 2))
    assert not few.ids[:, :2].any()
    assert not few.weights[:, :2].any()
    torch.testing.assert_close(few.weights.sum(1), torch.ones(4))


def test_removing_and_reordering_candidates_leaves_the_others_as_they_are() -> None:
    given = tables()
    server = SequenceServer(given, K, UserKeyCacheConfig(storage="float32", max_length=300))
    server.put("u", rows(50))
    candidates, order = rows(9, seed=2), torch.tensor([5, 0, 7])
    every, some = (given.vectors(ids, server.find("u", ids)) for ids in (candidates, candidates[order]))
    torch.testing.assert_close(some, every[order], rtol=0, atol=1e-6)


def test_plain_tables_have_what_search_needs() -> None:
    assert isinstance(tables(), AttentionParts)
    none = FoundEvents(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2).long(), torch.full((1, 2), -torch.inf))
    assert none.weights.tolist() == [[0.0, 0.0]]


def test_wrong_calls_say_what_to_do() -> None:
    server = SequenceServer(tables(), K, UserKeyCacheConfig(max_length=300, max_bytes=100))
    with pytest.raises(DataError, match="^user 'u' is not in the cache; put their events first$"):
        server.find("u", rows(2))
    with pytest.raises(
        DataError, match="^user 'u' needs 240 bytes but the cache may hold 100; raise max_bytes or lower"
    ):
        server.put("u", rows(10))
    server.put("u", rows(4))
    with pytest.raises(DataError, match="^user 'u' needs "):
        server.append("u", rows(3))
    assert not server.append("v", rows(1))
    with pytest.raises(ConfigError, match="^there are 300 positions but max_length is 301; set max_length to at most"):
        SequenceServer(tables(), K, UserKeyCacheConfig(max_length=301))
    with pytest.raises(ConfigError, match="^attention has tables of 2 fields but representation of 1; give all fields"):
        DecoupledTables(tables().attention, tables().representation[:1])
    with pytest.raises(ConfigError, match="^positions are in one role alone; give a table of positions for both, or"):
        DecoupledTables(tables().attention, tables().representation, torch.zeros(4, 3))
