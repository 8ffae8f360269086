"""Ali-CCP (Ma et al., SIGIR 2018; Tianchi data set 408): impressions of Taobao's recommender with clicks and purchases.

``sample_skeleton_{train,test}.csv`` and ``common_features_{train,test}.csv``, in one folder or in its subfolders
``sample_train`` and ``sample_test``; the format is that of `llm_rec.data.ali_ccp_files`. The domain is field 301
(values 1, 2 and 3 in papers on several domains, such as arXiv 2405.12706), the group of a row its user (field 101).
Tasks are click and conversion, both of an impression: 0 without a click, so the second is what ESMM calls CTCVR.

Known from public code, not checked against the files: that there is no header, that
rows without a click may say that something was bought (`drop_inconsistent` leaves them out, as public code does), and
what fields mean: 205 the item, 206 its category, 207 its shop, 210 its intentions, 216 its brand; 121 to 129 are of the
user; 508, 509, 702 and 853 cross user and item; 109_14, 110_14, 127_14 and 150_14 list what the user did before.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ctr_models.encode import MultiValueConfig, NumberConfig, VocabularyConfig
from llm_rec.data.ali_ccp_files import CONSISTENT, common_file
from llm_rec.data.log_spec import (
    ByFilesConfig,
    ClickSource,
    ColumnSpec,
    KeepRows,
    LabelSpec,
    LogSpec,
    Part,
    TableFile,
)
from llm_rec.errors import DataError

USER, ITEM, DOMAIN = "101", "205", "301"
USER_FIELDS = (USER, "121", "122", "124", "125", "126", "127", "128", "129")
ITEM_FIELDS = (ITEM, "206", "207", "210", "216")
CROSS_FIELDS = ("508", "509", "702", "853")
LIST_FIELDS = ("109_14", "110_14", "127_14", "150_14")
LABELS = {"click": LabelSpec(name="click"), "conversion": LabelSpec(name="conversion", column="buy")}


@dataclass(frozen=True, kw_only=True, slots=True)
class AliCCPConfig:
    """`path` is the folder of the four files, or of the two folders that hold them.

    Values with fewer than `min_count` train rows are unknown; 10 is what public code takes (it counts all rows, this
    one the train rows alone). `list_length` adds the fields that list what a user did before, so many features each (0:
    left out); the common features of a file are held in memory, 4 bytes each. `values` adds the numbers that stand
    beside the cross fields. Of a field that occurs more than once in a row, but for lists, the first feature counts.

    The test file is the test part, and validation rows are drawn from the train file (our choice: some public code
    halves the test file instead). Rows of other domains than `domains` are left out.
    """

    path: Path
    tasks: tuple[Literal["click", "conversion"], ...] = ("click", "conversion")
    domains: tuple[str, ...] = ("1", "2", "3")
    min_count: int = 10
    list_length: int = 0
    values: bool = False
    drop_inconsistent: bool = True
    parts: ByFilesConfig = field(default_factory=lambda: ByFilesConfig(validation=0.1))

    def __post_init__(self) -> None:
        if self.list_length < 0:
            raise ValueError(f"list_length must not be negative, got {self.list_length}")
        if not self.tasks:
            raise ValueError("tasks must name click, conversion, or both")


def ali_ccp(config: AliCCPConfig) -> ClickSource:
    """The two skeletons and their fields; `DataError` for a file that is missing."""
    ids = VocabularyConfig(min_count=config.min_count)
    columns = [ColumnSpec(name=name, encoder=ids) for name in (*USER_FIELDS, *ITEM_FIELDS, *CROSS_FIELDS)]
    columns.append(ColumnSpec(name=DOMAIN, encoder=VocabularyConfig()))
    if config.list_length:
        encoder = MultiValueConfig(length=config.list_length, min_count=config.min_count)
        columns += [
            ColumnSpec(name=name, column=f"{name}[{config.list_length}]", encoder=encoder) for name in LIST_FIELDS
        ]
    if config.values:
        number = NumberConfig(log=True)
        columns += [ColumnSpec(name=f"{name}_value", column=f"{name}:value", encoder=number) for name in CROSS_FIELDS]
    keep = [KeepRows(column=DOMAIN, values=config.domains)]
    if config.drop_inconsistent:
        keep.append(KeepRows(column=CONSISTENT, values=("1",)))
    spec = LogSpec(
        columns=tuple(columns),
        labels=tuple(LABELS[task] for task in config.tasks),
        parts=config.parts,
        group=USER,
        domain=DOMAIN,
        keep=tuple(keep),
    )
    return ClickSource((_file(config.path, "train"), _file(config.path, "test")), spec)


def _file(folder: Path, part: Part) -> TableFile:
    name = f"sample_skeleton_{part}.csv"
    found = [path for path in (folder / name, folder / f"sample_{part}" / name) if path.is_file()]
    if not found:
        raise DataError(f"{folder}: no {name} here, nor in sample_{part}; give the folder with Ali-CCP's csv files")
    if not common_file(found[0]).is_file():
        raise DataError(f"{common_file(found[0])}: no such file; it holds the user features of {name}")
    return TableFile(path=found[0], part=part, form="ali_ccp")
