"""Logs with fewer rows of one class, and penalties of a click task."""

import numpy as np
import pytest
import torch

from ctr_models.batch import FeatureBatch
from ctr_models.interactions.multi_embedding import multi_dcn_v2, multi_dnn
from ctr_models.interactions.presets import lr
from ctr_models.losses import BCEConfig, cross_blocks, orthogonality, subspace_similarity, weight_norm_alignment
from ctr_models.schema import Categorical, Schema
from llm_rec.artifacts import write_artifact
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.penalties import (
    OrthogonalityConfig,
    SingularVarianceConfig,
    SubspaceSimilarityConfig,
    WeightAlignmentConfig,
    cross_layers,
    penalty,
)
from llm_rec.ctr.subsample import SubsampleConfig, subsample_log
from llm_rec.ctr.task import ClickTask
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter
from llm_rec.errors import ConfigError, DataError

SCHEMA = Schema(fields=tuple(Categorical(name=name, size=9) for name in "abc"))


@pytest.fixture
def log(tmp_path):
    """Train rows 0..99, a quarter of them positive; the id of field a is the row modulo 7, plus 2."""
    sizes = {"train": 100, "test": 20}
    details = {}
    with write_artifact(tmp_path / "log", kind=KIND, fingerprint="made", details=details) as folder:
        with ClickWriter(folder, SCHEMA, (), sizes) as writer:
            for part, rows in sizes.items():
                number = np.arange(rows)
                empty = np.zeros((rows, 0), dtype=np.float32)
                ids = np.stack([number % 7 + 2, number % 5 + 2, number % 3 + 2], axis=1).astype(np.int32)
                labels = (number[:, None] % 4 == 0).astype(np.float32)
                writer.append(part, ClickColumns(ids, empty, empty, labels))
        details.update(writer.details())
    return ClickLog.load(tmp_path / "log")


def rows_of(log, part="train"):
    """Which of the rows 0..104 a log holds: the three ids tell."""
    ids = log.part(part).ids - 2
    return [next(r for r in range(105) if (r % 7, r % 5, r % 3) == tuple(row)) for row in ids.tolist()]


def test_shares_are_kept_to_the_row_and_smaller_ones_are_parts_of_larger(log, tmp_path):
    half = subsample_log(log, tmp_path / "half", SubsampleConfig(positives=0.5))
    tenth = subsample_log(log, tmp_path / "tenth", SubsampleConfig(positives=0.1, negatives=0.2))
    assert half.rows == {"train": 75 + 12, "test": 20}
    assert half.part("train").labels.sum() == 12
    assert tenth.rows["train"] == 15 + 2
    assert rows_of(half) == sorted(rows_of(half))
    positives = {row for row in rows_of(tenth) if row % 4 == 0}
    assert positives < {row for row in rows_of(half) if row % 4 == 0}
    assert np.array_equal(half.part("test").ids, log.part("test").ids)
    assert half.fingerprint != tenth.fingerprint


def test_other_parts_are_thinned_when_named(log, tmp_path):
    config = SubsampleConfig(positives=0.4, negatives=0.4, parts=("train", "test"))
    assert subsample_log(log, tmp_path / "few", config).rows == {"train": 40, "test": 8}


def test_a_share_of_no_row_is_refused(log, tmp_path):
    with pytest.raises(DataError, match=r"a share of 0\.01 of 25 positives of train is no row; keep more"):
        subsample_log(log, tmp_path / "none", SubsampleConfig(positives=0.01))
    with pytest.raises(ConfigError, match="negatives is a share to keep, above 0 and at most 1, got 0.0"):
        SubsampleConfig(negatives=0.0)


def batch_of(rows=16):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 9, (rows, 3), generator=generator)
    empty = torch.zeros(rows, 0)
    return FeatureBatch(ids=ids, numbers=empty, dense=empty, labels=(ids[:, :1] % 2).float(), groups=None)


def model_of(config):
    torch.manual_seed(0)
    return build_click_model(ClickMethodConfig(model=config), SCHEMA)


def test_cross_layers_are_the_matrices_of_the_forward_pass():
    model = model_of(multi_dcn_v2(num_tables=2, dim=4, num_layers=3))
    found = cross_layers(model)
    assert found.shape == (2, 3, 3, 4, 3, 4)
    vectors = torch.randn(2, 5, 3, 4)
    layer = model.towers[0].interactions[0].stack.layers[0]
    mixed = torch.einsum("tjaid,tbid->tbja", found[:, 0], vectors)
    assert torch.allclose(layer.function.mix(vectors), mixed, atol=1e-6)


@pytest.mark.parametrize(
    "config", [WeightAlignmentConfig(), OrthogonalityConfig(), SubspaceSimilarityConfig(), SingularVarianceConfig()]
)
def test_a_penalty_is_added_to_the_loss_and_reaches_what_it_is_about(config):
    model, batch = model_of(multi_dcn_v2(num_tables=2, dim=4)).eval(), batch_of()
    plain = ClickTask(model, BCEConfig()).loss(batch)
    step = ClickTask(model, BCEConfig(), penalty=config).loss(batch)
    assert torch.allclose(step.total, plain.total + step.parts["penalty"])
    penalty(config, model, batch).backward()
    about = isinstance(config, WeightAlignmentConfig | OrthogonalityConfig)
    reached = model.split_parameters().dense if about else model.split_parameters().embeddings
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in reached)


def test_penalties_are_the_functions_of_the_losses():
    model, batch = model_of(multi_dcn_v2(num_tables=2, dim=4)), batch_of()
    layers = cross_layers(model)
    assert torch.equal(penalty(WeightAlignmentConfig(weight=2.0), model, batch), 2 * weight_norm_alignment(layers))
    whole = layers.flatten(-2).flatten(-3, -2)
    again = orthogonality(cross_blocks(whole, 3))
    assert torch.allclose(penalty(OrthogonalityConfig(weight=1.0), model, batch), again)
    similar = penalty(SubspaceSimilarityConfig(weight=1.0), model, batch)
    assert torch.equal(similar, subspace_similarity(model.sources(batch)))


def test_a_model_without_what_a_penalty_reads_is_refused():
    with pytest.raises(ConfigError, match="full-matrix cross layers, and the model has none"):
        penalty(WeightAlignmentConfig(), model_of(multi_dnn(dim=4)), batch_of())
    with pytest.raises(ConfigError, match="on field vectors, and the model has none"):
        penalty(SingularVarianceConfig(), model_of(lr()), batch_of())
    with pytest.raises(ConfigError, match="weight of a penalty must be finite and above 0, got 0.0"):
        OrthogonalityConfig(weight=0.0)
