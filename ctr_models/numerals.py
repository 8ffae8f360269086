"""Multiple numeral systems encoding: vectors of integers from their digits in several bases (arXiv 2403.00793).

    f(v) = sum over bases n and places k of X_n[k, digit k of v in base n]

Each base has a table of its own, with one row a (place, digit): a digit table shared by all places would be a bag of
digits (of 1000 integers in bases 2 and 3 only 149 differ; by place all do). `combine` "sum" adds the bases as the first
version of the paper, "concat" puts them side by side as the later slides. Digits are a whole-array quotient and
remainder on the device, so that a batch carries one integer a row, and an integer has the same places in every batch.

Low digits all turn at a carry (63 to 64 in base 2): keep at least two coprime bases, which rarely carry together. For
numbers whose neighbours should be alike at any price prefer quantile bins, or `MetaEmbeddings`.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.embedding_init import NormalInit, TableInit, init_table
from ctr_models.schema import PADDING, RESERVED, UNKNOWN, Numerals, Schema


def code_length(size: int, base: int) -> int:
    """Digits that 0..size - 1 need in `base`.

    >>> code_length(1000, 2), code_length(1000, 3), code_length(1, 2)
    (10, 7, 1)
    """
    length = 1
    while base**length < size:
        length += 1
    return length


def digits(values: Int64[Tensor, "*shape"], base: int, length: int) -> Int64[Tensor, "*shape length"]:
    """The last `length` digits of non-negative integers, the most significant first.

    >>> digits(torch.tensor(51), 2, 6).tolist(), digits(torch.tensor(51), 3, 6).tolist()
    ([1, 1, 0, 0, 1, 1], [0, 0, 1, 2, 2, 0])
    """
    powers = torch.tensor([base**place for place in reversed(range(length))], device=values.device)
    return torch.div(values.unsqueeze(-1), powers, rounding_mode="floor").remainder(base)


class DigitTable(nn.Module):
    """All of `fields` in one base: the sum of the rows (place, digit) of each integer.

    With `sparse` by one embedding bag, whose gradient holds the rows of the batch alone. Otherwise as a product of ones
    at the rows with the few rows of each field, which on a CPU takes a quarter of the time of the bag.

    Rows: one of zeros for padding, then for each field places * base rows of digits and one for missing integers. The
    places of a field are fixed by its size. An integer beyond it counts as the largest.
    """

    columns: Tensor
    powers: Tensor
    tops: Tensor
    starts: Tensor
    missing: Tensor
    firsts: Tensor
    blocks: Tensor

    def __init__(
        self,
        fields: Sequence[Numerals],
        base: int,
        dim: int,
        num_tables: int = 1,
        *,
        init: TableInit | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.num_fields, self.num_tables = base, len(fields), num_tables
        lengths = [code_length(field.size - RESERVED, base) for field in fields]
        self.places = max(lengths)
        self.rows: dict[str, slice] = {}
        columns, powers, tops, starts, missing = [], [], [], [], []
        first = 1
        for number, (field, length) in enumerate(zip(fields, lengths, strict=True)):
            self.rows[field.name] = slice(first, first + length * base + 1)
            for place in range(self.places):
                real = place < length
                columns.append(number)
                powers.append(base ** (length - 1 - place) if real else 1)
                tops.append(field.size - RESERVED - 1 if real else -1)
                starts.append(first + place * base if real else PADDING)
                missing.append(first + length * base if place == 0 else PADDING)
            first += length * base + 1
        firsts = [rows.start for rows in self.rows.values()]
        longest = max(rows.stop - rows.start for rows in self.rows.values())
        blocks = [
            [row if row < rows.stop else PADDING for row in range(rows.start, rows.start + longest)]
            for rows in self.rows.values()
        ]
        self.register_buffer("firsts", torch.tensor(firsts).unsqueeze(1), persistent=False)
        self.register_buffer("blocks", torch.tensor(blocks), persistent=False)
        slots = {"columns": columns, "powers": powers, "tops": tops, "starts": starts, "missing": missing}
        for name, values in slots.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)
        weight = torch.empty(first, num_tables * dim)
        init_table(weight, init or NormalInit(), rows=first - 1, dim=dim)
        weight[PADDING] = 0.0
        self.embedding = nn.EmbeddingBag(
            first, num_tables * dim, mode="sum", padding_idx=PADDING, sparse=sparse, _weight=weight
        )

    def forward(self, ids: Int64[Tensor, "batch fields"]) -> Float[Tensor, "tables batch fields dim"]:
        rows = self.look_up_rows(ids)
        if self.embedding.sparse and not torch.compiler.is_exporting():  # ONNX would write a loop over bags
            found = torch.unflatten(self.embedding(rows.flatten(0, 1)), 0, rows.shape[:2])
        else:
            found = self._product(rows)
        vectors: Tensor = rearrange(found, "b f (t d) -> t b f d", t=self.num_tables)
        return vectors

    def _product(self, rows: Int64[Tensor, "batch fields places"]) -> Float[Tensor, "batch fields width"]:
        blocks = F.embedding(self.blocks, self.embedding.weight)
        nowhere = self.blocks.shape[1]  # padding puts its ones into a column that is cut off
        local = torch.where(rows.eq(PADDING), nowhere, rows - self.firsts)
        ones = blocks.new_zeros(*rows.shape[:2], nowhere + 1).scatter(2, local, 1.0)
        return torch.einsum("bfr,frw->bfw", ones[:, :, :nowhere], blocks)

    def look_up_rows(self, ids: Int64[Tensor, "batch fields"]) -> Int64[Tensor, "batch fields places"]:
        """Rows of the table; places that a field does not have, and all but one of a missing integer, are padding."""
        spread = ids.index_select(1, self.columns)
        values = torch.minimum((spread - RESERVED).clamp(min=0), self.tops.clamp(min=0))
        digit = torch.div(values, self.powers, rounding_mode="floor").remainder(self.base)
        there = spread.ge(RESERVED) & self.tops.ge(0)
        absent = torch.where(spread.eq(UNKNOWN), self.missing, PADDING)
        rows: Tensor = torch.unflatten(torch.where(there, self.starts + digit, absent), 1, (-1, self.places))
        return rows


class NumeralVectors(nn.Module):
    """All `fields`, which have one `bases` and `combine`: a `DigitTable` for each base, added or side by side.

    Side by side, the bases share out `dim`; the first have one number more where it does not divide.
    """

    columns: Tensor

    def __init__(
        self,
        schema: Schema,
        fields: Sequence[Numerals],
        dim: int,
        num_tables: int = 1,
        *,
        init: TableInit | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("dim", dim, 1)
        check_at_least("num_tables", num_tables, 1)
        kinds = {(field.bases, field.combine) for field in fields}
        if len(kinds) != 1:
            raise ValueError(f"fields must have one bases and combine, got {len(kinds)} of them; see numeral_groups")
        ((bases, combine),) = kinds
        self.num_fields, self.concat = len(fields), combine == "concat"
        if self.concat and dim < len(bases):
            raise ValueError(
                f"vectors of {dim} numbers have no room for {len(bases)} bases side by side; combine them by 'sum'"
            )
        self.register_buffer(
            "columns", torch.tensor([schema.id_columns[field.name].start for field in fields]), persistent=False
        )
        more = dim % len(bases)
        widths = [dim // len(bases) + (place < more) if self.concat else dim for place in range(len(bases))]
        self.tables = nn.ModuleList(
            DigitTable(fields, base, width, num_tables, init=init, sparse=sparse)
            for base, width in zip(bases, widths, strict=True)
        )

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        ids = batch.ids.index_select(1, self.columns)
        parts = [table(ids) for table in self.tables]
        if self.concat:
            return torch.cat(parts, dim=-1)
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def numeral_groups(fields: Sequence[Numerals]) -> list[list[Numerals]]:
    """Fields that one `NumeralVectors` reads, in the order in which their bases and combine first occur."""
    groups: dict[tuple[tuple[int, ...], str], list[Numerals]] = {}
    for field in fields:
        groups.setdefault((field.bases, field.combine), []).append(field)
    return list(groups.values())
