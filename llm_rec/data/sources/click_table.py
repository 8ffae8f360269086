"""Click logs of your own: any parquet or csv files with a `LogSpec`; and one door to all sources of click logs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, assert_never

from llm_rec.artifacts import read_json
from llm_rec.codec import from_plain
from llm_rec.data.log_spec import ClickSource, LogSpec, TableFile
from llm_rec.data.sources.ali_ccp import AliCCPConfig, ali_ccp
from llm_rec.data.sources.avazu import AvazuConfig, avazu
from llm_rec.data.sources.census import CensusConfig, census_income
from llm_rec.data.sources.criteo import CriteoConfig, criteo
from llm_rec.data.sources.frappe import FrappeConfig, frappe
from llm_rec.data.sources.kuairand_domains import KuairandDomainsConfig, kuairand_domains
from llm_rec.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickTableConfig:
    """Files (relative to the working directory) and their spec: here, or in the JSON file `spec_file`.

    `paths` are files that need no more words than their name: one after the other, read as their names say.
    """

    paths: tuple[Path, ...] = ()
    files: tuple[TableFile, ...] = ()
    spec: LogSpec | None = None
    spec_file: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.paths):
            raise ValueError("set exactly one of files and paths, to at least one file")
        if (self.spec is None) == (self.spec_file is None):
            raise ValueError("set exactly one of spec and spec_file")


ClickSourceConfig: TypeAlias = (
    CriteoConfig | AvazuConfig | FrappeConfig | CensusConfig | KuairandDomainsConfig | AliCCPConfig | ClickTableConfig
)


def click_table(config: ClickTableConfig) -> ClickSource:
    """Files and spec; `DataError` when the spec file is missing, no JSON, or no `LogSpec`."""
    files = config.files or tuple(TableFile(path=path) for path in config.paths)
    if config.spec is not None:
        return ClickSource(files, config.spec)
    path = Path(config.spec_file or "")
    if not path.is_file():
        raise DataError(f"{path}: no such file; spec_file is a LogSpec as JSON")
    try:
        return ClickSource(files, from_plain(LogSpec, read_json(path)))
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error


def click_source(config: ClickSourceConfig) -> ClickSource:
    """The files and the spec that `config` speaks of, ready for `llm_rec.data.log_encoding.encode_log`."""
    match config:
        case CriteoConfig():
            return criteo(config)
        case AvazuConfig():
            return avazu(config)
        case FrappeConfig():
            return frappe(config)
        case CensusConfig():
            return census_income(config)
        case KuairandDomainsConfig():
            return kuairand_domains(config)
        case AliCCPConfig():
            return ali_ccp(config)
        case ClickTableConfig():
            return click_table(config)
        case _:
            assert_never(config)
