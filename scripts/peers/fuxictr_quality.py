"""Test AUC and log loss of FuxiCTR's FM, DeepFM or DCNv2 on given encoded rows: its layers, start and training step.

The models are put together from FuxiCTR's own blocks as in its model zoo (the wheel carries only part of that); every
epoch reads the rows in a new order, and the weights of the epoch of the best validation AUC are the ones tested. Both
figures are of logits, as ours are: probabilities in float32 are 1 beyond a logit of 17, and libraries cut their logs.
"""

import argparse
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import prepare, result


def main() -> None:
    args = options().parse_args()
    prepare(args)
    import fuxictr
    import torch
    from sklearn.metrics import roc_auc_score

    with np.load(args.rows, allow_pickle=False) as arrays:
        rows = {name: arrays[name] for name in arrays}
    sizes = rows["sizes"].tolist()
    model = build(args, sizes)
    best, test_scores, rates = -1.0, np.zeros(0), []
    for _ in range(args.epochs):
        order = np.random.permutation(len(rows["train_labels"]))  # noqa: NPY002 - seeded by prepare
        model.train()
        start = time.perf_counter()
        for batch in batches(rows, "train", order, args.batch_size):
            model.train_step(batch)
        rates.append(len(order) / (time.perf_counter() - start))
        model.eval()
        scores = predict(model, rows, "validation")
        found = roc_auc_score(rows["validation_labels"], scores)
        if found > best:
            best, test_scores = found, predict(model, rows, "test")
    labels, logits = rows["test_labels"].astype(np.float64), test_scores.astype(np.float64)
    result(
        peer="fuxictr",
        version=fuxictr.__version__,
        model=args.model,
        auc=float(roc_auc_score(labels, logits)),
        log_loss=float(np.mean(np.logaddexp(0, logits) - labels * logits)),
        validation=float(best),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        rows_per_second=float(np.median(rates)),
        torch_threads=torch.get_num_threads(),
    )


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help=".npz with sizes and, by part, ids and labels")
    parser.add_argument("--model", choices=["fm", "deepfm", "dcnv2"], required=True)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--cross-layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--clip-norm", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def build(args: argparse.Namespace, sizes: list[int]):  # noqa: ANN201 - its class is FuxiCTR's, imported inside
    """The model, started and compiled as FuxiCTR does."""
    import torch
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import CrossNetV2, FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("peer", tempfile.mkdtemp())
    features.labels = ["label"]
    features.default_emb_dim = args.dim
    features.features = OrderedDict(
        (name(i), {"type": "categorical", "source": "", "vocab_size": size, "padding_idx": None})
        for i, size in enumerate(sizes)
    )
    features.num_fields = features.get_num_fields()
    features.set_column_index()
    width = args.dim * len(sizes)

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__(
                features,
                model_id=args.model,
                gpu=-1,
                verbose=0,
                model_root=tempfile.mkdtemp(),
                metrics=["AUC", "logloss"],
            )
            self.embedding = FeatureEmbedding(features, args.dim)
            if args.model == "dcnv2":
                self.cross = CrossNetV2(width, args.cross_layers)
                self.deep = MLP_Block(
                    input_dim=width, output_dim=None, hidden_units=args.hidden, hidden_activations="ReLU"
                )
                self.head = torch.nn.Linear(width + args.hidden[-1], 1)
            else:
                self.machine = FactorizationMachine(features)
            if args.model == "deepfm":
                self.deep = MLP_Block(
                    input_dim=width, output_dim=1, hidden_units=args.hidden, hidden_activations="ReLU"
                )
            self.compile("adam", "binary_crossentropy", args.learning_rate)
            self._max_gradient_norm = args.clip_norm
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: dict) -> dict:
            x = self.get_inputs(inputs)
            vectors = self.embedding(x)
            flat = vectors.flatten(start_dim=1)
            if args.model == "dcnv2":
                logits = self.head(torch.cat([self.cross(flat), self.deep(flat)], dim=-1))
            else:
                logits = self.machine(x, vectors)
            if args.model == "deepfm":
                logits = logits + self.deep(flat)
            return {"y_pred": self.output_activation(logits), "logits": logits}

    return Model()


def batches(rows: dict[str, np.ndarray], part: str, order: np.ndarray, size: int) -> Iterator[dict]:
    """Slices of the rows in `order`, as FuxiCTR's loaders give them: a tensor for each field, and the label."""
    import torch

    ids, labels = rows[f"{part}_ids"].astype(np.int64), rows[f"{part}_labels"].astype(np.float32)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        found = {name(i): torch.from_numpy(ids[chosen, i]) for i in range(ids.shape[1])}
        yield found | {"label": torch.from_numpy(labels[chosen])}


def predict(model: Callable[[dict], dict], rows: dict[str, np.ndarray], part: str) -> np.ndarray:
    """Logits of all rows of a part."""
    import torch

    order = np.arange(len(rows[f"{part}_labels"]))
    with torch.no_grad():
        parts = [model(batch)["logits"].numpy().ravel() for batch in batches(rows, part, order, 16384)]
    return np.concatenate(parts)


def name(field: int) -> str:
    return f"field_{field}"


if __name__ == "__main__":
    main()
