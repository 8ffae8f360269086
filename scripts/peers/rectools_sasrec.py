"""Training speed of RecTools' SASRec (full softmax): its data preparator, its loader, its Lightning trainer."""

import logging
import time
import warnings
from importlib.metadata import version

import numpy as np
from common import prepare, read_rows, result, training_options


def main() -> None:
    args = training_options(__doc__.splitlines()[0], batch_size=128).parse_args()
    if args.ffn_multiplier != 1:
        raise SystemExit("RecTools' SASRec has a feed-forward layer as wide as its vectors; pass --ffn-multiplier 1")
    prepare(args)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    import pandas as pd
    import pytorch_lightning as pl
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    class Clock(pl.Callback):
        """Counts the targets of every batch after the warm-up, and ends the run when the time is over."""

        def __init__(self) -> None:
            self.targets, self.start, self.elapsed, self.cpu, self.cpu_elapsed = 0, 0.0, 0.0, 0.0, 0.0

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # noqa: ANN001
            now = time.perf_counter()
            if batch_idx + 1 == args.warmup:
                self.start, self.cpu = now, time.process_time()
            elif batch_idx + 1 > args.warmup:
                self.targets += int((batch["y"] != 0).sum())
                self.elapsed, self.cpu_elapsed = now - self.start, time.process_time() - self.cpu
                trainer.should_stop = self.elapsed > args.seconds

    def trainer() -> pl.Trainer:
        return pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
            callbacks=[Clock()],
        )

    pl.seed_everything(args.seed, verbose=False)
    users, items = train_part(*read_rows(args.rows))
    columns = {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: np.arange(len(users))}
    frame = pd.DataFrame(columns)
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    model = SASRecModel(
        n_blocks=args.layers,
        n_heads=args.heads,
        n_factors=args.dim,
        dropout_rate=args.dropout,
        session_max_len=args.max_length,
        loss="softmax",
        lr=args.learning_rate,
        batch_size=args.batch_size,
        get_trainer_func=trainer,
        deterministic=True,
    )
    model.fit(Dataset.construct(frame))
    clock = next(c for c in model.fit_trainer.callbacks if isinstance(c, Clock))  # RecTools trains with a copy
    lengths = np.minimum(np.bincount(users), args.max_length + 1)
    result(
        peer="rectools",
        version=version("rectools"),
        per_second=clock.targets / clock.elapsed,
        per_cpu_second=clock.targets / clock.cpu_elapsed,
        targets=clock.targets,
        seconds=clock.elapsed,
        targets_per_epoch=int(np.maximum(lengths - 1, 0).sum()),
    )


def train_part(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All but the last two events of every user: what leave-one-out trains on."""
    counts = np.bincount(users)
    from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(users))
    keep = from_end > 2
    return users[keep], items[keep]


if __name__ == "__main__":
    main()
