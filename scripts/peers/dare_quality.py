"""Test scores of the released DARE code: trained by its own loop, its best checkpoint by its own validation.

Validation comes once an epoch. The model that it would test scores all test rows, in order, twice: with the running
statistics of batch normalisation, as models are served, and with those of each batch, as its own test has it.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import dare_code
import numpy as np
from common import prepare, result


def main() -> None:
    args = options().parse_args()
    prepare(args)
    code = dare_code.opened(args.dare)
    with tempfile.TemporaryDirectory() as logs:
        given = dare_code.its_arguments(code, args, logs, test_interval=1)

        def rows(path: str):  # noqa: ANN202 - its class is DARE's, imported inside
            """In batches of one size, since its reader leaves out what is no whole batch."""
            found = code.SeqRecDataset(path, args.batch_size, max_length=args.length)
            batches = -(-found.data_size // args.batch_size)
            return code.SeqRecDataset(path, found.data_size // batches, max_length=args.length)

        train = code.SeqRecDataset(given.train_dataset_path, args.batch_size, max_length=args.length)
        given.test_interval = sum(-(-number // args.batch_size) for number in train.data_number)
        with contextlib.redirect_stdout(sys.stderr):
            dare_code.train(code, given, train, rows(given.val_dataset_path), rows(given.test_dataset_path))
        model = code.create_model("DIN", given)
        model.load(str(Path(logs) / "model" / "best_DIN.pth"))
    for name, mode in (("running", model.eval), ("batch", model.train)):
        mode()
        np.save(args.scores.with_suffix(f".{name}.npy"), scores(model, rows(given.test_dataset_path)))
    result(peer="dare", parameters=sum(parameter.numel() for parameter in model.parameters()))


def options() -> argparse.ArgumentParser:
    parser = dare_code.options(__doc__.splitlines()[0])
    parser.add_argument("--scores", type=Path, required=True, help="where to write SCORES.running.npy and .batch.npy")
    return parser


def scores(model: Callable, rows) -> np.ndarray:  # noqa: ANN001 - its class is DARE's, imported inside
    """P(click) of all rows, what is no whole batch among them."""
    import torch

    rows.epoch_size = -(-rows.data_size // rows.batch_size)
    with torch.no_grad():
        parts = [model.forward(batch, mode="evaluate")[0][:, 0].numpy() for batch in rows]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
