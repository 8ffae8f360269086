"""DARE and all it is compared with equal the equations written down row by row: logits, losses, one step of Adam."""

from dataclasses import replace

import pytest
import torch

from ctr_models.losses import CrossEntropyConfig
from ctr_models.sequences import presets
from llm_rec.ctr.task import ClickTask, click_groups
from tests.ctr_models.sequences import naive, worlds
from tests.ctr_models.sequences.naive import Naive

SMALL = {"dim": 4, "max_length": 12}
K = {**SMALL, "top_k": 4}
PLAIN = {"k": None, "auxiliary": False}
VARIANTS = {
    "dare": (presets.dare(**K), Naive(tables="dare")),
    "dare_all": (presets.dare(**SMALL, top_k=None), Naive(tables="dare", k=None)),
    "dare_narrow": (presets.dare(**K, attention_dims=(2, 3, 2)), Naive(tables="dare")),
    "dare_joint": (presets.dare(**K, scale="joint"), Naive(tables="dare", score="joint")),
    "dare_without_auxiliary": (presets.dare(**K, auxiliary=False), Naive(tables="dare", auxiliary=False)),
    "only_odot": (presets.dare(**K, target_aware="only"), Naive(tables="dare", features=("product",))),
    "twin": (presets.twin(**K), Naive()),
    "twin_hard": (presets.twin_hard(**K), Naive(search="hard")),
    "twin_hard_alone": (presets.twin_hard(**K, auxiliary=False), Naive(search="hard", auxiliary=False)),
    "twin_4e": (presets.twin_4e(**K), Naive(tables="four")),
    "twin_3e": (presets.twin_3e(**K), Naive(tables="three")),
    "twin_projection": (presets.twin_projection(**K), Naive(tables="projection")),
    "twin_without_tr": (presets.twin_without_tr(**K), Naive(features=("target", "pooled"))),
    "din": (presets.din(**K), Naive(score="mlp")),
    "din_unsearched": (
        presets.din_unsearched(**SMALL),
        Naive(score="mlp", position="none", softmax=False, features=("target", "pooled"), **PLAIN),
    ),
    "tin": (
        presets.tin(**SMALL),
        Naive(score="joint", position="add", features=("target", "product"), **PLAIN),
    ),
    "tin_released": (
        presets.tin_released(**SMALL),
        Naive(score="joint", position="add", released=True, features=("target", "pooled", "product"), **PLAIN),
    ),
}


@pytest.fixture(params=VARIANTS, name="case")
def fixture_case(request):
    config, variant = VARIANTS[request.param]
    batch = worlds.batch()
    return worlds.model(config), variant, batch


def of(model):
    """The parameters by name, to be trained on their own."""
    return {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}


def test_logits_of_both_heads_are_those_of_the_equations(case):
    model, variant, batch = case
    main, auxiliary = naive.logits(of(model), variant, batch.ids, batch.history.ids)
    found = model.outputs(batch)
    torch.testing.assert_close(found.logits, main, atol=1e-5, rtol=1e-5)
    if variant.auxiliary:
        torch.testing.assert_close(found.auxiliary, auxiliary, atol=1e-5, rtol=1e-5)
    else:
        assert found.auxiliary is None


def test_one_step_of_dense_adam_moves_every_weight_alike(case):
    model, variant, batch = case
    given = of(model)
    naive.loss(given, variant, batch.ids, batch.history.ids, batch.labels[:, 0], l2=1e-6).backward()
    theirs = torch.optim.Adam(given.values(), lr=0.01)
    theirs.step()
    ClickTask(model, CrossEntropyConfig()).loss(batch).total.backward()
    groups = click_groups(model, embedding_l2=0.0, dense_l2=2e-6, tables="dense", decay_biases=False)
    torch.optim.Adam([{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups], lr=0.01).step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), given[name].detach(), atol=1e-5, rtol=1e-5, msg=name)


def test_padding_is_what_the_equations_have_not(case):
    """More columns on the left, and an auxiliary head that is not asked for, change no logit."""
    model, _, batch = case
    model.eval()
    ids = torch.cat([batch.history.ids.new_zeros(len(batch), 3, 2), batch.history.ids], 1)
    config = replace(model.sequence.config, max_length=15)
    model.sequence.config = config
    wider = replace(batch, history=replace(batch.history, ids=ids, gaps=None))
    torch.testing.assert_close(model(wider), model(batch))
    assert model.outputs(batch).auxiliary is None
