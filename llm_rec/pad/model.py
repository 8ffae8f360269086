"""PAD: pre-train, align, disentangle (arXiv 2412.04107). Three towers whose logits a frequency gate mixes.

    score(u, i) = sum_k g_k(b(i)) <u_k, v_k,i>  =  <[u_1; u_2; u_3], [g_1 v_1,i; g_2 v_2,i; g_3 v_3,i]>

The right-hand side is how the model trains, ranks and is exported: one inner product per user and item. No language model
and, after `serving_model`, no text vector is needed to serve it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.frequency_gate import BucketGateConfig, FrequencyGate, GateConfig, build_gate, paper_ends
from llm_rec.pad.alignment import AlignmentConfig, NoAlignmentConfig
from llm_rec.pad.experts import AlignedItems, ExpertItems, ExpertName, ItemInputs, TextProjectorConfig, build_expert_items
from llm_rec.pad.mmd import MultiKernelMMDConfig
from llm_rec.sequential.backbones import BackboneConfig, build_backbone
from llm_rec.sequential.items import ROWS_AT_A_TIME, IdItemsConfig, ItemSources, distinct_rows
from llm_rec.sequential.model import SequentialConfig, SequentialModel, SourceSizes
from llm_rec.sequential.protocols import Backbone
from llm_rec.sequential.sasrec import SASRecConfig, pad_sasrec
from llm_rec.sequential.task import BCEConfig, LossConfig, SampledSoftmaxConfig
