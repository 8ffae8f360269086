"""Whether the experts of a model of domains or tasks differ, whose tables collapsed, and whether interests entangle.

Figures have the names of what they compute. The "diversity index" of the Crocodile paper (arXiv 2405.12706) has no
published formula, and nothing here is called so. Covariance can be driven to 0 by shrinking outputs while the tower
grows, so standard deviations stand beside correlations.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from ctr_models.domains.model import DomainModel
from ctr_models.embeddings import EmbeddingTable
from ctr_models.schema import RESERVED
from llm_rec.analysis.collapse import collapse_report
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.domain_evaluation import domain_names, domain_numbers
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import ConfigError, DataError
from llm_rec.metrics.classification import auc

SMALL = 1e-8  # standard deviations below this are of a dead unit, which correlates with nothing


@dataclass(frozen=True, eq=False)
class ExpertReport:
    """Of the outputs of experts on some rows. `correlation`: mean absolute correlation between the dimensions of two
    experts, dead ones left out (NaN where none is left); `similarity`: linear CKA of two experts. `deviation` is the
    mean standard deviation of an expert's dimensions, `dead` the share of those without any.
    """

    correlation: Float64[np.ndarray, "experts experts"]
    similarity: Float64[np.ndarray, "experts experts"]
    deviation: Float64[np.ndarray, "experts"]
    dead: Float64[np.ndarray, "experts"]

    def means(self) -> dict[str, float]:
        """Means over pairs of different experts, and over experts."""
        pairs = np.triu_indices(len(self.deviation), 1)
        found = {
            "correlation": self.correlation[pairs],
            "similarity": self.similarity[pairs],
            "deviation": self.deviation,
            "dead": self.dead,
        }
        return {name: float(np.nanmean(values)) for name, values in found.items() if np.isfinite(values).any()}


@dataclass(frozen=True, eq=False)
class DomainAnalysis:
    """`experts`: None for a model without experts, or with one. By domain or task, and None where no gate weighs
    experts: `gates`, the mean weight over its rows of each expert that its gate sees, in the gate's order (in PLE those
    of its own first, then the shared ones), and `effective_experts`, exp of the entropy of a row's weights, a mean
    again. NaN for a domain without a row among those looked at. `abundance` by domain:
    information abundance of the values that rows of a domain use often enough, mean over fields and tables; NaN where
    it keeps none.
    """

    names: tuple[str, ...]
    experts: ExpertReport | None
    gates: Float64[np.ndarray, "units seen"] | None
    effective_experts: Float64[np.ndarray, "units"] | None
    domains: tuple[str, ...]
    abundance: Float64[np.ndarray, "domains"]
    abundance_over_initial: Float64[np.ndarray, "domains"]

    def means(self) -> dict[str, float]:
        """Figures of tables; the tail is the domain with the fewest train rows."""
        found = {} if self.experts is None else {f"expert_{k}": v for k, v in self.experts.means().items()}
        if self.effective_experts is not None:
            found["effective_experts"] = float(np.nanmean(self.effective_experts))
        tail = {"abundance_tail": self.abundance[-1], "abundance_tail_over_initial": self.abundance_over_initial[-1]}
        return found | {name: float(value) for name, value in tail.items() if np.isfinite(value)}


@torch.no_grad()
def analyse_domains(
    model: DomainModel, log: ClickLog, *, part: Part = "test", max_rows: int = 8192, min_count: int = 2
) -> DomainAnalysis:
    """Diagnose `model` on the first `max_rows` rows of `part`. Values of fewer than `min_count` train rows in a domain
    take no part in its abundance: they are near their initialisation.
    """
    model.eval()
    columns = log.part(part).select(slice(0, max_rows))
    batch = to_batch(columns)
    by_task = model.config.by == "task"
    names = log.schema.labels if by_task else domain_names(log)
    experts, weights = model.outputs(batch).experts, model.gate_weights(batch)
    numbers = domain_numbers(log.schema, columns)
    gates = effective = None
    if weights is not None and weights.shape[-1] > 1:
        views = weights.double().cpu().expand(max(len(weights), len(names)), -1, -1)
        rows = [np.full(len(columns), True) if by_task else numbers == place for place in range(len(names))]
        kept = list(zip(views, rows, strict=False))
        gates = np.stack([_means(view.numpy(), mask) for view, mask in kept])
        effective = np.array([_mean(gate_entropy(view[None])[0].exp().numpy(), mask) for view, mask in kept])
    found = [domain_abundance(model, log, domain, min_count=min_count) for domain in range(log.schema.num_domains)]
    return DomainAnalysis(
        names=tuple(names),
        experts=None if experts is None or len(experts) < 2 else expert_report(experts),
        gates=gates,
        effective_experts=effective,
        domains=domain_names(log),
        abundance=np.array([pair[0] for pair in found]),
        abundance_over_initial=np.array([pair[1] for pair in found]),
    )


def expert_report(outputs: Float[Tensor, "experts batch dim"]) -> ExpertReport:
    """Correlations and similarities of all pairs by one product: `ExpertReport`. At least two rows."""
    if outputs.shape[1] < 2:
        raise DataError(f"correlations need at least two rows, got {outputs.shape[1]}")
    exact = outputs.double()
    centred = exact - exact.mean(1, keepdim=True)
    deviations = centred.square().mean(1).sqrt()
    alive = deviations > SMALL
    scaled = torch.where(alive.unsqueeze(1), centred / deviations.clamp(min=SMALL).unsqueeze(1), 0.0)
    pairs = torch.einsum("pbi,qbj->pqij", scaled, scaled).abs() / outputs.shape[1]
    counted = torch.einsum("pi,qj->pq", alive.double(), alive.double())
    products = torch.einsum("pbi,qbj->pqij", centred, centred).square().sum((2, 3))
    norms = products.diagonal().sqrt()
    return ExpertReport(
        correlation=(pairs.sum((2, 3)) / counted).numpy(),
        similarity=(products / (norms.unsqueeze(1) * norms)).numpy(),
        deviation=deviations.mean(1).numpy(),
        dead=(~alive).double().mean(1).numpy(),
    )


def gate_entropy(weights: Float[Tensor, "views batch experts"]) -> Float64[Tensor, "views batch"]:
    """Entropy of each row's weights, in nats; exp of it counts experts as if all weighed alike.

    >>> gate_entropy(torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])).exp().tolist()
    [[2.0, 1.0]]
    """
    entropies: Tensor = torch.special.entr(weights.double()).sum(-1)
    return entropies


def domain_abundance(model: DomainModel, log: ClickLog, domain: int, *, min_count: int) -> tuple[float, float]:
    """Mean over fields and tables of the information abundance of the values that at least `min_count` train rows of
    `domain` hold, and that over a random table of the same rows. The domain field itself has one value and is left out.
    """
    rows = np.flatnonzero(domain_numbers(log.schema, log.part("train")) == domain)
    ids = log.part("train").ids[rows]
    abundance, relative = [], []
    for table in _tables(model):
        weight = rearrange(table.embedding.weight.detach(), "r (t d) -> r t d", t=table.num_tables).cpu()
        counts = np.zeros(len(weight), dtype=np.int64)
        fields = {name: part for name, part in table.rows.items() if name != log.schema.domain}
        for name, part in fields.items():
            found = ids[:, log.schema.id_columns[name]].ravel()
            counts[part] += np.bincount(found, minlength=part.stop - part.start)
        kept = {name: slice(part.start + RESERVED, part.stop) for name, part in fields.items()}
        report = collapse_report(weight, kept, counts=counts, min_count=min_count)
        abundance.append(report.abundance)
        relative.append(report.relative_to_initial)
    return _finite_mean(abundance), _finite_mean(relative)


@dataclass(frozen=True, eq=False)
class InterestEntanglement:
    """Distances of user and item by table, for pairs with the first task alone, the second alone, and both.

    `order` is the chance that a pair of the first task alone is nearer than one of the second alone: .5 where a table
    cannot tell the interests apart, near 1 in one that follows the first task, near 0 in one that follows the second.
    The measure that the paper used is not published (arXiv 2403.00793); this is our choice.
    """

    tasks: tuple[str, str]
    distances: Float64[np.ndarray, "tables kinds"]  # first alone, second alone, both; NaN for kinds without a pair
    order: Float64[np.ndarray, "tables"]


@torch.no_grad()
def interest_entanglement(
    model: DomainModel, log: ClickLog, *, user: str, item: str, tasks: tuple[int, int] = (0, 1), part: Part = "test"
) -> InterestEntanglement:
    """Compare tables by where they put pairs of user and item that one of two tasks likes. A distance is 1 - cosine.

    `ConfigError` for a field or task that is not there; `DataError` when no pair has one of the tasks alone.
    """
    schema, columns = log.schema, log.part(part)
    known = [field.name for field in schema.fields]
    for name in (user, item):
        if name not in known:
            raise ConfigError(f"the log has no field {name!r}; its fields are {', '.join(known)}")
    if max(tasks) >= len(schema.labels):
        raise ConfigError(f"the log has {len(schema.labels)} labels, and entanglement compares two tasks; got {tasks}")
    source: nn.Module = model.body.sources[0]
    vectors: Tensor = source(to_batch(columns))
    users, items = (vectors[:, :, known.index(name)] for name in (user, item))
    distances = (1 - nn.functional.cosine_similarity(users, items, dim=-1)).double().cpu().numpy()
    first, second = (np.asarray(columns.labels[:, task]) >= 0.5 for task in tasks)
    kinds = [first & ~second, second & ~first, first & second]
    if not (kinds[0].any() and kinds[1].any()):
        raise DataError("no pair has one of the two tasks alone; take other tasks or another part")
    asked = kinds[0] | kinds[1]
    return InterestEntanglement(
        tasks=(schema.labels[tasks[0]], schema.labels[tasks[1]]),
        distances=np.array([[_mean(row, kind) for kind in kinds] for row in distances]),
        order=np.array([auc(-row[asked], kinds[0][asked]) for row in distances]),
    )


def _tables(model: DomainModel) -> list[EmbeddingTable]:
    """Those of the field vectors that experts read; tables of gates are not among them."""
    tables = [module for module in model.body.sources[0].modules() if isinstance(module, EmbeddingTable)]
    if not tables:
        raise DataError("this model has no embedding table of ids; choose another")
    return tables


def _mean(values: Float64[np.ndarray, "rows"], rows: Bool[np.ndarray, "rows"]) -> float:
    return float(values[rows].mean()) if rows.any() else float("nan")


def _means(
    values: Float64[np.ndarray, "rows columns"], rows: Bool[np.ndarray, "rows"]
) -> Float64[np.ndarray, "columns"]:
    found: np.ndarray = values[rows].mean(0) if rows.any() else np.full(values.shape[1], np.nan)
    return found


def _finite_mean(values: list[Float64[np.ndarray, "tables fields"]]) -> float:
    numbers = np.concatenate([value.ravel() for value in values])
    finite: Int64[np.ndarray, kept] = np.flatnonzero(np.isfinite(numbers))
    return float(numbers[finite].mean()) if len(finite) else float("nan")
