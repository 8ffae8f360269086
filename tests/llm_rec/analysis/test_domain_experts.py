"""Correlation and CKA of experts against loops, effective experts, abundance of what a tail uses, entanglement."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr_models.domains.presets import PRESETS
from ctr_models.schema import RESERVED
from llm_rec.analysis.domain_experts import (
    analyse_domains,
    domain_abundance,
    expert_report,
    gate_entropy,
    interest_entanglement,
)
from llm_rec.analysis.spectrum import information_abundance
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.domain_evaluation import domain_numbers
from llm_rec.ctr.domain_method import build_domain_click_model
from llm_rec.errors import ConfigError, DataError
from tests.llm_rec.ctr.domain_worlds import METHOD, mostly_slow, small, tiny_log


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tiny_log(tmp_path_factory.mktemp("experts"), tasks=("click", "like"))


def model_of(name, log, **settings):
    torch.manual_seed(0)
    return build_domain_click_model(replace(METHOD, model=replace(small(PRESETS[name]()), **settings)), log.schema)


def test_correlation_and_similarity_equal_loops_over_dimensions():
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(3, 50, 4, generator=generator)
    outputs[2, :, 1] = 5.0  # a dead unit
    found = expert_report(outputs)
    arrays = outputs.double().numpy()
    for p in range(3):
        for q in range(3):
            pairs = [
                abs(np.corrcoef(arrays[p, :, i], arrays[q, :, j])[0, 1])
                for i in range(4)
                for j in range(4)
                if (p, i) != (2, 1) and (q, j) != (2, 1)
            ]
            assert found.correlation[p, q] == pytest.approx(np.mean(pairs), abs=1e-9)
            x, y = (arrays[e] - arrays[e].mean(0) for e in (p, q))
            cka = np.sum((x.T @ y) ** 2) / np.sqrt(np.sum((x.T @ x) ** 2) * np.sum((y.T @ y) ** 2))
            assert found.similarity[p, q] == pytest.approx(cka, abs=1e-9)
    np.testing.assert_allclose(found.deviation, arrays.std(1).mean(1), atol=1e-12)
    assert found.dead.tolist() == [0, 0, 0.25]
    assert found.means()["dead"] == pytest.approx(0.25 / 3)


def test_a_domain_without_rows_has_no_weights(log):
    numbers = domain_numbers(log.schema, log.part("test"))
    found = analyse_domains(model_of("mmoe", log), log, max_rows=2)
    seen = np.isin(np.arange(3), numbers[:2])
    assert not seen.all()
    assert np.isfinite(found.gates[seen]).all()
    assert np.isnan(found.gates[~seen]).all()


def test_equal_experts_are_alike_and_a_rotation_does_not_hide_it():
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    found = expert_report(
        torch.stack([rows, rows @ turn, torch.randn(200, 6, generator=torch.Generator().manual_seed(3))])
    )
    assert found.similarity[0, 1] == pytest.approx(1.0, abs=1e-4)
    assert found.similarity[0, 2] < 0.2
    with pytest.raises(DataError, match="correlations need at least two rows, got 1"):
        expert_report(rows[None, :1])


def test_entropy_counts_experts():
    weights = torch.tensor([[[0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]]])
    torch.testing.assert_close(gate_entropy(weights).exp(), torch.tensor([[4.0, 1.0]], dtype=torch.float64))


def test_effective_experts_are_means_over_the_rows_of_a_domain(log):
    model = model_of("mmoe", log)
    found = analyse_domains(model, log)
    columns = log.part("test")
    with torch.no_grad():
        weights = model.eval().gate_weights(to_batch(columns))[0].double()
    number = torch.exp(-(weights * weights.log()).sum(-1)).numpy()
    numbers = domain_numbers(log.schema, columns)
    expected = [number[numbers == domain].mean() for domain in range(3)]
    np.testing.assert_allclose(found.effective_experts, expected, rtol=1e-9)
    means = [weights.numpy()[numbers == domain].mean(0) for domain in range(3)]
    np.testing.assert_allclose(found.gates, means, rtol=1e-9)
    assert found.means()["effective_experts"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("name", mostly_slow([*PRESETS], "mmoe", "star", "crocodile", "scenario_hmoe", "stem"))
def test_every_model_is_analysed(log, name):
    model = model_of(name, log)
    found = analyse_domains(model, log)
    assert len(found.abundance) == 3
    assert np.isfinite(list(found.means().values())).all()
    assert found.names == (log.schema.labels if model.config.by == "task" else ("d0", "d1", "d2"))
    if found.effective_experts is not None:
        assert (found.effective_experts >= 1).all()
        np.testing.assert_allclose(found.gates.sum(1), 1.0, atol=1e-5)
        assert len(found.gates) == len(found.names)


def test_abundance_of_a_tail_is_that_of_the_values_its_rows_use(log):
    model = model_of("mmoe", log)
    table = next(module for module in model.body.sources[0].modules() if hasattr(module, "embedding"))
    train = log.part("train")
    rows = train.ids[domain_numbers(log.schema, train) == 2]
    expected = []
    for name in ("user", "item", "segment"):
        values, counts = np.unique(rows[:, log.schema.id_columns[name]], return_counts=True)
        kept = [value for value in values[counts >= 2].tolist() if value >= RESERVED]
        weight = table.embedding.weight.detach()[table.rows[name].start + np.array(kept)]
        expected.append(information_abundance(np.linalg.svd(weight.double().numpy(), compute_uv=False)))
    assert domain_abundance(model, log, 2, min_count=2)[0] == pytest.approx(np.mean(expected), rel=1e-4)


def test_tables_that_follow_a_task_put_its_pairs_nearer(log):
    model = model_of("mmoe", log, by="task")
    found = interest_entanglement(model, log, user="user", item="item")
    assert found.tasks == ("click", "like")
    assert found.distances.shape == (1, 3)
    columns = log.part("test")
    source = model.body.sources[0]
    vectors = source(to_batch(columns))[0].detach()
    distance = 1 - torch.nn.functional.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1).numpy()
    click, like = columns.labels.astype(bool).T
    for place, kind in enumerate((click & ~like, like & ~click, click & like)):
        assert found.distances[0, place] == pytest.approx(distance[kind].mean(), abs=1e-6)
    first, second = distance[click & ~like][:, None], distance[like & ~click]
    wins = (first < second).mean() + (first == second).mean() / 2
    assert found.order[0] == pytest.approx(wins, abs=1e-3)
    with pytest.raises(ConfigError, match="the log has no field 'shop'; its fields are user, item, segment, domain"):
        interest_entanglement(model, log, user="shop", item="item")
    with pytest.raises(ConfigError, match=r"the log has 2 labels, and entanglement compares two tasks; got \(0, 2\)"):
        interest_entanglement(model, log, user="user", item="item", tasks=(0, 2))
