"""DCNv2 of DeepCTR-Torch: its DCN with matrix kernels, trained by its own `fit` (its loader and its loop).

It has no form without first-order weights, so its model has 17 numbers an id where the others have 16. Its `fit` sums
the loss over a batch, and hands ids over as float32.
"""

import contextlib
import io
import sys
import types
from importlib.metadata import version

from common import Clicks, click_options, prepare, result, timed_steps


def main() -> None:
    args = click_options(__doc__.splitlines()[0]).parse_args()
    prepare(args)
    # It imports requests, undeclared, to ask for its newest version: an empty module keeps the network out.
    sys.modules["requests"] = types.ModuleType("requests")
    import torch
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DCN

    clicks = Clicks(args.rows)
    fields = [
        SparseFeat(name, size, embedding_dim=args.dim) for name, size in zip(clicks.names, clicks.sizes, strict=True)
    ]
    model = DCN(
        fields,
        fields,
        cross_num=args.cross_layers,
        cross_parameterization="matrix",
        dnn_hidden_units=tuple(args.widths),
        l2_reg_linear=0,
        l2_reg_embedding=0,
        l2_reg_cross=0,
        l2_reg_dnn=0,
        seed=args.seed,
        device="cpu",
    )
    model.compile(torch.optim.Adam(model.parameters(), args.learning_rate), "binary_crossentropy", metrics=[])

    def train(steps: int) -> None:
        rows = clicks.first(steps * args.batch_size)
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(clicks.columns(rows), clicks.labels[rows], batch_size=args.batch_size, epochs=1, verbose=0)

    result(
        peer="deepctr",
        version=version("deepctr-torch"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        **timed_steps(train, args),
    )


if __name__ == "__main__":
    main()
