"""Census-income (KDD, UCI): 199,523 train and 99,762 test rows of 40 fields; does a person earn above 50,000?

The usual second task of multi-task papers is whether a person never married (`marital_stat`); that column is then a
label and no longer a field. The instance weight of the raw file (`unknown` in some copies) is no field either.
"""

from dataclasses import dataclass, field
from pathlib import Path

from ctr_models.encode import EncoderConfig, NumberConfig, QuantileConfig, VocabularyConfig
from llm_rec.data.log_spec import ByFilesConfig, ClickSource, ColumnSpec, LabelSpec, LogSpec, TableFile

NUMBERS = (*("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked"),)
CATEGORIES = (
    *("class_worker", "det_ind_code", "det_occ_code", "education", "hs_college", "marital_stat", "major_ind_code"),
    *("major_occ_code", "race", "hisp_origin", "sex", "union_member", "unemp_reason", "full_or_part_emp"),
    *("tax_filer_stat", "region_prev_res", "state_prev_res", "det_hh_fam_stat", "det_hh_summ", "mig_chg_msa"),
    *("mig_chg_reg", "mig_move_reg", "mig_same", "mig_prev_sunbelt", "fam_under_18", "country_father"),
    *("country_mother", "country_self", "citizenship", "own_or_self", "vet_question", "vet_benefits", "year"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CensusConfig:
    """`path` is the folder with ``train.parquet`` and ``test.parquet``; validation rows are drawn from the train file.

    `numbers` are the encoders of the seven numeric fields: quantile bins (so that every field has a table), or None for
    standardised numbers, the tail tamed by a logarithm.
    """

    path: Path
    min_count: int = 1
    bins: int | None = 20
    marital_task: bool = False
    parts: ByFilesConfig = field(default_factory=lambda: ByFilesConfig(validation=0.1))


def census_income(config: CensusConfig) -> ClickSource:
    """Files, fields and one or two labels."""
    number: EncoderConfig = NumberConfig(log=True) if config.bins is None else QuantileConfig(bins=config.bins)
    labels = [LabelSpec(name="income", column="income_above_50k")]
    categories = [name for name in CATEGORIES if not (config.marital_task and name == "marital_stat")]
    if config.marital_task:
        labels.append(LabelSpec(name="never_married", column="marital_stat", equals="Never married"))
    columns = (
        *(ColumnSpec(name=name, encoder=number) for name in NUMBERS),
        *(ColumnSpec(name=name, encoder=VocabularyConfig(min_count=config.min_count)) for name in categories),
    )
    files = (
        TableFile(path=config.path / "train.parquet", part="train"),
        TableFile(path=config.path / "test.parquet", part="test"),
    )
    return ClickSource(files, LogSpec(columns=columns, labels=tuple(labels), parts=config.parts))
