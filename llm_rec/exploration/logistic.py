"""Bayesian logistic regression on given features: its mean by Newton's method, its covariance by Laplace."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import softplus

from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError, DataError, TrainingError
from llm_rec.exploration.posterior import LastLayerPosterior, LogitBeliefs, PosteriorConfig

KIND = "bayesian-logistic"
STEPS, HALVINGS, TOLERANCE = 100, 40, 1e-9
_SETTINGS, _TENSORS = "logistic.json", "logistic.safetensors"


class BayesianLogistic:
    """Weights ~ N(mean, A^-1): what logits are believed to be, and how one round of clicks changes that."""

    def __init__(self, mean: Float64[Tensor, "dim"], posterior: LastLayerPosterior) -> None:
        if len(mean) != posterior.dim:
            raise ConfigError(f"there are {len(mean)} weights, but the posterior has {posterior.dim} features")
        self.mean, self.posterior = mean, posterior

    def beliefs(self, features: Float[Tensor, "*shape features"]) -> LogitBeliefs:
        """Logits of rows of features, the last axis; over the axis before it they have a joint covariance."""
        return self.posterior.beliefs(features.to(self.mean) @ self.mean, features)

    def observe(
        self,
        features: Float[Tensor, "rows features"],
        labels: Float[Tensor, "rows"],
        weights: Float[Tensor, "rows"] | None = None,
    ) -> None:
        """Learn from new rows without the old ones: A takes them in, then one Newton step, mean + A^-1 sum (y - p) phi.

        Many small updates come near to a fit of all rows at once, the nearer, the smaller they are (our choice of an
        online rule). A decay of the posterior forgets here as there.
        """
        rows = features.to(self.mean)
        chances = torch.sigmoid(rows @ self.mean)
        errors = labels.to(rows) - chances
        self.posterior.update(rows, chances, weights)
        gradient = rows.T @ (errors if weights is None else errors * weights.to(rows))
        self.mean = self.mean + self.posterior.solve(gradient)

    def save(self, folder: Path | str, inputs: Mapping[str, str] | None = None, *, overwrite: bool = False) -> None:
        """Write the artefact `folder`, whole or not at all."""
        tensors = {"mean": self.mean.cpu().contiguous(), "factor": self.posterior.factor.cpu().contiguous()}
        raw = (part for name, value in tensors.items() for part in (name, value.numpy().tobytes()))
        digest = fingerprint(KIND, {"config": to_plain(self.posterior.config)}, *raw)
        with write_artifact(Path(folder), kind=KIND, fingerprint=digest, inputs=inputs, overwrite=overwrite) as partial:
            write_json(partial / _SETTINGS, self.posterior.config)
            save_file(tensors, partial / _TENSORS)

    @classmethod
    def load(cls, folder: Path | str) -> "BayesianLogistic":
        """The regression saved in `folder`; `ArtifactError` when it is damaged or something else."""
        folder = Path(folder)
        read_manifest(folder, KIND)
        try:
            config = from_plain(PosteriorConfig, read_json(folder / _SETTINGS))
            tensors = load_file(folder / _TENSORS)
            posterior = LastLayerPosterior(config, len(tensors["mean"]))
            posterior.factor = tensors["factor"]
            return cls(tensors["mean"], posterior)
        except (OSError, SafetensorError, KeyError, ConfigError) as error:
            raise ArtifactError(f"{folder}: not a saved regression ({error}); fit it again") from error


def fit_logistic(
    features: Float[Tensor, "rows features"],
    labels: Float[Tensor, "rows"],
    config: PosteriorConfig,
    *,
    prior_mean: Float[Tensor, "features"] | None = None,
    weights: Float[Tensor, "rows"] | None = None,
) -> BayesianLogistic:
    """The weights that maximise the posterior under the prior N(prior_mean, 1 / lambda) (zeros without one), and A
    there: minimise sum w [softplus(z) - y z] + lambda / 2 |v - prior_mean|^2, convex, by Newton with halved steps.

    Give the constant feature the log odds of the label's rate as its prior mean where clicks are rare: a prior around 0
    would pull rates towards one half. Raises `DataError` for labels outside 0..1, and `TrainingError` where it does not
    converge.
    """
    rows, wanted = features.double(), labels.double()
    if not bool(((wanted >= 0) & (wanted <= 1)).all()):
        raise DataError(f"labels must lie in 0..1, got {wanted.min().item()} to {wanted.max().item()}")
    counts = torch.ones_like(wanted) if weights is None else weights.double()
    centre = torch.zeros(rows.shape[1]).to(rows) if prior_mean is None else prior_mean.to(rows)
    precision = config.prior_precision

    def objective(mean: Tensor) -> Tensor:
        logits = rows @ mean
        fit = (counts * (softplus(logits, threshold=40) - wanted * logits)).sum()
        return fit + precision / 2 * (mean - centre).square().sum()

    mean, value = centre, objective(centre)
    for _ in range(STEPS):
        chances = torch.sigmoid(rows @ mean)
        posterior = LastLayerPosterior(config, rows.shape[1], device=rows.device)
        posterior.update(rows, chances, counts)
        gradient = rows.T @ (counts * (chances - wanted)) + precision * (mean - centre)
        step = posterior.solve(gradient)
        slope = (gradient @ step).item()
        if slope <= TOLERANCE * max(1.0, abs(value.item())):
            return BayesianLogistic(mean, posterior)
        mean, value = _line_search(objective, mean, value, step, slope)
    raise TrainingError(f"Newton's method did not converge in {STEPS} steps; raise prior_precision or scale features")


def _line_search(
    objective: Callable[[Tensor], Tensor], mean: Tensor, value: Tensor, step: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    """The longest of the halved steps that lowers the objective enough (Armijo)."""
    for halvings in range(HALVINGS):
        found = mean - step / 2**halvings
        moved = objective(found)
        if moved <= value - 0.25 / 2**halvings * slope:
            return found, moved
    return mean, value
