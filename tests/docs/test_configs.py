"""Every file in configs/ is read by its verb, and says what the preset it stands for says."""

from pathlib import Path

import pytest

from llm_rec.codec import from_plain, to_plain
from llm_rec.config import Settings, read_settings
from llm_rec.recipes import index, train
from llm_rec.recipes.index import IndexJob
from llm_rec.recipes.presets import pad_paper
from llm_rec.recipes.train import TrainJob
from semantic_ids.quantizers import MixtureOfCodesConfig

CONFIGS = Path(__file__).parents[2] / "configs"
VERBS = {"pad_paper.yaml": "train", "beauty_sasrec.yaml": "train", "moc_4x256.yaml": "index"}


def read_train(name: str) -> Settings[TrainJob]:
    recipe = train.RECIPE
    words = ["--config", str(CONFIGS / name)]
    return read_settings(recipe.job, words, presets=recipe.presets, program="p", description="d")


def read_index(name: str) -> Settings[IndexJob]:
    recipe = index.RECIPE
    words = ["--config", str(CONFIGS / name)]
    return read_settings(recipe.job, words, presets=recipe.presets, program="p", description="d")


def test_every_file_is_listed_with_its_verb() -> None:
    assert {path.name for path in CONFIGS.iterdir()} == set(VERBS)


@pytest.mark.parametrize(("name", "verb"), VERBS.items())
def test_the_head_of_a_file_says_how_to_run_it(name: str, verb: str) -> None:
    assert f"llm-rec {verb} --config configs/{name}" in (CONFIGS / name).read_text()


@pytest.mark.parametrize(("name", "verb"), VERBS.items())
def test_a_file_is_read_whole_and_shows_as_origin(name: str, verb: str) -> None:
    settings = read_train(name) if verb == "train" else read_index(name)
    from_file = [key for key, origin in settings.origins.items() if origin.endswith(name)]
    assert "name" in from_file
    assert len(from_file) > 3
    again = from_plain(type(settings.job), to_plain(settings.job))
    assert again == settings.job


def test_pad_paper_is_the_preset_of_the_paper_but_for_the_seed() -> None:
    given, preset = to_plain(read_train("pad_paper.yaml").job.method), to_plain(pad_paper())
    for phase in ("pretrain", "align", "disentangle"):
        given["training"][phase]["seed"] = preset["training"][phase]["seed"]  # a run's own seed replaces it
    assert given == preset


def test_beauty_is_the_sasrec_preset_with_smaller_batches() -> None:
    settings = read_train("beauty_sasrec.yaml")
    assert settings.job.method.batches.tokens == 768
    assert settings.job.method.negatives.number == 2048
    assert settings.job.method.trainer.betas == (0.9, 0.98)
    assert settings.job.method.model.backbone == train.RECIPE.presets["sasrec"].method.model.backbone
    assert settings.job.material.embeddings is None


def test_moc_has_four_books_of_256() -> None:
    assert read_index("moc_4x256.yaml").job.quantizer == MixtureOfCodesConfig(num_codebooks=4, codebook_size=256)
