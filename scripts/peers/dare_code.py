"""The released DARE code (https://github.com/thuml/DARE), from a clone: its options for the setting of its paper.

Nothing of it lies here. Its training loop runs as it is; what we need of it is had from the rows that it asks for.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

SCRIPT = "train_pytorch.py"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it takes a GPU where it sees one; both sides are compared on processors


def options(description: str) -> argparse.ArgumentParser:
    """Where the clone and the rows are, and the sizes of the model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dare", type=Path, required=True, help="a clone of https://github.com/thuml/DARE")
    parser.add_argument("--rows", type=Path, required=True, help="folder of train_*.npy, val.npy and test.npy")
    parser.add_argument("--items", type=int, required=True, help="its -item_n")
    parser.add_argument("--categories", type=int, required=True, help="its -cate_n")
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def opened(clone: Path) -> ModuleType:
    """Its training script as a module."""
    if not (clone / SCRIPT).is_file():
        raise SystemExit(f"{clone} holds no {SCRIPT}; make a clone: git clone https://github.com/thuml/DARE {clone}")
    sys.path.insert(0, str(clone.resolve()))
    import train_pytorch

    return train_pytorch


def its_arguments(code: ModuleType, args: argparse.Namespace, logs: str, test_interval: int) -> argparse.Namespace:
    """Its own options, those that its script for DARE names, parsed by itself."""
    rows = args.rows.resolve()
    words: Sequence[object] = (
        *("-train_dataset_path", f"{rows}/train_{{}}_{{}}.npy"),
        *("-val_dataset_path", f"{rows}/val.npy", "-test_dataset_path", f"{rows}/test.npy"),
        *("-max_length", args.length, "-item_n", args.items, "-cate_n", args.categories),
        *("-long_seq_split", f"0:{args.length}", "-short_model_type", "DIN", "-long_model_type", "DIN"),
        *("-use_cross_feature", "True", "-attn_func", "scaled_dot_product", "-hard_or_soft", "soft"),
        *("-top_k", args.top_k, "-use_aux_loss", "True", "-use_time_mode", "concat"),
        *("-time_embedding_dim", args.dim, "-category_embedding_dim", args.dim),
        *("-epoch", args.epochs, "-batch_size", args.batch_size, "-seed", args.seed),
        *("-learning_rate", 0.01, "-weight_decay", 0.000001, "-log_dir", logs),
        *("-test_interval", test_interval, "-log_interval", 50, "-model_name", "DARE"),
    )
    given, sys.argv = sys.argv, ["train_pytorch.py", *map(str, words)]
    try:
        parsed: argparse.Namespace = code.get_args()
    finally:
        sys.argv = given
    return parsed


def train(code: ModuleType, given: argparse.Namespace, rows: object, validation: object, test: object) -> None:
    """Its training, unchanged, on any rows that can be gone over and `reset`."""
    code.train(
        train_dataset=rows,
        val_dataset=validation,
        test_dataset=test,
        args=given,
        embedding_dim=given.category_embedding_dim,
        learning_rate=given.learning_rate,
        weight_decay=given.weight_decay,
        seed=given.seed[0],
    )
