"""Adapters from raw files, public ones or your own, to a catalog and a log."""

from typing import assert_never

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions
from llm_rec.data.sources.amazon import AmazonConfig, load_amazon
from llm_rec.data.sources.folder import FolderConfig, FramesConfig, load_folder, load_frames
from llm_rec.data.sources.mind import MINDConfig, load_mind
from llm_rec.data.sources.movielens import MovieLensConfig, load_movielens, obtain_movielens, read_movielens

SourceConfig = MovieLensConfig | AmazonConfig | MINDConfig | FolderConfig | FramesConfig


def load_source(config: SourceConfig) -> tuple[Catalog, Interactions]:
    """The catalog and the log that `config` speaks of."""
    match config:
        case MovieLensConfig():
            return load_movielens(config)
        case AmazonConfig():
            return load_amazon(config)
        case MINDConfig():
            return load_mind(config)
        case FolderConfig():
            return load_folder(config)
        case FramesConfig():
            return load_frames(config)
        case _:
            assert_never(config)


__all__ = [
    "AmazonConfig",
    "FolderConfig",
    "FramesConfig",
    "MINDConfig",
    "MovieLensConfig",
    "SourceConfig",
    "load_source",
    "obtain_movielens",
    "read_movielens",
]
