"""Small data that several scripts are run on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_rec.data.sources.census import CATEGORIES, NUMBERS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users over 30 items whose titles name one of three topics; the last two items occur only as test targets."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    events = []
    for user in range(60):
        items = rng.permutation(np.arange(user % 3, 28, 3))[:6].tolist()
        if user < 6:
            items[-1] = 28 + user % 2
        events += [(f"u{user}", f"i{item}", order) for order, item in enumerate(items)]
    pd.DataFrame(events, columns=["user_id", "item_id", "order"]).to_parquet(folder / "interactions.parquet")
    topics = ["green tea", "dog food", "steel pan"]
    titles = [f"{topics[item % 3]} number {item}" for item in range(30)]
    pd.DataFrame({"item_id": [f"i{item}" for item in range(30)], "title": titles}).to_parquet(folder / "items.parquet")
    return folder


@pytest.fixture(scope="module")
def census(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 rows of census-income in its two files, with what every column may hold."""
    folder = tmp_path_factory.mktemp("census")
    rng = np.random.default_rng(0)
    for file, rows in (("train", 300), ("test", 100)):
        frame = pd.DataFrame({name: rng.integers(0, 50, rows) for name in NUMBERS})
        for name in CATEGORIES:
            frame[name] = rng.integers(0, 3, rows).astype(str)
        frame["income_above_50k"] = (rng.random(rows) < 0.3).astype(np.int64)
        frame.to_parquet(folder / f"{file}.parquet")
    return folder
