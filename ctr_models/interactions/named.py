"""Every preset by name, at its default size, for command lines and tables.

Most are the same over any schema; field-aware models size their vectors by it.
"""

from collections.abc import Callable
from difflib import get_close_matches
from types import MappingProxyType
from typing import TypeAlias

from ctr_models.interactions import module_presets, multi_embedding, presets
from ctr_models.model import CTRModelConfig
from ctr_models.schema import Schema

Preset: TypeAlias = Callable[[Schema], CTRModelConfig]


def preset(name: str, schema: Schema) -> CTRModelConfig:
    """The config called `name` over `schema`; ValueError for a name that is not in `PRESETS`.

    >>> from ctr_models.schema import Categorical
    >>> schema = Schema(fields=tuple(Categorical(name=name, size=9) for name in ("user", "item", "hour")))
    >>> preset("dcn_v2", schema).dim, preset("ffm", schema).dim  # 4 numbers for each of 2 partners
    (10, 8)
    """
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(PRESETS)}"
        raise ValueError(f"no preset is called {name!r}; {hint}")
    return SIZED[name](schema) if name in SIZED else FIXED[name]()


def _ffm(schema: Schema) -> CTRModelConfig:
    return presets.ffm(num_fields=len(schema.fields))


def _gwpfm(schema: Schema) -> CTRModelConfig:
    """A group of its own for every field, the finest there is: merge groups in the config."""
    return presets.gwpfm(tuple(range(len(schema.fields))))


FIXED: MappingProxyType[str, Callable[[], CTRModelConfig]] = MappingProxyType(
    {
        "lr": presets.lr,
        "fm": presets.fm,
        "fwfm": presets.fwfm,
        "fvfm": presets.fvfm,
        "fmfm": presets.fmfm,
        "hofm": presets.hofm,
        "deepim": presets.deepim,
        "nfm": presets.nfm,
        "afm": module_presets.afm,
        "ipnn": presets.ipnn,
        "opnn": presets.opnn,
        "fibinet": presets.fibinet,
        "cin": presets.cin,
        "xdeepfm": presets.xdeepfm,
        "crossnet": presets.crossnet,
        "dcn": presets.dcn,
        "crossnet_v2": presets.crossnet_v2,
        "dcn_v2": presets.dcn_v2,
        "crossnet_mix": module_presets.crossnet_mix,
        "dcn_mix": module_presets.dcn_mix,
        "gdcn": presets.gdcn,
        "edcn": module_presets.edcn,
        "xdeepint": module_presets.xdeepint,
        "autoint": module_presets.autoint,
        "autoint_plus": module_presets.autoint_plus,
        "eulernet": module_presets.eulernet,
        "masknet": module_presets.masknet,
        "masknet_parallel": module_presets.masknet_parallel,
        "finalmlp": module_presets.finalmlp,
        "finalnet": module_presets.finalnet,
        "finalnet_product": presets.finalnet_product,
        "dnn": presets.dnn,
        "wide_deep": presets.wide_deep,
        "deepfm": presets.deepfm,
        "pfl": presets.pfl,
        "multi_dnn": multi_embedding.multi_dnn,
        "multi_dcn_v2": multi_embedding.multi_dcn_v2,
        "multi_ipnn": multi_embedding.multi_ipnn,
        "multi_nfwfm": multi_embedding.multi_nfwfm,
        "multi_xdeepfm": multi_embedding.multi_xdeepfm,
        "multi_finalmlp": multi_embedding.multi_finalmlp,
    }
)
"""Presets that are the same over any schema."""
SIZED: MappingProxyType[str, Preset] = MappingProxyType({"ffm": _ffm, "gwpfm": _gwpfm})
"""Presets whose vectors are as wide as the schema has fields."""
PRESETS = (*FIXED, *SIZED)
