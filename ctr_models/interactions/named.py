"""Every preset by name, at its default size, for command lines and tables.

A preset takes the schema: most ignore it, field-aware models size their vectors by it.
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
    return PRESETS[name](schema)


def _sized(make: Callable[[], CTRModelConfig]) -> Preset:
    """A preset that does not depend on the schema."""
    return lambda schema: make()


def _ffm(schema: Schema) -> CTRModelConfig:
    return presets.ffm(num_fields=len(schema.fields))


def _gwpfm(schema: Schema) -> CTRModelConfig:
    """A group of its own for every field, the finest there is: merge groups in the config."""
    return presets.gwpfm(tuple(range(len(schema.fields))))


PRESETS: MappingProxyType[str, Preset] = MappingProxyType(
    {
        "lr": _sized(presets.lr),
        "fm": _sized(presets.fm),
        "fwfm": _sized(presets.fwfm),
        "fvfm": _sized(presets.fvfm),
        "fmfm": _sized(presets.fmfm),
        "ffm": _ffm,
        "gwpfm": _gwpfm,
        "hofm": _sized(presets.hofm),
        "deepim": _sized(presets.deepim),
        "nfm": _sized(presets.nfm),
        "afm": _sized(module_presets.afm),
        "ipnn": _sized(presets.ipnn),
        "opnn": _sized(presets.opnn),
        "fibinet": _sized(presets.fibinet),
        "cin": _sized(presets.cin),
        "xdeepfm": _sized(presets.xdeepfm),
        "crossnet": _sized(presets.crossnet),
        "dcn": _sized(presets.dcn),
        "crossnet_v2": _sized(presets.crossnet_v2),
        "dcn_v2": _sized(presets.dcn_v2),
        "crossnet_mix": _sized(module_presets.crossnet_mix),
        "dcn_mix": _sized(module_presets.dcn_mix),
        "gdcn": _sized(presets.gdcn),
        "edcn": _sized(module_presets.edcn),
        "xdeepint": _sized(module_presets.xdeepint),
        "autoint": _sized(module_presets.autoint),
        "autoint_plus": _sized(module_presets.autoint_plus),
        "eulernet": _sized(module_presets.eulernet),
        "masknet": _sized(module_presets.masknet),
        "masknet_parallel": _sized(module_presets.masknet_parallel),
        "finalmlp": _sized(module_presets.finalmlp),
        "finalnet": _sized(module_presets.finalnet),
        "finalnet_product": _sized(presets.finalnet_product),
        "dnn": _sized(presets.dnn),
        "wide_deep": _sized(presets.wide_deep),
        "deepfm": _sized(presets.deepfm),
        "pfl": _sized(presets.pfl),
        "multi_dnn": _sized(multi_embedding.multi_dnn),
        "multi_dcn_v2": _sized(multi_embedding.multi_dcn_v2),
        "multi_ipnn": _sized(multi_embedding.multi_ipnn),
        "multi_nfwfm": _sized(multi_embedding.multi_nfwfm),
        "multi_xdeepfm": _sized(multi_embedding.multi_xdeepfm),
        "multi_finalmlp": _sized(multi_embedding.multi_finalmlp),
    }
)
