"""Feature correlation as a page: information about the label by field and by pair, and fields against each other."""

from collections.abc import Sequence
from html import escape

import numpy as np

from llm_rec.analysis.feature_correlation import FeatureCorrelation, FieldInformation
from llm_rec.report.collapse import heat_map
from llm_rec.report.theme import bare_page

_DRAWN = 30  # fields of a heat map: more are too small to read


def features_page(title: str, found: FeatureCorrelation) -> str:
    """A self-contained page: no script, no font, no request."""
    text = (
        f"Mutual information with {found.label} in nats, of {found.rows:,} train rows; held out on {found.part} rows. "
        f"The label itself has {found.label_entropy:.4f}."
    )
    parts = [f"<p>{escape(text)}</p>", "<h2>Fields</h2>", information_table(found, found.fields)]
    if found.pairs:
        parts += ["<h2>Pairs of fields</h2>", information_table(found, found.pairs)]
    parts += ["<h2>Between fields</h2>", f"<div class=figures>{_maps(found)}</div>"]
    if found.skipped:
        parts.append(f"<p>Fields of vectors have no values to count: {escape(', '.join(found.skipped))}.</p>")
    return bare_page(title, "".join(parts))


def information_table(found: FeatureCorrelation, records: Sequence[FieldInformation]) -> str:
    """One row a record: values, information as counted, corrected, held out, and its share of the label's entropy."""
    paired = any(record.gain is not None for record in records)
    head = ["field", "values", "as counted", "corrected", "held out", "share of the label", *(["gain"] * paired)]
    body = []
    for record in records:
        numbers = [record.plug_in, record.corrected, record.held_out, record.held_out / found.label_entropy]
        cells = [" × ".join(record.fields), f"{record.values:,}", *(f"{number:.4f}" for number in numbers)]
        cells += [] if record.gain is None else [f"{record.gain:+.4f}"]
        body.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"


def _maps(found: FeatureCorrelation) -> str:
    ranked = [found.names.index(record.fields[0]) for record in found.fields][:_DRAWN]
    figures = []
    for name, values, text in (
        (
            "Normalised mutual information",
            found.nmi,
            "2 I(A; B) / (H(A) + H(B)); fields by what they say of the label.",
        ),
        ("The same, one field shuffled", found.nmi_chance, "What as many values give by chance: compare the two."),
    ):
        drawn = values.copy()
        np.fill_diagonal(drawn, np.nan)
        picture = heat_map(drawn, found.names, np.array(ranked))
        figures.append(f"<figure><h3>{escape(name)}</h3><p>{escape(text)}</p>{picture}</figure>")
    return "".join(figures)
