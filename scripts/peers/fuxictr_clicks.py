"""DCNv2 of FuxiCTR: put together from its own blocks, trained by its own `train_step` (zero_grad to Adam).

Its wheel holds no plain DCNv2. Batches are slices of tensors made here: kinder to it than its own loaders, which read
rows one by one in other processes. `train_step` always clips the gradient; its default norm of 10 is left as it is.
"""

import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
from common import Clicks, click_options, prepare, result, timed_steps


def main() -> None:
    parser = click_options(__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, help="train so many epochs, and write --scores of --test, by no clock")
    parser.add_argument("--test", type=Path, help=".npz of rows to score")
    parser.add_argument("--scores", type=Path, help=".npy to write their logits to")
    args = parser.parse_args()
    prepare(args)
    import fuxictr
    import torch
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    clicks = Clicks(args.rows)
    features = FeatureMap("peer", tempfile.mkdtemp())
    features.labels, features.default_emb_dim = ["label"], args.dim
    features.features = OrderedDict(
        (name, {"type": "categorical", "source": "", "vocab_size": size, "padding_idx": None})
        for name, size in zip(clicks.names, clicks.sizes, strict=True)
    )
    features.num_fields = features.get_num_fields()
    features.set_column_index()

    class DCNv2(BaseModel):
        def __init__(self) -> None:
            folder = tempfile.mkdtemp()
            super().__init__(features, "DCNv2", gpu=-1, verbose=0, model_root=folder, metrics=["AUC", "logloss"])
            width = args.dim * len(clicks.names)
            self.embedding = FeatureEmbedding(features, args.dim)
            self.cross = CrossNetV2(width, args.cross_layers)
            self.mlp = MLP_Block(width, hidden_units=args.widths, hidden_activations="ReLU", output_activation=None)
            self.head = torch.nn.Linear(width + args.widths[-1], 1)
            self.compile("adam", "binary_crossentropy", args.learning_rate)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: dict) -> dict:
            vectors = self.embedding(self.get_inputs(inputs), flatten_emb=True)
            logits = self.head(torch.cat([self.cross(vectors), self.mlp(vectors)], -1))
            return {"y_pred": self.output_activation(logits)}

    def batches(rows: Clicks, order: np.ndarray):  # noqa: ANN202
        columns = {name: torch.from_numpy(rows.ids[:, place].copy()) for place, name in enumerate(rows.names)}
        columns["label"] = torch.from_numpy(rows.labels)
        for start in range(0, len(order), args.batch_size):
            chosen = torch.from_numpy(order[start : start + args.batch_size])
            yield {name: column[chosen] for name, column in columns.items()}

    model = DCNv2()
    model._max_gradient_norm = 10.0  # what its fit sets before the first step

    def train(steps: int) -> None:
        train_on(np.random.permutation(clicks.first(steps * args.batch_size)))  # noqa: NPY002 - seeded by prepare

    def train_on(order: np.ndarray) -> None:
        model.train()
        for batch in batches(clicks, order):
            model.train_step(batch)

    found = {
        "peer": "fuxictr",
        "version": fuxictr.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if args.epochs is None:
        result(**found, **timed_steps(train, args))
        return
    for _ in range(args.epochs):
        train_on(np.random.permutation(len(clicks)))  # noqa: NPY002 - seeded by prepare
    test = Clicks(args.test)
    model.eval()
    model.output_activation = torch.nn.Identity()
    with torch.no_grad():
        parts = [model(batch)["y_pred"].flatten() for batch in batches(test, np.arange(len(test)))]
    np.save(args.scores, torch.cat(parts).double().numpy())
    result(**found, epochs=args.epochs)


if __name__ == "__main__":
    main()
