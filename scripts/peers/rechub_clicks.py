"""DCNv2 of torch-rechub: its model, its data generator, and `train_one_epoch` of its trainer.

Its trainer's default weight decay of 1e-5 is set to 0.
"""

import contextlib
import io
from importlib.metadata import version

import numpy as np
from common import Clicks, click_options, prepare, result, timed_steps


def main() -> None:
    args = click_options(__doc__.splitlines()[0]).parse_args()
    prepare(args)
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.ranking import DCNv2
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    clicks = Clicks(args.rows)
    fields = [
        SparseFeature(name, vocab_size=size, embed_dim=args.dim)
        for name, size in zip(clicks.names, clicks.sizes, strict=True)
    ]
    model = DCNv2(
        fields,
        n_cross_layers=args.cross_layers,
        mlp_params={"dims": args.widths, "activation": "relu", "dropout": 0.0},
        use_low_rank_mixture=False,
    )
    trainer = CTRTrainer(model, optimizer_params={"lr": args.learning_rate, "weight_decay": 0.0}, device="cpu")

    def rows(chosen: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        return clicks.columns(chosen), clicks.labels[chosen]

    def train(steps: int) -> None:
        few = rows(clicks.first(1))
        generator = DataGenerator(*rows(clicks.first(steps * args.batch_size)))
        loader, _, _ = generator.generate_dataloader(*few, *few, batch_size=args.batch_size)
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_one_epoch(loader)

    result(
        peer="rechub",
        version=version("torch-rechub"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        **timed_steps(train, args),
    )


if __name__ == "__main__":
    main()
