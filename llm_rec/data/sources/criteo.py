"""Criteo display advertising (Kaggle 2014): 13 counts I1..I13 and 26 hashed categories C1..C26, a click or none.

| variant | files | numbers |
|---|---|---|
| kaggle | ``train.txt``, tabs, no header; parted here at random | counts, put into log bins |
| x4 | ``train.csv``, ``valid.csv``, ``test.csv`` with a header (BARS) | counts, put into log bins |
| x1 | the same three files (BARS) | scaled already, taken as numbers |

The data may not be redistributed, so nothing of it comes with this library.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ctr_models.encode import LogBinsConfig, NumberConfig, VocabularyConfig
from llm_rec.data.log_spec import (
    ByFilesConfig,
    ByFractionsConfig,
    ClickSource,
    ColumnSpec,
    LabelSpec,
    LogSpec,
    Part,
    TableFile,
)
from llm_rec.errors import DataError

NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
BARS_FILES: dict[Part, str] = {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CriteoConfig:
    """`path` is ``train.txt`` (kaggle) or the folder of the three csv files (x1, x4).

    `min_count` None is the published threshold of 10 (arXiv 2310.04400), but counted on the train rows alone: the
    published code counts the whole file, test rows among them. On x1, whose rare values were merged before it was
    parted, None is 1. `parts` is for kaggle only; the others come parted.
    """

    path: Path
    variant: Literal["kaggle", "x1", "x4"] = "kaggle"
    min_count: int | None = None
    parts: ByFractionsConfig = field(default_factory=ByFractionsConfig)


def criteo(config: CriteoConfig) -> ClickSource:
    """Files and fields of a copy of Criteo."""
    min_count = config.min_count or (1 if config.variant == "x1" else 10)
    numbers = NumberConfig(scale="none") if config.variant == "x1" else LogBinsConfig(min_count=min_count)
    columns = (
        *(ColumnSpec(name=name, encoder=numbers) for name in NUMBERS),
        *(ColumnSpec(name=name, encoder=VocabularyConfig(min_count=min_count)) for name in CATEGORIES),
    )
    if config.variant == "kaggle":
        file = TableFile(path=config.path, names=("label", *NUMBERS, *CATEGORIES), delimiter="\t", form="csv")
        return ClickSource((file,), LogSpec(columns=columns, parts=config.parts))
    files = bars_files(config.path)
    label = LabelSpec(column=first_header(files[0].path, ("label", "Label")))
    return ClickSource(files, LogSpec(columns=columns, labels=(label,), parts=ByFilesConfig()))


def bars_files(folder: Path) -> tuple[TableFile, ...]:
    """The three files of a BARS split (Zhu et al., SIGIR 2022); `DataError` for the first that is missing."""
    for name in BARS_FILES.values():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: no such file; a BARS split is {', '.join(BARS_FILES.values())}")
    return tuple(TableFile(path=folder / name, part=part) for part, name in BARS_FILES.items())


def first_header(path: Path, names: tuple[str, ...]) -> str:
    """The first of `names` in the header line of a csv file."""
    with path.open(encoding="utf-8") as lines:
        header = lines.readline().rstrip("\r\n").split(",")
    found = [name for name in names if name in header]
    if not found:
        raise DataError(f"{path}: no column {' or '.join(names)} in the header ({', '.join(header)})")
    return found[0]
