"""A saved click model for servers without this library: torch.export (.pt2) and ONNX, for batches of any size.

Exported models take encoded rows: of the inputs ``ids`` (int64), ``numbers`` and ``dense`` (float32) those that the
schema has, in this order, as `ClickScorer.encode` lays them out; they give one probability a row.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.losses import ClickLossConfig, probabilities
from ctr_models.model import CTRModel
from ctr_models.schema import Schema, columns_of
from llm_rec.artifacts import replacing
from llm_rec.data.columns import ClickColumns
from llm_rec.errors import ConfigError
from llm_rec.serving.clicks import ClickScorer

Format = Literal["pt2", "onnx"]
INPUTS = ("ids", "numbers", "dense")
OUTPUT = "probabilities"
_ROWS = 2  # a traced batch of 1 would be taken for a constant


class ScoringModule(nn.Module):
    """Inputs that the schema has -> probabilities: the graph that is exported."""

    def __init__(self, model: CTRModel, loss: ClickLossConfig, schema: Schema) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.widths = {name: width for name, width in widths_of(schema).items() if width}

    def forward(self, *inputs: Tensor) -> Float[Tensor, "batch"]:
        given = dict(zip(self.widths, inputs, strict=True))
        rows = inputs[0].shape[0]
        ids, numbers, dense = (
            given[name] if name in given else inputs[0].new_zeros((rows, 0), dtype=_dtype(name)) for name in INPUTS
        )
        labels = inputs[0].new_zeros((rows, 1), dtype=torch.float32)
        return probabilities(self.loss, self.model(FeatureBatch(ids, numbers, dense, labels)))


def export_click_model(scorer: ClickScorer, folder: Path, formats: Sequence[Format] = ("pt2",)) -> dict[Format, Path]:
    """Write ``model.<format>`` into `folder`, each file atomically. ``onnx`` needs the extra of that name.

    Only the model is exported; encode rows with `ClickScorer.encode`, or by ``encoders.json`` of the saved model.
    `ConfigError` for a model that looks at histories, which are no input of exported models.
    """
    if scorer.history_length:
        raise ConfigError(
            "a model that looks at histories cannot be exported: exported models take rows alone; serve it with "
            "ClickScorer"
        )
    if "onnx" in formats and not all(find_spec(name) for name in ("onnx", "onnxscript")):
        raise ConfigError("export to ONNX needs onnx and onnxscript; pip install 'llm-rec[onnx]'")
    program = traced(scorer)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[Format, Path] = {}
    for form in formats:
        path = folder / f"model.{form}"
        with replacing(path) as partial:
            _write(program, partial, form, list(module_of(scorer).widths))
        written[form] = path
    return written


def module_of(scorer: ClickScorer) -> ScoringModule:
    """The module that is exported, on the CPU, in evaluation mode."""
    return ScoringModule(scorer.model.cpu().eval(), scorer.loss, scorer.schema).eval()


def traced(scorer: ClickScorer) -> torch.export.ExportedProgram:
    """The graph, with a free batch axis."""
    module = module_of(scorer)
    example = tuple(torch.zeros(_ROWS, width, dtype=_dtype(name)) for name, width in module.widths.items())
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(module, example, dynamic_shapes=(tuple({0: batch} for _ in example),))


def exported_inputs(columns: ClickColumns, schema: Schema) -> dict[str, Tensor]:
    """Encoded rows as an exported model takes them, by name."""
    arrays = {"ids": columns.ids, "numbers": columns.numbers, "dense": columns.dense}
    return {name: torch.tensor(arrays[name], dtype=_dtype(name)) for name, width in widths_of(schema).items() if width}


def widths_of(schema: Schema) -> dict[str, int]:
    """Columns of each input."""
    return {
        "ids": sum(map(columns_of, schema.id_fields)),
        "numbers": len(schema.number_columns),
        "dense": max((place.stop for place in schema.dense_columns.values()), default=0),
    }


def _write(program: torch.export.ExportedProgram, path: Path, form: Format, names: Sequence[str]) -> None:
    if form == "pt2":
        with path.open("wb") as file:
            torch.export.save(program, file)
        return
    with _quiet_exporter():
        made = torch.onnx.export(
            program, dynamo=True, input_names=names, output_names=[OUTPUT], external_data=False, verbose=False
        )
    if made is None:
        raise ConfigError("torch made no ONNX program of this model; export it as pt2")
    made.save(str(path))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what torch's exporter says of its own deprecations and of operators of packages that are not needed."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _dtype(name: str) -> torch.dtype:
    return torch.int64 if name == "ids" else torch.float32
