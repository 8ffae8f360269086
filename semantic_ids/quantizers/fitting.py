"""The fit loop of quantised autoencoders: plain, on one device, by optimiser steps, resumable."""

import math
import time
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from semantic_ids.autoencoder import LossWeights, QuantizedAutoencoder
from semantic_ids.codebooks import Codebooks, Quantized, reseed
from semantic_ids.files import Plain
from semantic_ids.quantizers.checkpoint import FitCheckpoint
from semantic_ids.quantizers.protocol import FitLog, Progress
from semantic_ids.vectors import Vectors, sample, seeded, take

_BATCHES, _INIT, _RESEED = 101, 102, 103  # streams of random numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Length and pace of a fit. `steps` counts optimiser steps, whatever the catalog size, warm-up included.

    The codebooks start, after `warmup_steps` of plain autoencoding, as k-means of `init_sample` encoded rows. Every
    `reseed_every` steps a code that was chosen fewer than `dead_fraction` times its fair share (rows seen / codes, so
    the threshold follows batch and codebook size) moves to a random vector of the batch; not in the last fifth of the
    steps, which let the codes settle. The learning rate rises over `ramp_steps` and falls to zero along a cosine.
    """

    steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    ramp_steps: int = 50
    warmup_steps: int = 200
    init_sample: int = 65_536
    reseed_every: int = 50
    dead_fraction: float = 0.05
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps must be in [0, steps), got {self.warmup_steps} of {self.steps}")
        for name in ("batch_size", "init_sample", "reseed_every", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.dead_fraction < 1:
            raise ValueError(f"dead_fraction must be in [0, 1), got {self.dead_fraction}")


@runtime_checkable
class Objective(Protocol):
    """A term of the loss that needs more than a batch of vectors. Also an `nn.Module`, whose buffers are kept in
    checkpoints and are no part of the quantizer.
    """

    def prepare(self, codebooks: Codebooks, step: int) -> None:
        """Called before every step after the warm-up; `step` counts from its end."""
        ...

    def __call__(
        self, quantized: Quantized, codebooks: Codebooks, rows: Int64[Tensor, " batch"], step: int
    ) -> Float[Tensor, ""]:
        """The weighted term; `rows` are the places of the batch in the vectors that are fitted."""
        ...


class AutoencoderFit:
    """One fit in progress: model, optimiser, counts of used codes, and the figures noted so far."""

    def __init__(
        self,
        model: QuantizedAutoencoder,
        config: FitConfig,
        weights: LossWeights,
        vectors: Vectors,
        seed: int,
        objective: Objective | None = None,
    ) -> None:
        self.model, self.config, self.weights, self.vectors, self.seed = model, config, weights, vectors, seed
        self.objective = objective
        self.tables = model.bottleneck.reseedable
        self.device = next(model.parameters()).device
        decayed = [p for p in model.parameters() if p is not self.tables]
        self.optimiser = torch.optim.AdamW(decayed, lr=config.learning_rate, weight_decay=config.weight_decay)
        if self.tables is not None:
            self.optimiser.add_param_group({"params": [self.tables], "weight_decay": 0.0})
        self.counts = torch.zeros((0, 0) if self.tables is None else self.tables.shape[:2], device=self.device)
        self.sums = torch.zeros(4, device=self.device)
        self.history: list[dict[str, float]] = []
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def run(self, checkpoint: FitCheckpoint, progress: Progress | None) -> FitLog:
        started = time.monotonic()
        done = self._resume(checkpoint)
        if done == 0:
            self.model.fit_scale(self.vectors)
        self.model.train()
        for step in range(done, self.config.steps):
            if step == self.config.warmup_steps:
                self._initialise()
            self._step(step)
            if (step + 1) % self.config.log_every == 0 or step + 1 == self.config.steps:
                self._note(step + 1)
                if progress is not None:
                    progress(step + 1, self.config.steps, self.history[-1])
            if (step + 1) % self.config.checkpoint_every == 0 or step + 1 == self.config.steps:
                self._checkpoint(checkpoint, step + 1)
        self.model.eval()
        return FitLog(steps=self.config.steps, history=tuple(self.history), seconds=time.monotonic() - started)

    def _step(self, step: int) -> None:
        places = self._batch(step)
        rows = take(self.vectors, places, self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(step)
        self.optimiser.zero_grad(set_to_none=True)
        if step < self.config.warmup_steps:
            reconstruction = self.model.warm_up_loss(rows, self.weights)
            torch.autograd.backward(reconstruction)
            self.sums += torch.stack([reconstruction.detach()] * 2 + [torch.zeros_like(reconstruction.detach())] * 2)
            self.optimiser.step()
            return
        if self.objective is not None:
            self.objective.prepare(self.model.bottleneck, step - self.config.warmup_steps)
        parts, quantized = self.model(rows, self.weights)
        total = parts.total
        if self.objective is not None:
            total = total + self.objective(quantized, self.model.bottleneck, places, step)
        torch.autograd.backward(total)
        self.optimiser.step()
        self.sums += torch.stack([total, parts.reconstruction, parts.codebook, parts.commitment]).detach()
        if self.tables is not None:
            self._count(quantized.codes)
            self._reseed(self.tables, step, quantized)

    def _batch(self, step: int) -> Int64[Tensor, " batch"]:
        """Rows of a step: epochs of permutations that are functions of (seed, epoch), so resuming needs no state."""
        size = min(self.config.batch_size, len(self.vectors))
        epoch, place = divmod(step, len(self.vectors) // size)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = torch.randperm(len(self.vectors), generator=seeded(self.seed, _BATCHES, epoch))
        return self.order[place * size : (place + 1) * size]

    def _learning_rate(self, step: int) -> float:
        ramp = min(1.0, (step + 1) / max(1, self.config.ramp_steps))
        return self.config.learning_rate * ramp * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))

    def _initialise(self) -> None:
        rows = sample(self.vectors, self.config.init_sample, seeded(self.seed, _INIT), self.device)
        with torch.no_grad():
            self.model.bottleneck.initialise(self.model.latent(rows), self.seed)

    def _count(self, codes: Tensor) -> None:
        ones = torch.ones(codes.T.shape, device=self.device)
        self.counts.scatter_add_(1, codes.T, ones)  # whole numbers: exact in any order

    def _reseed(self, tables: nn.Parameter, step: int, quantized: Quantized) -> None:
        since = step + 1 - self.config.warmup_steps
        if since % self.config.reseed_every or step >= 0.8 * self.config.steps:
            return
        fair = self.counts.sum(1, keepdim=True) / self.counts.shape[1]
        dead = self.counts < self.config.dead_fraction * fair
        reseed(tables, quantized.inputs, dead, seeded(self.seed, _RESEED, step))
        for name in ("exp_avg", "exp_avg_sq"):
            self.optimiser.state[tables][name].masked_fill_(dead.unsqueeze(2), 0)
        self.counts.zero_()

    def _note(self, step: int) -> None:
        since = step - (self.history[-1]["step"] if self.history else 0)
        names = ("loss", "reconstruction", "codebook", "commitment")
        means = (self.sums / since).tolist()
        self.history.append({"step": float(step), **dict(zip(names, means, strict=True))})
        self.sums.zero_()

    def _checkpoint(self, checkpoint: FitCheckpoint, step: int) -> None:
        if checkpoint.path is None:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for place, parameter in enumerate(self.model.parameters()):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{place}.{name}"] = value
        if self.objective is not None:
            buffers = cast(nn.Module, self.objective).state_dict()
            tensors |= {f"objective.{name}": value for name, value in buffers.items()}
        history = cast(list[Plain], [dict(entry) for entry in self.history])
        checkpoint.save({**tensors, "counts": self.counts, "sums": self.sums}, {"step": step, "history": history})

    def _resume(self, checkpoint: FitCheckpoint) -> int:
        found = checkpoint.load()
        if found is None:
            return 0
        tensors, notes = found
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        for place, parameter in enumerate(self.model.parameters()):
            prefix = f"optimiser.{place}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                moved = {k: v if k == "step" else v.to(self.device) for k, v in state.items()}
                self.optimiser.state[parameter].update(moved)
        if self.objective is not None:
            prefix = "objective."
            buffers = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            cast(nn.Module, self.objective).load_state_dict(buffers)
        self.counts.copy_(tensors["counts"])
        self.sums.copy_(tensors["sums"])
        self.history = cast(list[dict[str, float]], notes["history"])
        return cast(int, notes["step"])
