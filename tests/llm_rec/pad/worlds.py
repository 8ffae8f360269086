"""Tiny planted data for the tests of this folder."""

from dataclasses import replace
from functools import cache

import torch

from llm_rec.data import Split, leave_one_out
from llm_rec.data.synthetic import PlantedWorld, planted_world
from llm_rec.pad.config import PADConfig, pad_negatives
from llm_rec.pad.model import PADModel
from llm_rec.pad.phases import PADTraining
from llm_rec.sequential.batches import BatchConfig, SequenceBatch, SequenceBatches
from llm_rec.sequential.gru4rec import GRU4RecConfig
from llm_rec.sequential.items import ItemSources
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.training.trainer import TrainerConfig

LENGTH = 8
DIM = 8


@cache
def tiny_world() -> PlantedWorld:
    return planted_world(40, 24, num_clusters=3, dim=6, lengths=(4, 9), seed=1)


@cache
def tiny_split() -> Split:
    return leave_one_out(tiny_world().log)


def tiny_sources() -> ItemSources:
    return ItemSources.from_split(tiny_split(), embeddings=tiny_world().embeddings)


def tiny_config(**changes) -> PADConfig:
    """A config small enough for tests, with `changes` to any of its fields."""
    return replace(PADConfig(dim=DIM, max_length=LENGTH, backbone=SASRecConfig(num_layers=1, dropout=0.1)), **changes)


def tiny_model(config: PADConfig | None = None, seed: int = 0) -> PADModel:
    torch.manual_seed(seed)
    model = PADModel(config or tiny_config(), tiny_sources())
    with torch.no_grad():  # away from symmetric starts
        for parameter in model.gate.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return model


def tiny_batches(config: PADConfig, seed: int = 0) -> SequenceBatches:
    batch = BatchConfig(max_length=config.max_length, tokens=None, users=16)
    return SequenceBatches(tiny_split(), batch, pad_negatives(config), seed)


def tiny_batch(config: PADConfig, seed: int = 0) -> SequenceBatch:
    return next(iter(tiny_batches(config, seed).epoch(1)))


def tiny_training(epochs: int = 2, learning_rate: float = 1e-2) -> PADTraining:
    return PADTraining.same(TrainerConfig(epochs=epochs, learning_rate=learning_rate, device="cpu"))


GRU = GRU4RecConfig(hidden=8, dropout=0.0)
