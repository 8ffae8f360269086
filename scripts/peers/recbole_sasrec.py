"""Training speed of RecBole's SASRec (full softmax): its data set, its loader, its model, its optimiser.

RecBole expands every prefix of a history into a sample of its own, so one sample is one target.
"""

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import prepare, read_rows, result, training_options


def main() -> None:
    args = training_options(__doc__.splitlines()[0], batch_size=2048).parse_args()
    prepare(args)
    folder = write_atomic_files(args.rows)
    os.chdir(folder)  # RecBole leaves log/ and log_tensorboard/ in the working directory
    sys.argv = sys.argv[:1]  # and reads the command line of whoever imports it
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    settings = {
        "data_path": str(folder),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": args.max_length,
        "train_batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "hidden_size": args.dim,
        "inner_size": args.ffn_multiplier * args.dim,
        "n_layers": args.layers,
        "n_heads": args.heads,
        "hidden_dropout_prob": args.dropout,
        "attn_dropout_prob": args.dropout,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "use_gpu": False,
        "gpu_id": "",
        "show_progress": False,
        "checkpoint_dir": str(folder / "saved"),
        "seed": args.seed,
        "log_wandb": False,
        "state": "WARNING",
    }
    config = Config(model="SASRec", dataset="peer", config_dict=settings)
    init_seed(args.seed, True)
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    train, _, _ = data_preparation(config, create_dataset(config))
    loading = time.perf_counter() - start
    model = get_model("SASRec")(config, train.dataset)
    optimizer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model).optimizer

    model.train()
    samples, clock, cpu = 0, 0.0, 0.0
    for number, batch in enumerate(train):
        if number == args.warmup:
            clock, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
        if number >= args.warmup:
            samples += len(batch)
            if time.perf_counter() - clock > args.seconds:
                break
    elapsed, cpu_elapsed = time.perf_counter() - clock, time.process_time() - cpu
    result(
        peer="recbole",
        version=recbole.__version__,
        per_second=samples / elapsed,
        per_cpu_second=samples / cpu_elapsed,
        targets=samples,
        seconds=elapsed,
        targets_per_epoch=len(train.dataset),
        loading_s=loading,
    )


def write_atomic_files(rows: Path) -> Path:
    """A folder with peer/peer.inter in RecBole's own format; the position in the file is the time."""
    users, items = read_rows(rows)
    folder = Path(tempfile.mkdtemp())
    (folder / "peer").mkdir()
    table = np.column_stack([users, items, np.arange(len(users))])
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt(folder / "peer" / "peer.inter", table, fmt="%d", delimiter="\t", header=header, comments="")
    return folder


if __name__ == "__main__":
    main()
