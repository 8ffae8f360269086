"""What a model of domains or tasks learned, as a page: how gates mix experts, whether experts differ, which tails
collapsed, whether interests entangle.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float64

from llm_rec.analysis.domain_experts import DomainAnalysis, ExpertReport, InterestEntanglement
from llm_rec.report.heat_map import matrix_map
from llm_rec.report.theme import bare_page


def domains_page(title: str, found: DomainAnalysis, tangled: InterestEntanglement | None = None) -> str:
    """A self-contained page: no script, no font, no request. What the model has no figure of is left out."""
    parts = [_means(found), _domain_section(found)]
    if found.gates is not None:
        parts.append(_gate_section(found.names, found.gates, found.effective_experts))
    if found.experts is not None:
        parts.append(_expert_section(found.experts))
    if tangled is not None:
        parts.append(_entanglement_section(tangled))
    return bare_page(title, "".join(parts))


def _means(found: DomainAnalysis) -> str:
    rows = [(name.replace("_", " "), _number(value)) for name, value in found.means().items()]
    text = "Means over pairs of experts, over experts, and over domains or tasks; the tail has the fewest train rows."
    return _note(text) + _table(("figure", "value"), rows)


def _domain_section(found: DomainAnalysis) -> str:
    text = (
        "Information abundance (sum of singular values over the largest) of the embeddings that the train rows of a "
        "domain use often enough, mean over fields and tables, and over that of a random table of as many rows: a "
        "small share is collapse. Domains in the order of their train rows."
    )
    columns = zip(found.domains, found.abundance.tolist(), found.abundance_over_initial.tolist(), strict=True)
    rows = [(name, _number(abundance), _number(relative)) for name, abundance, relative in columns]
    return f"<h2>Domains</h2>{_note(text)}" + _table(("domain", "abundance", "/ initial"), rows)


def _gate_section(
    names: Sequence[str], gates: Float64[np.ndarray, "units seen"], effective: Float64[np.ndarray, "units"] | None
) -> str:
    seen = _numbered(gates.shape[1])
    text = "Mean weight of each expert that a gate sees, over the rows of the domain or task (PLE: own experts first)."
    label = f"mean gate weights of {len(names)} domains or tasks"
    picture = matrix_map(gates, names, seen, label=label, x_title="expert seen")
    effective_numbers = [float("nan")] * len(names) if effective is None else effective.tolist()
    rows = [
        (name, _number(number), *map(_number, weights))
        for name, number, weights in zip(names, effective_numbers, gates.tolist(), strict=True)
    ]
    note = _note("Effective experts are exp of the entropy of a row's weights: 1 is one expert alone.")
    head = ("domain or task", "effective experts", *(f"expert {number}" for number in seen))
    figures = f"<div class=figures>{_figure('Gate weights', text, picture)}</div>"
    return f"<h2>Gates</h2>{note}{_table(head, rows)}{figures}"


def _expert_section(experts: ExpertReport) -> str:
    names = _numbered(len(experts.deviation))
    maps = (
        (
            "Correlation of experts",
            "Mean absolute correlation of the dimensions of two experts; the diagonal, an expert with itself, is left "
            "out.",
            experts.correlation,
        ),
        ("Similarity of experts", "Linear CKA: 1 for two experts that a rotation makes equal.", experts.similarity),
    )
    figures = "".join(
        _figure(title, text, _expert_map(values, names, title.split()[0].lower())) for title, text, values in maps
    )
    note = _note(
        "Deviation is the mean standard deviation of an expert's dimensions: experts whose outputs shrink have small "
        "covariances without being different. Dead is the share of dimensions that do not vary at all."
    )
    columns = zip(names, experts.deviation.tolist(), experts.dead.tolist(), strict=True)
    rows = [(name, _number(deviation), f"{dead:.1%}") for name, deviation, dead in columns]
    table = _table(("expert", "deviation", "dead"), rows)
    return f"<h2>Experts</h2>{note}{table}<div class=figures>{figures}</div>"


def _expert_map(values: Float64[np.ndarray, "experts experts"], names: Sequence[str], what: str) -> str:
    drawn = values.copy()
    np.fill_diagonal(drawn, np.nan)
    return matrix_map(drawn, names, names, label=f"{what} of {len(names)} experts", x_title="expert")


def _entanglement_section(tangled: InterestEntanglement) -> str:
    first, second = tangled.tasks
    text = (
        f"Distance (1 - cosine) of user and item in each embedding table, for pairs with {first} alone, {second} alone "
        f"and both. Order is the chance that a pair of {first} alone is nearer than one of {second} alone: 0.5 where a "
        "table cannot tell the two apart."
    )
    kinds = (f"{first} alone", f"{second} alone", "both")
    columns = zip(_numbered(len(tangled.order)), tangled.distances.tolist(), tangled.order.tolist(), strict=True)
    rows = [(f"table {name}", *map(_number, distances), _number(order)) for name, distances, order in columns]
    picture = matrix_map(
        tangled.distances,
        [row[0] for row in rows],
        kinds,
        label=f"distances of user and item in {len(rows)} tables",
        x_title="pairs",
    )
    figures = f"<div class=figures>{_figure('Distance of user and item', 'By embedding table.', picture)}</div>"
    return f"<h2>Interests</h2>{_note(text)}{_table(('table', *kinds, 'order'), rows)}{figures}"


def _numbered(number: int) -> list[str]:
    return [str(place) for place in range(1, number + 1)]


def _number(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else ""


def _note(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _figure(title: str, text: str, content: str) -> str:
    return f"<figure><h3>{escape(title)}</h3><p>{escape(text)}</p>{content}</figure>"
