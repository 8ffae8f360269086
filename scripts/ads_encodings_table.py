"""How numbers and similarities become features: encodings of "Ads Recommendation in a Collapsed and Entangled World".

    python scripts/ads_encodings_table.py --data DATA/census-income DATA/frappe --seeds 3 --out out/ads-encodings

One model (DeepFM, vectors of 10, layers of 128 and 64, Adam at 1e-3, batches of 2,048, early stopping on validation AUC
with patience 2) over logs that differ in the encoding of their numeric columns alone: 20 quantile bins, Criteo's log
bins, 16 meta-embeddings (after AutoDis), and multiple numeral systems (MNSE: 1,024 quantile levels in bases 2 and 3,
added or side by side). Census-income has seven numbers; of frappe they are the rating and the price of the app, which
its id knows already: no encoding can gain there more than ids that are rare allow.

Similarity encoding is tested on frappe: the cosine of the app's text vector with the mean of the user's other train
positives, beside the raw ids, as a number and as digits (1,024 levels). All sizes are our choice; the paper gives none.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ctr_models.encode import (
    EncoderConfig,
    LogBinsConfig,
    NumberConfig,
    NumeralsConfig,
    QuantileConfig,
    SoftNumberConfig,
)
from ctr_models.interactions.presets import deepfm
from ctr_models.layers import MLPConfig
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.recipes.click_logs import kind_of
from llm_rec.recipes.click_tables import (
    ClickRow,
    click_exit_status,
    full_name,
    run_clicks,
    select_clicks,
    write_click_results,
)
from llm_rec.recipes.encoding_logs import encoding_log, encoding_source
from llm_rec.recipes.tables import ENCODERS, grid_options
from llm_rec.training.trainer import TrainerConfig

NUMERIC: dict[str, EncoderConfig] = {
    "quantile bins": QuantileConfig(bins=20),
    "log bins": LogBinsConfig(),
    "meta-embeddings": SoftNumberConfig(meta_embeddings=16, log=True),
    "MNSE sum": NumeralsConfig(),
    "MNSE concat": NumeralsConfig(combine="concat"),
}
SIMILARITY: dict[str, EncoderConfig | None] = {
    "ids": None,
    "ids, similarity as a number": NumberConfig(),
    "ids, similarity by MNSE": NumeralsConfig(scale="cosine", levels=1024),
}
BASE = {"quantile bins": NUMERIC, "ids": SIMILARITY}  # each group is compared with its first row
METRICS = ("auc", "gauc", "log_loss", "ece", "predicted_over_actual", "parameters", "epochs")


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 2
    rows = select_clicks([row for data in args.data for row in data_rows(data, args)], args.rows)
    results = run_clicks(args.out, rows, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    text = write_click_results(
        args.out,
        results,
        title="Encodings of numbers and similarities",
        metrics=METRICS,
        columns=("data",),
        pairs=list(pairs(rows)),
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/ads-encodings", seeds=3, data=False)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of census-income and frappe")
    parser.add_argument(
        "--encoder", choices=sorted(ENCODERS), default="sentence", help="what embeds frappe's app texts"
    )
    return parser


def data_rows(data: Path, args: argparse.Namespace) -> Iterator[ClickRow]:
    """All rows on one data set."""
    cases: list[tuple[str, EncoderConfig | None, EncoderConfig | None]]
    cases = [(name, encoder, None) for name, encoder in NUMERIC.items()]
    if kind_of(data) == "frappe":
        cases += [(name, None, encoder) for name, encoder in SIMILARITY.items()]
    for name, numbers, similarity in cases:
        source = encoding_source(data, args.out, ENCODERS[args.encoder], numbers, similarity)
        yield ClickRow(
            name=name,
            method=method(args.epochs),
            log=encoding_log(source, data.name, args.out / "logs", quick=args.quick),
            seeds=args.seeds,
            columns={"data": data.name},
        )


def method(epochs: int | None) -> ClickMethodConfig:
    trainer = TrainerConfig(epochs=epochs or 20, learning_rate=1e-3, optimizer="adam", monitor="auc", patience=2)
    return ClickMethodConfig(
        model=deepfm(dim=10, hidden=MLPConfig(widths=(128, 64))),
        embedding_l2=1e-6,
        batches=ClickBatchConfig(batch_size=2048),
        trainer=trainer,
    )


def pairs(rows: list[ClickRow]) -> Iterator[tuple[str, str]]:
    """Every row against the first of its group on the same data."""
    for row in rows:
        for base, group in BASE.items():
            if row.name in group and row.name != base:
                yield row.full_name, full_name(base, row.columns)


if __name__ == "__main__":
    sys.exit(main())
