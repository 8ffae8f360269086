"""Click models as tasks: the loss of a batch, and which parameters are trained and regularised how."""

import pytest
import torch

from ctr_models.interactions import multi_embedding, presets
from ctr_models.layers import MLPConfig
from ctr_models.losses import BCEConfig, JRCConfig, ListwiseConfig, PairwiseConfig, click_loss
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches, to_batch
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.task import ClickTask, click_groups
from llm_rec.training import Trainer, TrainerConfig
from tests.llm_rec.ctr.worlds import small_log

DCN = presets.dcn_v2(dim=3, num_layers=2, hidden=MLPConfig(widths=(6,)))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("task"))


def batch_of(log, rows=32):
    return to_batch(log.part("train").select(slice(0, rows)))


@pytest.mark.parametrize("loss", [BCEConfig(), JRCConfig(alpha=0.3), PairwiseConfig(), ListwiseConfig()])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_loss_is_that_of_the_loss_functions_on_the_models_logits(log, loss, grouped):
    model = build_click_model(ClickMethodConfig(model=DCN, loss=loss), log.schema).eval()
    batch = batch_of(log)
    step = ClickTask(model, loss, grouped=grouped).loss(batch)
    expected = click_loss(loss, model(batch), batch.labels[:, 0], batch.groups if grouped else None)
    assert step.total.item() == expected.total.item()
    assert step.parts["pointwise"].item() == expected.pointwise.item()
    assert step.parts["ranking"].item() == expected.ranking.item()
    assert not step.parts["pointwise"].requires_grad


@pytest.mark.parametrize("tables", ["dense", "rowwise_adagrad", "lazy_adam"])
@pytest.mark.parametrize(
    "model", [DCN, presets.deepfm(dim=3), presets.pfl(dim=3), multi_embedding.multi_dcn_v2(num_tables=2, dim=3)]
)
def test_every_parameter_is_in_one_group(log, model, tables):
    built = build_click_model(ClickMethodConfig(model=model, tables=tables), log.schema)
    groups = click_groups(built, embedding_l2=0.5, dense_l2=0.25, tables=tables)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in built.parameters())
    table = built.sources.sources[0].embedding.weight
    (own,) = [group for group in groups if any(parameter is table for parameter in group["params"])]
    assert own["weight_decay"] == 0.5
    assert own.get("optimizer", "dense") == tables
    if tables == "rowwise_adagrad":
        assert own["num_tables"] == model.num_tables
    orders = {id(parameter) for parameter in built.split_parameters().orders}
    assert all(g["weight_decay"] == 0.0 for g in groups if orders & {id(p) for p in g["params"]})


def test_l2_of_dense_adam_is_the_gradient_of_half_lambda_times_the_squared_norm(log):
    embedding_l2, dense_l2 = 0.3, 0.05
    method = ClickMethodConfig(model=DCN)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_click_model(method, log.schema))
    batches = ClickBatches(log, "train", ClickBatchConfig(batch_size=64, shuffle="none"))
    config = TrainerConfig(epochs=2, learning_rate=0.01, optimizer="adam", device="cpu")
    Trainer(config).fit(
        ClickTask(models[0], BCEConfig()),
        batches,
        groups=lambda module: click_groups(models[0], embedding_l2=embedding_l2, dense_l2=dense_l2, tables="dense"),
    )
    bare = models[1].train()
    split = bare.split_parameters()
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
    for epoch in (1, 2):
        for batch in batches.epoch(epoch):
            loss = ClickTask(bare, BCEConfig()).loss(batch).total
            for weight, parameters in ((embedding_l2, split.embeddings), (dense_l2, split.dense)):
                loss = loss + weight / 2 * sum(parameter.square().sum() for parameter in parameters)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for trained, expected in zip(models[0].parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, atol=2e-5, rtol=1e-4)
