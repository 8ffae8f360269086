"""The Gaussian posterior of a logistic last layer.

    logit ~ N(mu, s^2),    s^2 = phi^T A^-1 phi,    A = lambda I + sum over rows of p (1 - p) phi phi^T

What lies below the last layer is taken as known. A is the precision at the trained weights (Laplace's approximation);
its Cholesky factor L is kept, so that s is the length of L^-1 phi. That production uses such a posterior is not
established for arXiv 2403.00793, which names Thompson sampling on uncertainty alone: this one is our choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError, DataError

KIND = "last-layer-posterior"
_SETTINGS, _TENSORS = "posterior.json", "posterior.safetensors"


class LogitBeliefs(NamedTuple):
    """Mean and standard deviation of logits. `root` is a square root of their joint covariance over the last axis of
    `mean`, root root^T, for draws that keep what logits have in common; None where only marginals are known.
    """

    mean: Float64[Tensor, "*shape"]
    std: Float64[Tensor, "*shape"]
    root: Float64[Tensor, "*shape rank"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PosteriorConfig:
    """`prior_precision` is lambda. `decay` below 1 forgets: every update multiplies what older rows said by it, while
    the prior stays, so that the deviation of what is no longer shown grows back to the prior's. Our choice.
    """

    prior_precision: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.prior_precision < float("inf"):
            raise ConfigError(f"prior_precision must be finite and above 0, got {self.prior_precision}")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay must lie in (0, 1], got {self.decay}")


class LastLayerPosterior:
    """The factor L of A = L L^T over `dim` features, in float64 on one device; no rows at the start."""

    def __init__(self, config: PosteriorConfig, dim: int, *, device: torch.device | str = "cpu") -> None:
        if dim < 1:
            raise ConfigError(f"a posterior needs at least 1 feature, got {dim}")
        self.config = config
        self.factor = config.prior_precision**0.5 * torch.eye(dim, dtype=torch.float64, device=device)

    @property
    def dim(self) -> int:
        return len(self.factor)

    @property
    def precision(self) -> Float64[Tensor, "dim dim"]:
        """A."""
        precision: Tensor = self.factor @ self.factor.T
        return precision

    def update(
        self,
        features: Float[Tensor, "rows features"],
        probabilities: Float[Tensor, "rows"],
        weights: Float[Tensor, "rows"] | None = None,
    ) -> None:
        """Take in rows that were shown, with their predicted probabilities, whatever came of them; `weights` as in the
        loss. One row costs O(dim^2), more at once O(dim^3 + rows dim^2). An update is one tick of the decay.

        Raises `DataError` for values that are not finite, probabilities outside 0..1, and negative weights.
        """
        rows = self._checked(features)
        chances = probabilities.to(rows)
        curvature = chances * (1 - chances)
        if weights is not None:
            curvature = curvature * weights.to(rows)
        if not bool(((chances >= 0) & (chances <= 1)).all() and ((curvature >= 0) & curvature.isfinite()).all()):
            raise DataError("probabilities must lie in 0..1, and weights must be finite and not negative")
        scaled = rows * curvature.sqrt().unsqueeze(1)
        decay = self.config.decay
        if len(rows) == 1 and decay == 1:
            self.factor = raised_factor(self.factor, scaled[0])
        else:
            prior = (1 - decay) * self.config.prior_precision * torch.eye(self.dim).to(rows)
            self.factor = torch.linalg.cholesky(decay * self.precision + prior + scaled.T @ scaled)

    def roots(self, features: Float[Tensor, "*shape features"]) -> Float64[Tensor, "*shape features"]:
        """L^-1 phi of every row: their inner products are the covariances of the rows' logits."""
        rows = self._checked(features).flatten(0, -2)
        roots: Tensor = torch.linalg.solve_triangular(self.factor, rows.T, upper=False).T
        return roots.reshape(features.shape)

    def variance(self, features: Float[Tensor, "*shape features"]) -> Float64[Tensor, "*shape"]:
        """s^2 of every row."""
        return self.roots(features).square().sum(-1)

    def beliefs(self, mean: Float[Tensor, "*shape"], features: Float[Tensor, "*shape features"]) -> LogitBeliefs:
        """Logits `mean` with the deviations that `features` give them, and the root of their covariance."""
        roots = self.roots(features)
        return LogitBeliefs(mean.to(roots), roots.square().sum(-1).sqrt(), roots)

    def solve(self, vector: Float64[Tensor, "dim"]) -> Float64[Tensor, "dim"]:
        """A^-1 vector."""
        return torch.cholesky_solve(vector.unsqueeze(1), self.factor).squeeze(1)

    def save(self, folder: Path | str, inputs: Mapping[str, str] | None = None, *, overwrite: bool = False) -> None:
        """Write the artefact `folder`; `inputs` are fingerprints of the model and the rows that it belongs to."""
        factor = self.factor.cpu().contiguous()
        digest = fingerprint(KIND, {"config": to_plain(self.config)}, factor.numpy().tobytes())
        with write_artifact(Path(folder), kind=KIND, fingerprint=digest, inputs=inputs, overwrite=overwrite) as partial:
            write_json(partial / _SETTINGS, self.config)
            save_file({"factor": factor}, partial / _TENSORS)

    @classmethod
    def load(
        cls, folder: Path | str, inputs: Mapping[str, str] | None = None, *, device: torch.device | str = "cpu"
    ) -> "LastLayerPosterior":
        """The posterior saved in `folder`; `ArtifactError` when it is damaged, something else, or made from others
        than `inputs`.
        """
        folder = Path(folder)
        manifest = read_manifest(folder, KIND)
        for name, mark in (inputs or {}).items():
            manifest.require_input(name, mark, where=folder)
        try:
            config = from_plain(PosteriorConfig, read_json(folder / _SETTINGS))
            factor = load_file(folder / _TENSORS, device=str(device))["factor"]
        except (OSError, SafetensorError, KeyError, ConfigError) as error:
            raise ArtifactError(f"{folder}: not a saved posterior ({error}); make it again") from error
        if factor.dtype != torch.float64 or factor.ndim != 2 or factor.shape[0] != factor.shape[1]:
            raise ArtifactError(f"{folder}: the factor is {factor.dtype} {tuple(factor.shape)}; make it again")
        posterior = cls(config, len(factor), device=device)
        posterior.factor = factor
        return posterior

    def _checked(self, features: Float[Tensor, "*shape features"]) -> Float64[Tensor, "*shape features"]:
        if features.shape[-1] != self.dim:
            raise DataError(f"rows have {features.shape[-1]} features, but the posterior has {self.dim}")
        if not bool(features.isfinite().all()):
            raise DataError("a feature is not finite (NaN or infinite); check the model's weights")
        return features.to(self.factor)


def raised_factor(factor: Float64[Tensor, "dim dim"], vector: Float64[Tensor, "dim"]) -> Float64[Tensor, "dim dim"]:
    """The Cholesky factor of L L^T + v v^T, in O(dim^2) and without a loop.

    With p = L^-1 v it is L K, K the factor of I + p p^T, which is known: with c_j = 1 + p_1^2 + ... + p_j^2,
    K_jj = sqrt(c_j / c_(j-1)) and K_ij = p_i p_j / sqrt(c_j c_(j-1)) below the diagonal. So column j of L K is column j
    of L times K_jj, plus p_j / sqrt(c_j c_(j-1)) times the sum over i > j of p_i L_i.
    """
    p = torch.linalg.solve_triangular(factor, vector.unsqueeze(1), upper=False).squeeze(1)
    after = 1 + p.square().cumsum(0)
    before = after - p.square()
    parts = factor * p
    later = parts.flip(1).cumsum(1).flip(1) - parts
    raised: Tensor = factor * (after / before).sqrt() + later * (p / (after * before).sqrt())
    return raised
