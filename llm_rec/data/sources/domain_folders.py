"""Several folders of items and interactions as one log of domains: Amazon categories, shops, countries.

Items of different folders are different items, also under one id. Users are shared by their ids. A user's events in one
folder are one history, from which validation and test events come, so the log counts a user once a folder; `people`
says who they are, and is what the field of users is to be made of.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions
from llm_rec.data.sources.folder import FolderConfig, load_folder
from llm_rec.errors import DataError

DOMAIN = "domain"


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainFoldersConfig:
    """Folders as `FolderConfig` reads them; the name of a folder is its domain. All have the columns `keep`."""

    paths: tuple[Path, ...]
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [path.name for path in self.paths]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"name at least two folders with different names, got {names}")
        if DOMAIN in self.keep:
            raise ValueError(f"keep: the name {DOMAIN!r} is taken; rename that column")


class DomainFolders(NamedTuple):
    """Catalog (its column ``domain`` among the kept ones), log, and the person behind each user of the log."""

    catalog: Catalog
    log: Interactions
    people: list[str]


@dataclass(frozen=True, eq=False)
class _Piled:
    item_ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    users: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)
    items: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray | None] = field(default_factory=list)


def load_domain_folders(config: DomainFoldersConfig) -> DomainFolders:
    """One catalog and one log; `DataError` where a folder has clock times and another has none."""
    piled = _Piled(columns={name: [] for name in (DOMAIN, *config.keep)})
    for path in config.paths:
        catalog, log = load_folder(FolderConfig(path=path, keep=config.keep))
        piled.items.append(log.items + len(piled.item_ids))
        piled.item_ids.extend(f"{path.name}/{item}" for item in catalog.item_ids)
        piled.texts.extend(catalog.texts)
        piled.columns[DOMAIN].extend([path.name] * len(catalog))
        for name in config.keep:
            piled.columns[name].extend(catalog.columns[name])
        piled.users.extend(f"{path.name}/{user}" for user in log.user_ids)
        piled.people.extend(log.user_ids)
        piled.lengths.append(np.diff(log.offsets))
        piled.times.append(log.times)
    known = [times for times in piled.times if times is not None]
    if known and len(known) < len(piled.times):
        bare = config.paths[[times is None for times in piled.times].index(True)]
        raise DataError(f"{bare}: no clock times, and other folders have them; give all folders times, or none")
    catalog = Catalog(piled.item_ids, piled.texts, piled.columns)
    log = Interactions(
        piled.users,
        np.concatenate([[0], np.cumsum(np.concatenate(piled.lengths))]).astype(np.int64),
        np.concatenate(piled.items).astype(np.int64),
        np.concatenate(known) if known else None,
        num_items=len(catalog),
        catalog=catalog.fingerprint,
    )
    return DomainFolders(catalog, log, piled.people)
