"""Small catalogs of codes and models over them."""

import numpy as np
import torch

from llm_rec.generative.model import GenerativeConfig, GenerativeModel, unique_codes
from llm_rec.generative.t5 import T5ShapeConfig
from semantic_ids.code_table import CodeTable

SHAPE = T5ShapeConfig(dim=16, num_layers=2, num_decoder_layers=2, num_heads=2, head_dim=8, feed_forward_dim=32)
HISTORY = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0], [9, 8, 7, 30]])
USERS = torch.tensor([5, 0, 0, 9])
CONFIGS = {
    "tiger": GenerativeConfig(shape=SHAPE, num_users=7),
    "positions": GenerativeConfig(shape=SHAPE, num_users=0, positions=True, head="level", temperature=0.5),
}


def table(items: int = 30, sizes: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> CodeTable:
    rng = np.random.default_rng(seed)
    return unique_codes(CodeTable.from_codes(np.column_stack([rng.integers(0, n, items) for n in sizes]), sizes))


def model(config: GenerativeConfig, codes: CodeTable | None = None, seed: int = 0) -> GenerativeModel:
    torch.manual_seed(seed)
    built = GenerativeModel(config, codes or table())
    with torch.no_grad():
        for parameter in (built.book_positions, built.item_positions):
            if parameter is not None:
                parameter.normal_()
    return built.eval()
