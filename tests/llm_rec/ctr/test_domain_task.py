"""Losses by domain and task against loops, their weights, the gradient that a row gives, and figures of validation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr_models.domains.presets import PRESETS
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.d_train import DTrainConfig
from llm_rec.ctr.domain_evaluation import domain_names, domain_numbers, score_units, unit_rows, validation_figures
from llm_rec.ctr.domain_method import build_domain_click_model, domain_groups
from llm_rec.ctr.domain_task import DomainTask, row_loss
from llm_rec.errors import ConfigError
from llm_rec.metrics.classification import auc
from llm_rec.training.groups import optimizer_groups
from tests.llm_rec.ctr.domain_worlds import METHOD, OWN_HEADS, small, tiny_log


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tiny_log(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return tiny_log(tmp_path_factory.mktemp("tasks"), tasks=("click", "like"))


def model_of(method, log, seed=0):
    torch.manual_seed(seed)
    return build_domain_click_model(method, log.schema)


def batch_of(log, rows=slice(0, 40)):
    return to_batch(log.part("train").select(rows))


@pytest.mark.parametrize("weighting", ["sample", "domain_sum", "macro"])
def test_a_weighting_is_the_mean_of_rows_or_of_domains(weighting):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(30, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.randint(2, (30,), generator=generator).double()
    domains = torch.randint(3, (30,), generator=generator)  # of five domains two have no row
    found = row_loss(weighting, logits, labels, domains, 5)
    terms = -(labels * logits.sigmoid().log() + (1 - labels) * (-logits).sigmoid().log())
    by_domain = [terms[domains == domain].mean() for domain in range(3)]
    expected = {"sample": terms.mean(), "domain_sum": sum(by_domain), "macro": sum(by_domain) / 5}[weighting]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", OWN_HEADS)
def test_a_row_gives_gradient_to_the_head_of_its_domain_and_the_backbone_alone(log, name):
    model = model_of(replace(METHOD, model=small(PRESETS[name]())), log)
    numbers = domain_numbers(log.schema, log.part("train"))
    for domain in range(3):
        model.zero_grad()
        DomainTask(model).loss(to_batch(log.part("train").select(np.flatnonzero(numbers == domain)))).total.backward()
        for parameter in model.head_parameters():
            norms = parameter.grad.flatten(1).norm(dim=1)
            assert norms[[other for other in range(3) if other != domain]].eq(0).all()
            assert norms[domain] > 0
        assert any(p.grad is not None and p.grad.norm() > 0 for p in model.backbone_parameters())


def test_the_loss_of_tasks_adds_up_and_weighs_the_labels(tasks):
    method = replace(METHOD, model=replace(METHOD.model, by="task"))
    model, batch = model_of(method, tasks), batch_of(tasks)
    terms = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels, reduction="none").mean(0)
    plain = DomainTask(model).loss(batch)
    weighted = DomainTask(model, task_weights=(0.5, 2.0)).loss(batch)
    torch.testing.assert_close(plain.total, terms.sum())
    torch.testing.assert_close(weighted.total, 0.5 * terms[0] + 2 * terms[1])
    assert plain.weight == 40.0


@pytest.mark.parametrize(
    ("name", "tables"), [*((name, "lazy_adam") for name in PRESETS), ("ple", "rowwise_adagrad"), ("ple", "dense")]
)
def test_every_parameter_is_in_one_group_and_tables_have_their_decay(log, name, tables):
    method = replace(METHOD, model=small(PRESETS[name]()), tables=tables, embedding_l2=0.3, decay_biases=False)
    model = model_of(method, log)
    groups = optimizer_groups(model, lambda module: domain_groups(method, module), weight_decay=0.0, learning_rate=1.0)
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.3 for p in group["params"]}
    assert decayed == {id(parameter) for parameter in model.table_parameters()}
    kinds = {group["optimizer"] for group in groups if any(id(p) in decayed for p in group["params"])}
    assert kinds == {tables}


def test_scores_by_domain_are_those_of_the_rows_of_the_domain(log):
    model, columns = model_of(METHOD, log), log.part("test")
    found = score_units(model, log, columns, "domain", batch_size=50)
    assert found.names == domain_names(log) == ("d0", "d1", "d2")
    with torch.no_grad():
        expected = model.eval()(to_batch(columns))[:, 0].double().numpy()
    np.testing.assert_allclose(found.logits, expected, atol=1e-6)
    figures = validation_figures(found.metrics(), "domain")
    by_domain = [auc(expected[found.units == d], columns.labels[found.units == d, 0]) for d in range(3)]
    assert figures["macro_auc"] == pytest.approx(np.mean(by_domain), abs=1e-3)
    assert figures["worst_auc"] == min(figures[f"auc/{name}"] for name in found.names)
    assert {"weighted_auc", "pooled_auc", "macro_gauc", "-macro_log_loss", "-worst_log_loss"} <= set(figures)


def test_scores_of_tasks_lie_flat_a_row_once_for_each_task(tasks):
    outputs = np.arange(2.0 * len(tasks.part("test"))).reshape(-1, 2)
    found = unit_rows(outputs, tasks, tasks.part("test"), "task")
    np.testing.assert_array_equal(found.logits[found.units == 1], outputs[:, 1])
    np.testing.assert_array_equal(found.labels[found.units == 1], tasks.part("test").labels[:, 1])
    np.testing.assert_array_equal(found.groups[found.units == 0], tasks.part("test").groups)
    assert found.names == ("click", "like")
    assert "pooled_auc" not in validation_figures(found.metrics(), "task")


def test_methods_that_mean_nothing_are_refused(log, tasks):
    by_task = replace(METHOD.model, by="task")
    with pytest.raises(ConfigError, match="d_train and weighting are for domains; leave them out for tasks"):
        replace(METHOD, model=by_task, weighting="macro")
    with pytest.raises(ConfigError, match=r"d_train makes a root head and splits it; set model.heads to 'own'"):
        replace(METHOD, model=replace(METHOD.model, heads="root"), d_train=DTrainConfig())
    with pytest.raises(ConfigError, match="task_weights are for tasks; set model.by to 'task', or leave them out"):
        replace(METHOD, task_weights=(1.0, 1.0))
    with pytest.raises(ConfigError, match="task_weights has 3 numbers, but the log has 2 labels; give each label one"):
        model_of(replace(METHOD, model=by_task, task_weights=(1.0, 1.0, 1.0)), tasks)
    bare = replace(log.schema, domain=None)
    with pytest.raises(ConfigError, match=r"the log has no domain; encode it with one, or set method.model.by to"):
        build_domain_click_model(METHOD, bare)
