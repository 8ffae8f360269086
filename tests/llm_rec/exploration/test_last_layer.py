"""Last layers of click models: what heads read, logits affine in it, posteriors of trained models, clear refusals."""

import numpy as np
import pytest
import torch

from ctr_models.interactions.presets import dcn_v2, deepfm, fm
from ctr_models.layers import MLPConfig
from ctr_models.losses import BCEConfig, JRCConfig, click_logits
from ctr_models.model import CTRModelConfig
from ctr_models.towers import FinalMLPConfig, Tower, TowerConfig
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.errors import ConfigError, DataError
from llm_rec.exploration.last_layer import click_beliefs, fit_posterior, in_rounds, read_last_layer
from llm_rec.exploration.policies import ThompsonConfig, ranked_actions
from llm_rec.exploration.posterior import PosteriorConfig
from tests.llm_rec.ctr.worlds import small_log

TWO = CTRModelConfig(
    towers=(
        TowerConfig(hidden=MLPConfig(widths=(6,), dropout=0.5)),
        TowerConfig(set_layers=MLPConfig(widths=(4,)), combine="concat"),
    ),
    dim=4,
    num_tables=2,
    linear="weight",
)
MODELS = {"dcn_v2": dcn_v2(dim=4), "deepfm": deepfm(dim=4), "two towers, two sets": TWO}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("log"))


def batches(log, size=64):
    return ClickBatches(log, "train", ClickBatchConfig(batch_size=size, shuffle="none")).epoch(1)


BCE = BCEConfig()


def build(log, config, loss=BCE):
    torch.manual_seed(0)
    return build_click_model(ClickMethodConfig(model=config, loss=loss), log.schema)


@pytest.mark.parametrize(
    ("name", "loss"),
    [(name, loss) for name in MODELS for loss in (BCEConfig(), JRCConfig()) if name != "deepfm" or loss == BCEConfig()],
)
def test_logits_are_affine_in_the_features_with_the_weights_of_the_heads(log, name, loss):
    model = build(log, MODELS[name], loss).train()
    batch = next(iter(batches(log)))
    before = read_last_layer(model, loss, batch)
    assert model.training
    torch.testing.assert_close(before.logits, click_logits(loss, model.eval()(batch)).double())
    heads = [tower.head for tower in model.towers if isinstance(tower, Tower) and tower.head is not None]
    generator = torch.Generator().manual_seed(1)
    moves = [torch.randn(head.weight.shape, generator=generator) for head in heads]
    shift = torch.randn(model.bias.shape, generator=generator)
    with torch.no_grad():
        for head, move in zip(heads, moves, strict=True):
            head.weight += move
        model.bias += shift
    after = read_last_layer(model, loss, batch)
    assert torch.equal(after.features, before.features)
    change = torch.cat([*(move[0] for move in moves), shift[None]]).double()
    expected = before.features @ change
    torch.testing.assert_close(after.logits - before.logits, click_logits(loss, expected), rtol=1e-4, atol=1e-4)


def test_a_posterior_is_the_spec_formula_over_all_rows_whatever_the_batches(log):
    model = build(log, MODELS["two towers, two sets"])
    whole = next(iter(batches(log, 10_000)))
    found = read_last_layer(model, BCE, whole)
    chances = torch.sigmoid(found.logits)
    features = found.features.numpy()
    dense = 2.0 * np.eye(features.shape[1])
    for phi, p in zip(features, chances.tolist(), strict=True):
        dense += p * (1 - p) * np.outer(phi, phi)
    posterior = fit_posterior(model, BCE, batches(log), PosteriorConfig(prior_precision=2.0))
    torch.testing.assert_close(posterior.precision, torch.from_numpy(dense), rtol=1e-5, atol=1e-5)
    beliefs = click_beliefs(model, BCE, posterior, whole)
    torch.testing.assert_close(beliefs.mean, found.logits)
    expected = np.einsum("ri,ij,rj->r", features, np.linalg.inv(dense), features)
    torch.testing.assert_close(beliefs.std.square(), torch.from_numpy(expected), rtol=1e-4, atol=1e-6)


def test_rows_become_rounds_that_policies_rank(log):
    model = build(log, MODELS["dcn_v2"])
    posterior = fit_posterior(model, BCE, batches(log), PosteriorConfig())
    batch = next(iter(batches(log, 12)))
    rows = click_beliefs(model, BCE, posterior, batch)
    rounds = in_rounds(rows, 4)
    assert rounds.mean.shape == (3, 4)
    assert torch.equal(rounds.root[1, 2], rows.root[6])
    ranking = ranked_actions(ThompsonConfig(), rounds, torch.Generator().manual_seed(0))
    assert ranking.shape == (3, 4)
    with pytest.raises(DataError, match="12 rows are no rounds of 5 actions each"):
        in_rounds(rows, 5)


@pytest.mark.parametrize(
    ("config", "towers"),
    [
        (fm(dim=4), "Tower"),
        (CTRModelConfig(towers=(FinalMLPConfig(),), dim=4), "FinalMLP"),
        (CTRModelConfig(linear="weight"), "none"),
    ],
)
def test_models_without_a_linear_head_are_refused_with_the_reason(log, config, towers):
    model = build(log, config)
    with pytest.raises(
        ConfigError, match=rf"no uncertainty of this model: no tower has a linear head \(towers: {towers}\)"
    ):
        read_last_layer(model, BCE, next(iter(batches(log))))


def test_a_posterior_needs_rows(log):
    model = build(log, MODELS["dcn_v2"])
    with pytest.raises(DataError, match="a posterior needs the rows that the model was trained on"):
        fit_posterior(model, BCE, [], PosteriorConfig())
