"""Vectors of numbers by soft assignment over meta-embeddings, after AutoDis (Guo et al., KDD 2021, arXiv 2012.08986).

    h = leaky_relu(w x + b),    p = softmax((W h + h) / temperature),    vector = sum over k of p_k m_k

Each field has meta-embeddings m of its own, and a number reads all of them, so that the vector moves smoothly with the
number. Deviations from the paper, both our choice: one fixed temperature in place of a learned one for each number, and
the bias b, without which all numbers on one side of 0 have their meta-embeddings in one order.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.embedding_init import NormalInit, TableInit, init_table
from ctr_models.schema import Numeric, Schema


class Assignment(nn.Module):
    """Numbers -> shares of the meta-embeddings, which sum to 1; parameters for each set and field."""

    def __init__(self, num_tables: int, num_fields: int, number: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(torch.randn(num_tables, num_fields, number))
        self.bias = nn.Parameter(torch.randn(num_tables, num_fields, number))
        self.mix = nn.Parameter(torch.randn(num_tables, num_fields, number, number) * number**-0.5)

    def forward(self, numbers: Float[Tensor, "batch fields"]) -> Float[Tensor, "tables batch fields number"]:
        hidden = F.leaky_relu(numbers[None, :, :, None] * self.weight[:, None] + self.bias[:, None])
        scores = torch.einsum("tbfh,tfhk->tbfk", hidden, self.mix) + hidden
        return torch.softmax(scores / self.temperature, -1)


class MetaEmbeddings(nn.Module):
    """The numeric `fields` of a schema, which have one number of meta-embeddings and one temperature."""

    columns: Tensor

    def __init__(
        self,
        schema: Schema,
        fields: Sequence[Numeric],
        dim: int,
        num_tables: int = 1,
        *,
        init: TableInit | None = None,
    ) -> None:
        super().__init__()
        check_at_least("dim", dim, 1)
        check_at_least("num_tables", num_tables, 1)
        kinds = {(field.meta_embeddings, field.temperature) for field in fields}
        if len(kinds) != 1 or not fields[0].meta_embeddings:
            raise ValueError(f"fields must have one number of meta-embeddings and one temperature, got {sorted(kinds)}")
        ((number, temperature),) = kinds
        self.num_fields = len(fields)
        columns = [schema.number_columns[field.name] for field in fields]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.assignment = Assignment(num_tables, len(fields), number, temperature)
        self.weight = nn.Parameter(torch.empty(num_tables, len(fields), number, dim))
        init_table(self.weight.data.flatten(0, 2), init or NormalInit(), rows=len(fields) * number, dim=dim)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        return self.of_numbers(batch.numbers.index_select(1, self.columns))

    def of_numbers(self, numbers: Float[Tensor, "batch fields"]) -> Float[Tensor, "tables batch fields dim"]:
        """The vectors of the fields' numbers."""
        shares = self.assignment(numbers)
        return torch.einsum("tbfk,tfkd->tbfd", shares, self.weight)


def soft_groups(schema: Schema) -> list[list[Numeric]]:
    """Fields that one `MetaEmbeddings` reads, in the order in which they first occur."""
    groups: dict[tuple[int, float], list[Numeric]] = {}
    for field in schema.fields:
        if isinstance(field, Numeric) and field.meta_embeddings:
            groups.setdefault((field.meta_embeddings, field.temperature), []).append(field)
    return list(groups.values())
