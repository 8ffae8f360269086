"""Full ranking in RecTools: SASRec at random, seen items filtered, top-k by its own ranker.

`per_second` counts user encoding and ranking; `recommend_s` is its public `recommend`, which also prepares its tables.
"""

import logging
import time
import warnings
from importlib.metadata import version

import numpy as np
from common import prepare, ranking_options, result, synthetic_histories


def main() -> None:
    args = ranking_options(__doc__.splitlines()[0]).parse_args()
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

    def trainer() -> pl.Trainer:
        return pl.Trainer(
            max_epochs=1,
            limit_train_batches=1,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )

    # Ranked users come first; further rows name every item of the catalog once, so that the model knows them all.
    events = synthetic_histories(args.users, args.items, args.max_length, args.seed)[:, :-1]
    others = np.arange(1, args.items + 1)
    columns = {
        Columns.User: np.concatenate(
            [np.repeat(np.arange(args.users), args.max_length), args.users + others // args.max_length]
        ),
        Columns.Item: np.concatenate([events.ravel(), others]),
    }
    frame = pd.DataFrame(columns)
    frame[Columns.Weight] = 1.0
    frame[Columns.Datetime] = pd.to_datetime(np.arange(len(frame)), unit="s")
    model = SASRecModel(
        n_blocks=args.layers,
        n_heads=args.heads,
        n_factors=args.dim,
        session_max_len=args.max_length,
        loss="sampled_softmax",
        n_negatives=1,
        batch_size=args.batch_size,
        recommend_batch_size=args.batch_size,
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(frame))
    ranked = Dataset.construct(frame[: args.users * args.max_length])

    stage = {}
    inner = model.lightning_model._recommend_u2i

    def timed(*values: object, **named: object) -> object:
        start, cpu = time.perf_counter(), time.process_time()
        found = inner(*values, **named)
        stage["seconds"], stage["cpu"] = time.perf_counter() - start, time.process_time() - cpu
        return found

    model.lightning_model._recommend_u2i = timed
    start = time.perf_counter()
    model.recommend(users=np.arange(args.users), dataset=ranked, k=args.top_k, filter_viewed=True)
    elapsed = time.perf_counter() - start
    result(
        peer="rectools",
        version=version("rectools"),
        per_second=args.users / stage["seconds"],
        per_cpu_second=args.users / stage["cpu"],
        seconds=stage["seconds"],
        recommend_s=elapsed,
    )


if __name__ == "__main__":
    main()
