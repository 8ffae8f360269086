"""Tiny real models, as folders."""

from pathlib import Path

import pytest

from tests.llm_rec.encoders.tiny_models import make_bert, make_llama, titles


@pytest.fixture(scope="session")
def title_texts() -> list[str]:
    return titles(64)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("tiny-bert"), titles(64))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny-llama"), titles(64))
