"""A planted world of domains: some agree, some contradict, and one holds a fiftieth of the rows of the largest.

Users and items have hidden interests: unit vectors u and v of `interests` numbers. A domain d has a hidden weight a_d
of each interest and a bias of its own,

    logit(row) = bias_d + strength * sum_k a_dk u_k v_k.

The tail domain (the last one) has the opposite of the head's signs on a share of the interests, all of them by default,
and the head's on the others. So what is learned for the head alone is wrong in the tail, and the tail has too few rows
to learn vectors of its own: a model needs shared vectors and parts of its own. The field ``segment`` tells the sign of
the user's first interest where it is clear, three values in all: a field with a small vocabulary, which makes
embeddings collapse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ctr_models.encode import VocabularyConfig
from llm_rec.artifacts import replacing
from llm_rec.ctr.planted_logs import expected_auc
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByColumnConfig, ColumnSpec, LabelSpec, LogSpec, TableFile

FIELDS = ("user", "item", "segment", "domain")
TASKS = ("click", "like")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedDomainsConfig:
    """`sizes` are relative numbers of train rows of the domains, the tail last; `biases` their base log odds.

    `rows` train; of every domain `evaluation_rows` validate and as many test, so that the tail's figures are no noise.
    `conflict` is the share of interests on which the tail has the head's signs turned.
    """

    rows: int = 12_000
    evaluation_rows: int = 1_000
    sizes: tuple[float, ...] = (50.0, 20.0, 1.0)
    biases: tuple[float, ...] = (-1.0, 0.0, 0.5)
    num_users: int = 40
    num_items: int = 40
    interests: int = 6
    conflict: float = 1.0
    strength: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or len(self.sizes) != len(self.biases) or min(self.sizes) <= 0:
            raise ValueError(
                f"sizes and biases need one number a domain, two domains at least, and sizes above 0, got {self.sizes} "
                f"and {self.biases}"
            )
        if not 0 <= self.conflict <= 1:
            raise ValueError(f"conflict must lie in 0..1, got {self.conflict}")
        if min(self.rows, self.evaluation_rows, self.num_users, self.num_items, self.interests) < 1:
            raise ValueError("rows, evaluation_rows, num_users, num_items and interests must be at least 1")


@dataclass(frozen=True, eq=False)
class PlantedDomains:
    """Raw columns as texts, the part of each row, the labels of two tasks, and the truth behind them.

    The second task, ``like``, has the signs of the next domain: it depends on the same interests otherwise.
    """

    columns: dict[str, list[str]]
    parts: list[str]
    labels: Float32[np.ndarray, "rows tasks"]
    domains: Int64[np.ndarray, "rows"]
    probabilities: Float64[np.ndarray, "rows tasks"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def domain_names(self) -> list[str]:
        """Names of the domains by their numbers here; a log numbers them by its vocabulary."""
        return [f"d{domain}" for domain in range(int(self.domains.max()) + 1)]

    def best_auc(self, domain: int) -> float:
        """Expected AUC of the true probabilities of clicks in the test rows of a domain."""
        asked = (self.domains == domain) & (np.array(self.parts) == "test")
        return expected_auc(self.probabilities[asked, 0])


def planted_domains(config: PlantedDomainsConfig | None = None) -> PlantedDomains:
    """Draw a world; equal configs give equal bytes.

    >>> world = planted_domains(PlantedDomainsConfig(rows=2000))
    >>> train = world.domains[:2000]
    >>> [round(float((train == d).mean()), 2) for d in range(3)], world.best_auc(2) > 0.85
    ([0.71, 0.28, 0.01], True)
    """
    config = config or PlantedDomainsConfig()
    rng = np.random.default_rng(config.seed)
    users, items = (_unit(rng, number, config.interests) for number in (config.num_users, config.num_items))
    weights = _weights(rng, config)
    shares = np.array(config.sizes) / sum(config.sizes)
    train = rng.choice(len(shares), size=config.rows, p=shares)
    asked = np.repeat(np.arange(len(shares)), config.evaluation_rows)
    domains = np.concatenate([train, asked, asked])
    user, item = (rng.integers(number, size=len(domains)) for number in (config.num_users, config.num_items))
    signed = np.stack([weights, np.roll(weights, -1, axis=0)], axis=1)[domains]  # rows, tasks, interests
    match = np.einsum("rtk,rk,rk->rt", signed, users[user], items[item])
    logits = np.array(config.biases)[domains][:, None] + config.strength * match
    probabilities = 1 / (1 + np.exp(-logits))
    columns = {
        "user": _texts("u", user),
        "item": _texts("i", item),
        "segment": _texts("s", np.sign(np.round(2 * users[user, 0])).astype(np.int64)),
        "domain": _texts("d", domains),
    }
    labels = (rng.random(probabilities.shape) < probabilities).astype(np.float32)
    parts = np.repeat(["train", "validation", "test"], [len(train), len(asked), len(asked)]).tolist()
    return PlantedDomains(columns, parts, labels, domains, probabilities)


def write_domains(world: PlantedDomains, folder: Path, *, tasks: Sequence[str] = TASKS[:1]) -> ClickLog:
    """The world as the click log ``folder/log`` with labels `tasks`; groups are users."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = {name: world.labels[:, place] for place, name in enumerate(TASKS)}
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.parquet"
    with replacing(rows) as partial:
        pq.write_table(pa.table({**world.columns, **labels, "part": world.parts}), partial)
    spec = LogSpec(
        columns=tuple(ColumnSpec(name=name, encoder=VocabularyConfig()) for name in FIELDS),
        labels=tuple(LabelSpec(name=name) for name in tasks),
        parts=ByColumnConfig(column="part"),
        group="user",
        domain="domain",
    )
    return encode_log((TableFile(path=rows),), spec, folder / "log", overwrite=True)


def _weights(rng: np.random.Generator, config: PlantedDomainsConfig) -> Float64[np.ndarray, "domains interests"]:
    """Signs of interests by domain, drawn; those of the tail contradict the head's on a share of them."""
    signs = rng.choice([-1.0, 1.0], size=(len(config.sizes), config.interests))
    turned = np.arange(config.interests) < round(config.conflict * config.interests)
    signs[-1] = np.where(turned, -signs[0], signs[0])
    return signs


def _unit(rng: np.random.Generator, number: int, width: int) -> Float64[np.ndarray, "number width"]:
    vectors = rng.normal(size=(number, width))
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _texts(prefix: str, numbers: Int64[np.ndarray, "rows"]) -> list[str]:
    return [f"{prefix}{number}" for number in numbers.tolist()]
