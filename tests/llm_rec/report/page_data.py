"""A page with realistic shapes, made of random numbers, for tests of the report."""

import numpy as np

from llm_rec.analysis.codes import code_usage
from llm_rec.data.frequency import FrequencyBuckets
from llm_rec.metrics.significance import compare
from llm_rec.metrics.slices import target_slices
from llm_rec.metrics.summary import summarise
from llm_rec.report.html import CodeUsage, EmbeddingMap, GateWeights, Page
from llm_rec.report.report import Comparison, NamedDifference, Report

MODELS = {
    "SASRec (id)": (0.13, 0.0),
    "SASRec (text)": (0.10, 0.06),
    "SASRec (id + codes)": (0.14, 0.04),
    "PAD": (0.15, 0.05),
}


def page(*, items: int = 400, targets: int = 300, titles: str = "Item", seed: int = 0) -> Page:
    """Four models that differ by how much they know of warm and of cold items."""
    rng = np.random.default_rng(seed)
    counts = np.concatenate([[0], np.sort(rng.zipf(1.5, items).clip(max=400) - 1)[::-1]]).astype(np.int64)
    rows = 1 + np.minimum(rng.exponential(items / 4, targets).astype(np.int64), items - 1)
    slices = target_slices(rows, counts, FrequencyBuckets.fit(counts, mode="equal_items"))
    warmth = np.log1p(counts[rows]) / np.log1p(counts.max())
    metrics = {}
    for name, (warm, cold) in MODELS.items():
        hit = (rng.random(targets) < cold + (2.2 * warm - cold) * warmth).astype(np.float64)
        metrics[name] = {"recall@10": hit, "ndcg@10": hit / np.log2(2 + rng.integers(0, 10, targets))}
    reports = tuple(
        Report.of(
            name,
            {"test": summarise(table, slices, samples=200)},
            config={"model": {"dim": 64, "layers": [{"heads": 2}]}, "learning_rate": 0.001},
            fingerprints={"catalog": "3f2a9c0d11e7b845", "interactions": "9d01b2c3a4f5e6d7"},
            seeds={"run": 0},
            timings={"train": 123.4, "evaluate": 1.2},
            history=[
                {
                    "epoch": float(e),
                    "ndcg@10": 0.02 + 0.05 * (1 - np.exp(-e / 9)) * (1 + i / 9) - 4e-5 * max(0, e - 22) ** 2,
                }
                for e in range(1, 31)
            ],
        )
        for i, (name, table) in enumerate(metrics.items())
    )
    tests = compare(metrics["SASRec (id)"], metrics["PAD"], {k: slices[k] for k in ("all", "lt10")}, samples=500)
    codes = np.stack([rng.zipf(1.3, items) % 64, rng.integers(0, 64, items), rng.integers(0, 20, items)], axis=1)
    centres = rng.normal(0, 3, (64, 2))
    gate = np.stack([np.linspace(0.6, 0.1, 10), np.linspace(0.25, 0.3, 10), np.linspace(0.15, 0.6, 10)], axis=1)
    return Page(
        title="Four recommenders on one catalog, warm and cold",
        summary="How well each model finds the item a user chose next, among all items, and how much of that is left "
        "for items it has hardly ever seen.",
        comparison=Comparison(
            reports=reports,
            differences=tuple(NamedDifference(a="SASRec (id)", b="PAD", difference=test) for test in tests),
        ),
        embedding_map=EmbeddingMap(
            points=centres[codes[:, 0]] + rng.normal(0, 0.7, (items, 2)),
            codes=codes[:, 0],
            titles=[f"{titles} {i}" for i in range(items)],
        ),
        gates=(GateWeights(model="PAD", experts=("id", "aligned", "text"), weights=gate),),
        code_usage=(CodeUsage(quantizer="Mixture-of-Codes", books=code_usage(codes, (64, 64, 64))),),
    )
