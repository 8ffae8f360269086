"""Rates follow the size of tensors, cover every parameter once, and reach the optimiser."""

import pytest
import torch

from llm_rec.generative.batches import GenerativeBatch
from llm_rec.generative.rates import LEAST, relative_rates
from llm_rec.generative.task import NextCodesTask
from llm_rec.recipes.generative import GenerativeMethodConfig, generative_phase
from llm_rec.training.trainer import Trainer, TrainerConfig
from tests.llm_rec.generative.test_learning import clustered_codes, material
from tests.llm_rec.generative.worlds import CONFIGS, HISTORY, USERS, model


def test_every_parameter_has_the_rate_of_its_size_once():
    built = model(CONFIGS["positions"])
    with torch.no_grad():
        built.book_positions.zero_()
    found = {id(p): group["learning_rate_factor"] for group in relative_rates(built) for p in group["params"]}
    parameters = list(built.parameters())
    assert len(found) == len(parameters) == sum(len(group["params"]) for group in relative_rates(built))
    for parameter in parameters:
        size = max(parameter.detach().pow(2).mean().sqrt().item(), LEAST)
        assert found[id(parameter)] == pytest.approx(size, rel=0.05)
    assert found[id(built.book_positions)] == LEAST
    assert len(relative_rates(built)) < len(parameters)


class Once:
    """One batch."""

    def __len__(self):
        return 1

    def epoch(self, epoch, first_step=0):
        yield from [GenerativeBatch(HISTORY, USERS, torch.tensor([11, 12, 13, 14]))][first_step:]


def test_the_first_step_of_adam_moves_a_tensor_by_its_share():
    built = model(CONFIGS["tiger"])
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    config = TrainerConfig(epochs=1, learning_rate=0.01, optimizer="adam", device="cpu", eps=1e-30)
    Trainer(config).fit(NextCodesTask(built), Once(), groups=relative_rates)
    for name, parameter in built.named_parameters():
        moved = (parameter.detach() - before[name]).abs().max().item()
        size = before[name].pow(2).mean().sqrt().item()
        assert moved == pytest.approx(0.01 * size, rel=0.06)


def test_a_method_asks_for_them():
    plain, relative = (
        generative_phase(GenerativeMethodConfig(relative_rates=flag), material(clustered_codes()), seed=0)
        for flag in (False, True)
    )
    assert plain.groups is None
    assert relative.groups is relative_rates
    assert plain.config != relative.config
