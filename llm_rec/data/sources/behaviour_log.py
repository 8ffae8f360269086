"""One door to the sources of behaviour logs."""

from typing import TypeAlias, assert_never

from llm_rec.data.behaviours import BehaviourSource
from llm_rec.data.sources import taobao as taobao_module
from llm_rec.data.sources import tmall as tmall_module
from llm_rec.data.sources.kuairand import KuairandConfig, kuairand
from llm_rec.data.sources.taobao import TaobaoConfig, taobao
from llm_rec.data.sources.tmall import TmallConfig, tmall

BehaviourLogConfig: TypeAlias = TaobaoConfig | TmallConfig | KuairandConfig


def behaviour_source(config: BehaviourLogConfig, min_events: int = 1) -> BehaviourSource:
    """The files and what they mean; users with fewer than `min_events` events are left out while reading."""
    match config:
        case TaobaoConfig():
            return taobao(config, min_events)
        case TmallConfig():
            return tmall(config, min_events)
        case KuairandConfig():
            return kuairand(config, min_events)
        case _:
            assert_never(config)


def published_counts(config: BehaviourLogConfig) -> dict[str, int]:
    """What the literature counts in the whole log, as far as known; another number means another copy."""
    match config:
        case TaobaoConfig():
            return taobao_module.PUBLISHED if config.behaviours == ("pv",) else {}
        case TmallConfig():
            return tmall_module.PUBLISHED if config.actions == ("0",) else {}
        case KuairandConfig():
            return {}
        case _:
            assert_never(config)
