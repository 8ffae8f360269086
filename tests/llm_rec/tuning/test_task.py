"""Gradient caching gives the gradients of the whole batch, under dropout too; neighbours are ranked by cosine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from llm_rec.encoders import Adapter, LoRAConfig, build_encoder
from llm_rec.metrics.ranking import Retriever
from llm_rec.training import Task
from llm_rec.tuning import (
    InfoNCEConfig,
    NeighbourRetriever,
    PairBatches,
    PairsConfig,
    PairTask,
    ViewsConfig,
    neighbour_metrics,
)
from llm_rec.tuning.batches import text_groups
from llm_rec.tuning.neighbours import CatalogVectors

PAIRS = PairsConfig(batch_size=10, steps=2, tokens_per_chunk=40, views=ViewsConfig())
BOTH = pytest.mark.parametrize("kind", ["sentence", "causal"])


def make_task(config, dropout: float, *, cached: bool = True) -> PairTask:
    encoder = build_encoder(config, "cpu")
    torch.manual_seed(0)
    adapter = Adapter(encoder, LoRAConfig(rank=2, dropout=dropout), base_name="tiny")
    with torch.no_grad():
        for value in adapter.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return PairTask(encoder, adapter, InfoNCEConfig(temperature=0.2, tile=4), cached=cached)


def gradients(task: PairTask, batch, *, train: bool) -> tuple[float, dict[str, Tensor]]:
    task.module.train(train)
    task.module.zero_grad()
    torch.manual_seed(5)
    loss = task.loss(batch).total
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in task.module.named_parameters()}


@BOTH
def test_cached_gradients_under_dropout_are_those_of_the_uncached_batch(kind, request, catalog, split) -> None:
    task = make_task(request.getfixturevalue(kind), dropout=0.3)
    assert isinstance(task, Task)
    batch = PairBatches(catalog, split, task.encoder, PAIRS, seed=0).batch(1, 0)
    assert len(batch.chunks) > 2
    cached, own = gradients(task, batch, train=True)
    task.cached = False
    uncached, expected = gradients(task, batch, train=True)
    assert cached == uncached
    for name, value in expected.items():
        torch.testing.assert_close(own[name], value, atol=1e-7, rtol=1e-5)
    assert all(value.abs().sum() > 0 for value in own.values())


@BOTH
def test_without_dropout_they_are_those_of_one_forward_pass_over_all_texts(kind, request, catalog, split) -> None:
    task = make_task(request.getfixturevalue(kind), dropout=0.0)
    sources = [
        PairBatches(catalog, split, task.encoder, replace(PAIRS, tokens_per_chunk=size), seed=0) for size in (40, 9999)
    ]
    chunked, whole = (source.batch(1, 0) for source in sources)
    assert len(whole.chunks) == 1
    (loss, own), (expected_loss, expected) = (gradients(task, b, train=False) for b in (chunked, whole))
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(own[name], value, atol=1e-5, rtol=1e-3)


def test_caching_keeps_no_activation_of_a_chunk_until_it_is_computed_again(sentence, catalog, split) -> None:
    task = make_task(sentence, dropout=0.1)
    batch = PairBatches(catalog, split, task.encoder, PAIRS, seed=0).batch(1, 0)
    task.module.train()

    def kept(loss_of) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_of(batch)
        return sum(sizes)

    cached = kept(task.loss)
    task.cached = False
    assert cached < kept(task.loss) / 10


def test_the_loss_weighs_as_many_examples_as_there_are_pairs(sentence, catalog, split) -> None:
    task = make_task(sentence, dropout=0.0)
    step = task.loss(PairBatches(catalog, split, task.encoder, PAIRS, seed=0).batch(1, 0))
    assert step.weight == 10.0
    assert step.parts["loss"].item() == step.total.item()


def test_vectors_of_a_catalog_are_those_of_its_texts_and_zero_without_one(sentence, catalog) -> None:
    encoder = build_encoder(sentence, "cpu")
    vectors = CatalogVectors(catalog, encoder, text_groups(catalog))()
    assert vectors.shape == (49, 32)
    np.testing.assert_allclose(vectors[1:48], encoder.encode(catalog.texts[:47]), atol=1e-5)
    assert not vectors[[0, 48]].any()
    np.testing.assert_array_equal(vectors[1], vectors[47])
    wanted = np.zeros(49, dtype=bool)
    wanted[[3, 48]] = True
    some = CatalogVectors(catalog, encoder, text_groups(catalog), wanted)()
    np.testing.assert_allclose(some[3], vectors[3], atol=1e-5)
    assert np.flatnonzero(some.any(axis=1)).tolist() == [3]


def test_recall_of_neighbours_equals_a_loop_over_targets(split) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(49, 6)).astype(np.float32)
    vectors[0] = 0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    log, hits = split.log, []
    for event in split.test.tolist():
        user = int(log.users_of(np.array([event]))[0])
        cosines = unit @ unit[log.items[event - 1]]
        cosines[[0, *log.items[log.offsets[user] : event].tolist()]] = -np.inf
        hits.append((cosines > cosines[log.items[event]]).sum() < 10)
    assert isinstance(NeighbourRetriever(vectors), Retriever)
    assert neighbour_metrics(vectors, split, "test")["recall@10"] == pytest.approx(np.mean(hits))
