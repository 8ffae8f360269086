"""Full ranking in RecBole: scores, masking, top-k and metrics of its trainer and evaluator, SASRec at random.

RecBole masks no seen items for sequential models, so none are masked here: less work than ours.
"""

import os
import sys
import tempfile
import time

from common import prepare, ranking_options, result, synthetic_histories


class ItemCount:
    """All that RecBole's SASRec asks of a data set: the number of items, padding included."""

    def __init__(self, items: int) -> None:
        self.items = items

    def num(self, field: str) -> int:
        return self.items


def main() -> None:
    args = ranking_options(__doc__.splitlines()[0]).parse_args()
    prepare(args)
    os.chdir(tempfile.mkdtemp())
    sys.argv = sys.argv[:1]
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data.interaction import Interaction
    from recbole.utils import get_model, get_trainer

    settings = {
        "data_path": ".",
        "MAX_ITEM_LIST_LENGTH": args.max_length,
        "hidden_size": args.dim,
        "inner_size": args.ffn_multiplier * args.dim,
        "n_layers": args.layers,
        "n_heads": args.heads,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "metrics": ["Recall", "NDCG"],
        "topk": [args.top_k],
        "valid_metric": f"NDCG@{args.top_k}",
        "use_gpu": False,
        "gpu_id": "",
        "log_wandb": False,
        "state": "ERROR",
    }
    config = Config(model="SASRec", dataset="peer", config_dict=settings)
    torch.set_num_threads(args.threads)
    model = get_model("SASRec")(config, ItemCount(args.items + 1)).eval()
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    trainer.tot_item_num = args.items + 1
    events = torch.from_numpy(synthetic_histories(args.users, args.items, args.max_length, args.seed))

    def rank(rows: torch.Tensor) -> None:
        columns = {"item_id_list": rows[:, :-1], "item_length": torch.full((len(rows),), args.max_length)}
        batch = (Interaction(columns), None, torch.arange(len(rows)), rows[:, -1])
        interaction, scores, positive_u, positive_i = trainer._full_sort_batch_eval(batch)
        trainer.eval_collector.eval_batch_collect(scores, interaction, positive_u, positive_i)

    with torch.no_grad():
        rank(events[: args.batch_size])
        trainer.eval_collector.get_data_struct()
        start, cpu = time.perf_counter(), time.process_time()
        for rows in events.split(args.batch_size):
            rank(rows)
        trainer.evaluator.evaluate(trainer.eval_collector.get_data_struct())
        elapsed, cpu_elapsed = time.perf_counter() - start, time.process_time() - cpu
    result(
        peer="recbole",
        version=recbole.__version__,
        per_second=args.users / elapsed,
        per_cpu_second=args.users / cpu_elapsed,
        seconds=elapsed,
    )


if __name__ == "__main__":
    main()
