"""D-Train (arXiv 2309.10302): a split that changes no score, a backbone that stands still, heads that know themselves
alone, kept features, the grid of phases, and resuming in the middle of each phase."""

import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr_models.domains.model import split_heads
from ctr_models.domains.presets import PRESETS
from ctr_models.layers import MLPConfig
from ctr_models.schema import RESERVED
from llm_rec.artifacts import read_json
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.d_train import PHASE_GRID, DTrainConfig
from llm_rec.ctr.domain_evaluation import domain_names, domain_numbers, score_units
from llm_rec.ctr.domain_heads import (
    HeadBatches,
    HeadRows,
    HeadTask,
    head_alone,
    head_figures,
    head_groups,
    own_names,
    put_head,
)
from llm_rec.ctr.domain_method import build_domain_click_model
from llm_rec.ctr.domain_training import RoutedDomains, train_domains
from llm_rec.ctr.planted_domains import write_domains
from llm_rec.errors import ConfigError
from llm_rec.metrics.classification import auc
from llm_rec.training.loop import Loop
from llm_rec.training.trainer import Trainer
from tests.llm_rec.ctr.domain_worlds import METHOD, OWN_HEADS, TINY, TRAINER, mostly_slow, small, tiny_log
from tests.llm_rec.ctr.domain_worlds import planted_domains as draw

LAST = replace(TRAINER, monitor="auc", weight_decay=0.1)
FEW = ("shared_bottom", "star", "pepnet", "crocodile")  # a body of each kind of head


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tiny_log(tmp_path_factory.mktemp("d_train"))


def method_of(name="mmoe", **plan):
    settings = {"last_trainer": LAST, **plan}
    return replace(METHOD, model=small(PRESETS[name]()), d_train=DTrainConfig(**settings))


def trained(method, log, **settings):
    return train_domains(method, log, seed=1, **settings)


def backbone(model):
    own = {id(parameter) for parameter in model.head_parameters()}
    named = {name: value for name, value in model.state_dict(keep_vars=True).items() if id(value) not in own}
    return {name: value.detach().clone() for name, value in named.items()}


def heads(model, domain):
    return [value.clone() for value in model.head_parameters(domain)]


@pytest.mark.parametrize("name", OWN_HEADS)
def test_the_split_changes_no_score(log, name):
    torch.manual_seed(0)
    root = build_domain_click_model(method_of(name), log.schema, root=True).eval()
    batch = to_batch(log.part("test"))
    with torch.no_grad():
        assert torch.equal(root(batch), split_heads(root).eval()(batch))


@pytest.mark.parametrize("name", mostly_slow([*FEW, "mmoe with row updates"], "star", "mmoe with row updates"))
def test_the_backbone_keeps_every_bit_in_the_last_phase(log, name, tmp_path):
    tables = "lazy_adam" if "row updates" in name else "dense"
    method = replace(method_of(name.split()[0]), tables=tables, embedding_l2=0.1)
    folder = tmp_path / "run"
    before = trained(replace(method, d_train=replace(method.d_train, last="none")), log, folder=folder).model
    after = trained(method, log, folder=folder).model
    torch.testing.assert_close(backbone(after), backbone(before), rtol=0, atol=0)
    assert all(
        any(not torch.equal(*pair) for pair in zip(heads(before, d), heads(after, d), strict=True)) for d in range(3)
    )


@pytest.mark.parametrize("name", OWN_HEADS)
def test_a_head_cut_out_scores_its_domain_as_in_its_model_and_goes_back_alone(log, name):
    torch.manual_seed(0)
    model = build_domain_click_model(method_of(name), log.schema).eval()
    columns = log.part("validation")
    for domain in range(3):
        rows = np.flatnonzero(domain_numbers(log.schema, columns) == domain)
        head = head_alone(model, domain)
        kept = HeadRows(model, columns, rows, label=0, kept=True)
        with torch.no_grad():
            found = HeadTask(head).logits(kept.all)
            expected = model(to_batch(columns.select(rows)))[:, 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        others = [heads(model, other) for other in range(3) if other != domain]
        before = backbone(model)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(1.0)
        put_head(model, domain, head)
        after = [heads(model, other) for other in range(3) if other != domain]
        torch.testing.assert_close(after, others, rtol=0, atol=0)
        torch.testing.assert_close(backbone(model), before, rtol=0, atol=0)
        assert all((new - 1).abs().sum() < new.numel() * 10 for new in heads(model, domain))


def test_a_domain_ends_the_same_whatever_other_domains_there_are(tmp_path):
    world = draw(TINY)
    whole = write_domains(world, tmp_path / "whole")
    method = method_of("mmoe")
    base = trained(replace(method, d_train=replace(method.d_train, last="none")), whole).model
    results = {}
    for order in ((0, 1, 2), (2, 0), (2,)):
        model = deepcopy(base)
        for domain in order:
            rows, asked = (of_domain(whole, part, domain) for part in ("train", "validation"))
            put_head(model, domain, fitted(base, whole, domain, rows, asked))
        results[order] = heads(model, 2)
    for order in ((2, 0), (2,)):
        torch.testing.assert_close(results[order], results[0, 1, 2], rtol=0, atol=0)
    again = trained(method, whole).model
    torch.testing.assert_close(heads(again, 2), results[2,], rtol=0, atol=0)


def of_domain(log, part, domain):
    return np.flatnonzero(domain_numbers(log.schema, log.part(part)) == domain)


def fitted(base, log, domain, rows, asked):
    """A head trained by hand, as the phase does."""
    task = HeadTask(head_alone(base, domain))
    source = HeadBatches(HeadRows(base, log.part("train"), rows, label=0, kept=True), 100, 1)
    checked = HeadRows(base, log.part("validation"), asked, label=0, kept=True)
    names = own_names(base)
    Trainer(replace(LAST, seed=1)).fit(
        task,
        source,
        validate=lambda: head_figures(task, checked),
        groups=lambda head: head_groups(head, names, weight_decay=0.1, decay_biases=True),
    )
    return task.module


@pytest.mark.parametrize("name", mostly_slow([*FEW, "mmoe with dropout"], "mmoe with dropout", "crocodile"))
def test_kept_features_train_the_heads_that_computed_ones_do(log, name, tmp_path):
    """Dropout of the backbone is off in both: kept features would be one draw of it, computed ones a draw a batch."""
    method = method_of(name.split()[0])
    if "dropout" in name:
        body = replace(method.model.body, expert=MLPConfig(widths=(8,), dropout=0.5))
        method = replace(method, model=replace(method.model, body=body))
    kept = trained(method, log, folder=tmp_path).model
    for domain in range(3):
        shutil.rmtree(tmp_path / f"domain-00{domain}")
    plan = replace(method.d_train, cache_features=False)
    computed = trained(replace(method, d_train=plan), log, folder=tmp_path).model
    for domain in range(3):
        torch.testing.assert_close(heads(kept, domain), heads(computed, domain), rtol=0, atol=1e-6)


def test_every_plan_of_the_grid_trains_and_whole_models_are_routed(log):
    once = replace(TRAINER, epochs=1)
    for name, plan in PHASE_GRID.items():
        method = replace(method_of("shared_bottom"), trainer=once)
        found = trained(replace(method, d_train=replace(plan, last_trainer=replace(LAST, epochs=1))), log)
        expected = [*(["pretrain"] if plan.pretrain else []), *(["joint"] if plan.joint else [])]
        expected += [] if plan.last == "none" else [f"last/{domain}" for domain in domain_names(log)]
        assert list(found.results) == expected, name
        assert isinstance(found.model, RoutedDomains) == (plan.last == "all")
        assert found.updates == sum(result.history[-1]["updates"] for result in found.results.values())
        scores = score_units(found.model, log, log.part("test"), "domain")
        assert np.isfinite(scores.logits).all()
        if isinstance(found.model, RoutedDomains):
            for domain, model in enumerate(found.model.models):
                alone = score_units(model, log, log.part("test"), "domain").logits
                np.testing.assert_array_equal(scores.logits[scores.units == domain], alone[scores.units == domain])


def test_separate_models_know_the_rows_of_their_domain_alone(log, tmp_path):
    method = method_of("shared_bottom", pretrain=False, joint=False, last="all", last_trainer=replace(LAST, epochs=1))
    method = replace(method, tables="lazy_adam")
    found = trained(method, log).model
    start = trained(replace(method, d_train=None, trainer=replace(TRAINER, learning_rate=1e-12)), log).model
    column = log.schema.id_columns["domain"].start
    offset = sum(field.size for field in log.schema.id_fields[:column])
    for domain, model in enumerate(found.models):
        moved = [
            not torch.allclose(new, old, atol=1e-6)
            for new, old in zip(
                model.table_parameters()[0][offset + RESERVED : offset + RESERVED + 3],
                start.table_parameters()[0][offset + RESERVED : offset + RESERVED + 3],
                strict=True,
            )
        ]
        assert moved == [other == domain for other in range(3)]


def test_early_stopping_keeps_the_best_of_each_phase_and_domain_though_patience_never_triggers(log):
    last = replace(LAST, epochs=6, learning_rate=0.05, patience=50)
    found = trained(method_of("mmoe", last_trainer=last), log)
    scores = score_units(found.model, log, log.part("validation"), "domain")
    epochs = set()
    for domain, name in enumerate(domain_names(log)):
        result = found.results[f"last/{name}"]
        values = [entry["metrics"]["auc"] for entry in result.history]
        assert len(values) == 6
        assert result.best_value == max(values)
        own = auc(scores.logits[scores.units == domain], scores.labels[scores.units == domain])
        assert own == pytest.approx(result.best_value, abs=1e-9)
        epochs.add(result.best_epoch)
    assert epochs != {6}
    joint = found.results["joint"]
    assert joint.best_value == max(entry["metrics"]["macro_auc"] for entry in joint.history)


def test_a_domain_of_one_class_in_validation_is_judged_by_its_loss(tmp_path):
    world = draw(TINY)
    asked = (world.domains == 2) & (np.array(world.parts) == "validation")
    world.labels[asked] = 1.0
    log = write_domains(world, tmp_path)
    found = trained(method_of("shared_bottom"), log).results["last/d2"]
    assert all("auc" not in entry["metrics"] for entry in found.history)
    assert found.best_value == max(entry["metrics"]["-log_loss"] for entry in found.history)


@pytest.fixture(scope="module")
def uninterrupted(log):
    return trained(RESUMED, log).model


RESUMED = replace(
    method_of("mmoe", last_trainer=replace(LAST, epochs=4, checkpoint_every=1)),
    trainer=replace(TRAINER, checkpoint_every=1),
)


@pytest.mark.parametrize("stop", ["01-pretrain", "02-joint", "domain-001"])
def test_resuming_in_the_middle_of_a_phase_goes_on_identically(log, tmp_path, stop, monkeypatch, uninterrupted):
    update = Loop._update

    def stopped(loop, group):
        if stop in str(loop.folder) and loop.position.updates == (2 if "domain" in stop else 4):
            raise KeyboardInterrupt
        update(loop, group)

    monkeypatch.setattr(Loop, "_update", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(RESUMED, log, folder=tmp_path)
    monkeypatch.setattr(Loop, "_update", update)
    for _ in range(2):  # resumed, then loaded
        found = trained(RESUMED, log, folder=tmp_path).model
        torch.testing.assert_close(found.state_dict(), uninterrupted.state_dict(), rtol=0, atol=0)


def test_phases_on_disk_name_what_they_come_from(log, tmp_path):
    trained(method_of("mmoe"), log, folder=tmp_path)
    places = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("result.json"))
    assert places == ["01-pretrain", "02-joint", *(f"domain-00{domain}/01-heads" for domain in range(3))]
    manifest = read_json(tmp_path / "domain-001" / "01-heads" / "manifest.json")
    assert manifest["inputs"]["domain"] == "d1"
    assert manifest["inputs"]["model"] == read_json(tmp_path / "02-joint" / "manifest.json")["fingerprint"]
    size = (tmp_path / "domain-001" / "01-heads" / "model.safetensors").stat().st_size
    assert size < (tmp_path / "02-joint" / "model.safetensors").stat().st_size / 2  # one head, no backbone


def test_plans_that_lead_to_no_model_are_refused():
    with pytest.raises(ConfigError, match="without pretrain and joint there is no backbone to keep; set one, or last"):
        DTrainConfig(pretrain=False, joint=False)
    with pytest.raises(ConfigError, match="pretrain alone leaves all domains one head; set joint, or last to"):
        DTrainConfig(joint=False, last="none")
