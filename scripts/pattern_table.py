"""Patterns of behaviour (DPN) over three encoders, and what each of its parts is worth: AUC, GAUC, log loss, denoising.

    python scripts/pattern_table.py --data DATA/ml-1m --seeds 3 --out out/patterns

DPN is a reconstruction from the published description (arXiv 2404.11456); the paper's hyper-parameters are unknown to
us, and no figure of the paper stands here. Encoders are DARE's attention with its two kinds of tables, DIN over all
events and BST, under one head without a second one. Every row is trained alike (`TRAINER`), after the pre-training of
the refiner where the row has a refiner to pre-train; the epoch of the best validation AUC is tested.

Data are the planted log, where a click depends on three items in a row among noise (`llm_rec.ctr.planted_patterns`; the
best AUC that a model could have is in the notes), and `--data`: leave-one-out, the last 22 events of each user, two
negatives each, histories of 50 events. Rows with a refiner say how well it denoises in the trained model: `recovered`
of what a corruption took away beside `popular`, the most frequent item, and `restored` beside `unchanged`, events left
as they are; on the planted log, whose noise is known, `precision` and `recall` of P(noise) > 1/2, and `r_precision`,
precision among as many of the most suspicious events as there is noise, beside `noise_share`, that of chance.

The default grid is `reduced`: all ablations over DARE's attention on both logs, over the other encoders the model with
patterns, without pre-training, and without patterns. `--grid full` has every ablation over every encoder, and over
DARE's attention on the planted log other lengths of patterns, numbers of them and ratios of noise.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModel, CTRModelConfig
from ctr_models.sequences import presets
from ctr_models.sequences.bst import BSTConfig
from ctr_models.sequences.din import DINConfig
from ctr_models.sequences.encoder import EncoderConfig
from ctr_models.sequences.events import EventsConfig
from ctr_models.sequences.pattern_ablations import pattern_ablations
from ctr_models.sequences.pattern_corruption import CorruptionConfig, NoiseItems
from ctr_models.sequences.pattern_refiner import TransformerRefiner, TransformerRefinerConfig
from ctr_models.sequences.pattern_windows import id_windows
from ctr_models.sequences.patterns import DPN, PatternConfig
from ctr_models.sequences.target_attention import TargetAttentionConfig
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.event_windows import EventSequences
from llm_rec.ctr.histories import event_numbers
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.ctr.pattern_metrics import noise_report, recovery_report
from llm_rec.ctr.pattern_pretraining import PatternPretrainingConfig
from llm_rec.ctr.planted_patterns import PlantedPatterns, PlantedPatternsConfig, planted_patterns
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import Record
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log
from llm_rec.recipes.click_tables import (
    ClickRow,
    click_exit_status,
    full_name,
    run_clicks,
    select_clicks,
    write_click_results,
)
from llm_rec.recipes.tables import grid_options
from llm_rec.training.trainer import TrainerConfig
