import shutil
from dataclasses import replace

import pytest
import torch

from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import TrainingError
from llm_rec.frequency_gate import BucketGateConfig, UniformGateConfig
from llm_rec.metrics.ranking import Retriever, per_target, rank_split
from llm_rec.pad.alignment import CoralConfig, InfoNCEConfig, LinearMMDConfig, NoAlignmentConfig
from llm_rec.pad.config import pad, pad_negatives
from llm_rec.pad.experts import TextProjectorConfig
from llm_rec.pad.mmd import MultiKernelMMDConfig
from llm_rec.pad.model import ExpertRetriever, PADModel
from llm_rec.pad.phases import PADTraining, faithful_training, pad_phases, retriever_of
from llm_rec.pad.task import AlignTask, DisentangleTask
from llm_rec.sequential.batches import BatchConfig, SequenceBatches
from llm_rec.sequential.caser import CaserConfig
from llm_rec.sequential.items import ItemSources
from llm_rec.sequential.model import SequentialModel
from llm_rec.sequential.objective import GBCEConfig
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.training.phases import run_phases
from llm_rec.training.trainer import TrainerConfig
from tests.llm_rec.pad.worlds import (
    GRU,
    tiny_batches,
    tiny_config,
    tiny_sources,
    tiny_training,
)

HISTORY = torch.tensor([[3, 5, 9], [1, 0, 0]])


def phases_of(config, training=None, **settings):
    return pad_phases(config, tiny_sources(), tiny_batches(config), training or tiny_training(), **settings)


def tensors(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_three_phases_hand_over_copies_and_keep_what_they_inherit():
    pretrain, align, disentangle = run_phases(phases_of(tiny_config()))
    first, second, third = pretrain.task.model, align.task.model, disentangle.task.model
    assert isinstance(first, SequentialModel)
    kept = second.expert("collaborative")
    for name, value in first.items.state_dict().items():  # phase 2 left phase 1 as it was, to the bit
        assert torch.equal(kept.items.ids.state_dict()[name], value)
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(kept.backbone.state_dict()[name], value)
    moved = second.expert("aligned")
    assert not torch.equal(moved.items.ids.table.weight, first.items.table.weight)
    inherited = dict(second.named_parameters())
    changed = [name for name, p in third.named_parameters() if name not in inherited or not p.equal(inherited[name])]
    assert set(changed) == {name for name, _ in third.named_parameters()}  # phase 3 trains everything
    assert set(inherited) == {name for name in changed if name.startswith(("experts.collab", "experts.aligned"))}
    assert torch.equal(third.embeddings, second.embeddings)
    assert [set(done.result.history[-1]) >= {"epoch"} for done in (pretrain, align, disentangle)] == [True] * 3


def test_each_phase_is_checkpointed_and_runs_alone(tmp_path):
    config = tiny_config()
    together = run_phases(phases_of(config))
    for name in ("pretrain", "align", "disentangle"):
        last = run_phases(phases_of(config), tmp_path, only=name)[-1]
        assert last.trained
    for one, other in zip(together, run_phases(phases_of(config), tmp_path), strict=True):
        assert not other.trained
        for name, value in one.task.module.state_dict().items():
            assert torch.equal(other.task.module.state_dict()[name], value), (one.name, name)
    with pytest.raises(TrainingError, match=r"config.gamma2 is -4.0 in the folder, -2.0 here"):
        run_phases(phases_of(replace(config, gamma2=-2.0)), tmp_path)


ABLATIONS = {
    "no MMD": {"alignment": NoAlignmentConfig()},
    "InfoNCE": {"alignment": InfoNCEConfig()},
    "linear kernel": {"alignment": LinearMMDConfig()},
    "cosine kernel": {"alignment": LinearMMDConfig(cosine=True)},
    "Laplace kernel": {"alignment": MultiKernelMMDConfig(kernel="laplacian")},
    "CORAL": {"alignment": CoralConfig()},
    "no anchor": {"anchor": False},
    "no collaborative expert": {"experts": ("aligned", "text")},
    "no aligned expert": {"experts": ("collaborative", "text")},
    "no text expert": {"experts": ("collaborative", "aligned")},
    "text expert alone": {"experts": ("text",)},
    "single bucket": {"gate": BucketGateConfig(num_buckets=1)},
    "no gate": {"gate": UniformGateConfig()},
    "no pre-training": {"pretrain": False},
    "GRU4Rec": {"backbone": GRU},
    "Caser": {"backbone": CaserConfig()},
}


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS.keys())
def test_every_ablation_is_a_config(changes):
    config = tiny_config(**changes)
    done = run_phases(phases_of(config, tiny_training(epochs=1)))
    expected = ["pretrain"] * (config.pretrain and config.experts != ("text",))
    expected += ["align"] * ("aligned" in config.experts) + ["disentangle"]
    assert [phase.name for phase in done] == expected
    model = done[-1].task.module
    assert isinstance(model, PADModel)
    assert torch.isfinite(model.user_vectors(HISTORY) @ model.item_vectors().T).all()
    assert model.item_vectors().shape == (25, config.dim * len(config.experts))


SHARED = {
    "no collaborative expert": ({"experts": ("aligned", "text")}, 2),
    "no aligned expert": ({"experts": ("collaborative", "text")}, 1),
    "no text expert": ({"experts": ("collaborative", "aligned")}, 2),
    "single bucket": ({"gate": BucketGateConfig(num_buckets=1)}, 2),
    "no gate": ({"gate": UniformGateConfig()}, 2),
    "gamma2": ({"gamma2": 0.0}, 2),
    "InfoNCE": ({"alignment": InfoNCEConfig()}, 1),
    "no anchor": ({"anchor": False}, 1),
    "all rows": ({"alignment_rows": "all"}, 1),
    "id dropout": ({"id_dropout": 0.3}, 1),
    "projector": ({"projector": TextProjectorConfig(num_layers=1)}, 1),
    "loss": ({"loss": GBCEConfig()}, 0),
    "unseen ids": ({"mask_unseen_ids": True}, 0),
    "backbone": ({"backbone": GRU}, 0),
}


@pytest.mark.parametrize(("changes", "shared"), SHARED.values(), ids=SHARED.keys())
def test_an_ablation_goes_on_from_copies_of_the_phases_it_shares(changes, shared, tmp_path_factory, tmp_path):
    full = _full_run(tmp_path_factory.getbasetemp() / "full")
    names = ["01-pretrain", "02-align"]
    for name in names[:shared]:
        shutil.copytree(full / name, tmp_path / name)
    config, training = tiny_config(**changes), tiny_training(epochs=1)
    if (shared < 2 and "aligned" in config.experts) or not shared:  # the next phase is not the same
        shutil.copytree(full / names[shared], tmp_path / names[shared])
        with pytest.raises(TrainingError, match=f"{names[shared]} holds this phase made otherwise"):
            run_phases(phases_of(config, training), tmp_path)
        shutil.rmtree(tmp_path / names[shared])
    alone = run_phases(phases_of(config, training))
    done = run_phases(phases_of(config, training), tmp_path)
    assert [phase.trained for phase in done] == [number >= shared for number in range(len(done))]
    for one, other in zip(alone, done, strict=True):
        torch.testing.assert_close(tensors(one.task.module), tensors(other.task.module), rtol=0, atol=0)


def _full_run(folder):
    if not folder.exists():
        run_phases(phases_of(tiny_config(), tiny_training(epochs=1)), folder)
    return folder


def test_validation_gets_the_recommender_of_its_phase():
    seen = []

    def validate(retriever):
        assert isinstance(retriever, Retriever)
        seen.append((type(retriever), retriever.item_vectors().shape[1]))
        return {"ndcg@10": 0.0}

    run_phases(phases_of(tiny_config(), tiny_training(epochs=1), validate=validate))
    assert seen == [(SequentialModel, 8), (ExpertRetriever, 8), (PADModel, 24)]


def test_task_of_another_system_has_no_retriever():
    class Other:
        module = torch.nn.Identity()

        def loss(self, batch):
            raise NotImplementedError

    with pytest.raises(TypeError, match="Other is not a task of PAD's phases"):
        retriever_of(Other())


def test_released_training_settings():
    training = faithful_training()
    rates = [training.pretrain.learning_rate, training.align.learning_rate, training.disentangle.learning_rate]
    assert rates == [1e-5, 1e-5, 1e-4]
    assert {(t.weight_decay, t.epochs, t.patience, t.monitor) for t in (training.pretrain, training.disentangle)} == {
        (0.1, 400, 20, "hit@10")
    }


def test_alignment_brings_texts_closer_to_ids():
    config = tiny_config(alignment=MultiKernelMMDConfig(weight=5.0))
    align = next(done for done in run_phases(phases_of(config, tiny_training(epochs=8))) if done.name == "align")
    assert isinstance(align.task, AlignTask)
    first, last = (align.result.history[place]["losses"]["alignment"] for place in (0, -1))
    assert last < 0.7 * first


def test_pad_ranks_unseen_items_that_ids_alone_cannot():
    world = planted_world(800, 120, num_clusters=6, dim=16, lengths=(5, 10), seed=6)
    split = leave_one_out(world.log)
    config = pad(dim=16, max_length=8, backbone=SASRecConfig(num_layers=1, dropout=0.1))
    batches = SequenceBatches(split, BatchConfig(max_length=8, tokens=256), pad_negatives(config), seed=0)
    training = PADTraining.same(TrainerConfig(epochs=4, learning_rate=1e-2, device="cpu"))
    sources = ItemSources.from_split(split, embeddings=world.embeddings)
    pretrain, _, disentangle = run_phases(pad_phases(config, sources, batches, training))
    assert isinstance(disentangle.task, DisentangleTask)
    unseen = split.train_counts[split.log.items[split.test]] == 0
    chance = 10 / (120 - 7)
    assert unseen.sum() >= 150
    sasrec, mixture = (
        per_target(rank_split(done.task.model, split, "test"))["hit@10"] for done in (pretrain, disentangle)
    )
    assert sasrec[unseen].mean() < chance
    assert mixture[unseen].mean() > 2 * chance
    assert mixture.mean() > sasrec.mean() + 0.1
