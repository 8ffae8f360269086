"""Served logits are those of the model's own forward pass over whole histories, for every way to decouple."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.model import CTRModel, CTRModelConfig
from ctr_models.schema import Categorical, Schema
from ctr_models.sequences import presets
from ctr_models.sequences.cache import UserKeyCacheConfig
from ctr_models.sequences.key_storage import Storage
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.errors import ConfigError
from llm_rec.serving.sequence_model import ServedSequence
from llm_rec.serving.sequences import SequenceServer

SCHEMA = Schema(
    fields=(Categorical(name="day", size=5), Categorical(name="item", size=60), Categorical(name="topic", size=9)),
    history=("item", "topic"),
)
SEARCHED = {
    "dare": presets.dare(dim=4, attention_dims=(3, 5, 2), top_k=4, max_length=30),
    "dare, joint": presets.dare(dim=4, top_k=4, max_length=30, scale="joint"),
    "twin": presets.twin(dim=4, top_k=4, max_length=30),
    "twin_4e": presets.twin_4e(dim=4, top_k=4, max_length=30),
    "twin_3e": presets.twin_3e(dim=4, top_k=4, max_length=30),
    "twin_projection": presets.twin_projection(dim=4, top_k=4, max_length=30),
}


def built(config: CTRModelConfig) -> CTRModel:
    torch.manual_seed(0)
    model = build_click_model(ClickMethodConfig(model=config), SCHEMA)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model.eval()


def batch(candidates: int, history: Tensor | None = None) -> FeatureBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randint(1, f.size, (candidates,), generator=generator) for f in SCHEMA.id_fields], 1)
    past = None if history is None else HistoryBatch(history.expand(candidates, -1, -1))
    return FeatureBatch(
        ids, torch.zeros(candidates, 0), torch.zeros(candidates, 0), torch.zeros(candidates, 1), None, past
    )


def events(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randint(1, size, (length,), generator=generator) for size in (60, 9)], 1)


@pytest.mark.parametrize("storage", get_args(Storage))
@pytest.mark.parametrize("name", SEARCHED)
def test_a_served_logit_is_that_of_the_whole_model(name: str, storage: Storage) -> None:
    model = built(SEARCHED[name])
    served = ServedSequence(model)
    server = SequenceServer(served, served.k, UserKeyCacheConfig(storage=storage, max_length=30))
    server.put("u", events(50)[:2])
    for done in (2, 9, 33):
        stop = {2: 9, 9: 33, 33: 50}[done]
        assert server.append("u", events(50)[done:stop])
        found = server.find("u", batch(6).ids[:, 1:])
        logits = served.logits(batch(6), found)
        past = torch.nn.functional.pad(events(50)[:stop], (0, 0, 3, 0)).unsqueeze(0)
        with torch.no_grad():
            wanted = model(batch(6, past))
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)


def test_models_whose_keys_cannot_be_kept_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not search the k best events by score; serve it on whole histories$"):
        ServedSequence(built(presets.twin_hard(dim=4, top_k=4, max_length=30)))
    with pytest.raises(ConfigError, match="is no dot product of keys; serve the model on whole histories$"):
        ServedSequence(built(presets.din(dim=4, top_k=4, max_length=30)))
