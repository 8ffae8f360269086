"""The CodeTable artefact: item row -> codes, and back. One safetensors file that every consumer reads, memory-mapped.

Row r (1..N) belongs to the r-th catalog item, row 0 is padding (zeros). Codes are 0..size-1 in each book.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Int32, Int64

from semantic_ids.files import Plain, read_tensors, write_tensors
from semantic_ids.keys import KeyPacker, prefix_groups, ranks_in_groups, runs

Digit = Literal["tiger", "grid"]
_KIND = "code_table"


@dataclass(frozen=True, kw_only=True)
class CodeTable:
    """Codes of a whole catalog.

    `digit` says that the last book is not semantic but tells colliding items apart (`with_digit`). `details` is free
    JSON for whoever makes the table: quantizer config, fingerprints of its inputs, health figures.

    >>> table = CodeTable.from_codes(np.array([[2, 0], [1, 1], [2, 0]]), (4, 2))
    >>> table.codes.tolist(), table.items_of([2, 0]).tolist()
    ([[0, 0], [2, 0], [1, 1], [2, 0]], [1, 3])
    >>> table.with_digit().codes[1:].tolist()
    [[2, 0, 0], [1, 1, 0], [2, 0, 1]]
    """

    codes: Int32[np.ndarray, "items_plus_one books"]
    codebook_sizes: tuple[int, ...]
    digit: Digit | None = None
    details: Mapping[str, Plain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.codebook_sizes) or len(self.codes) == 0:
            raise ValueError(f"codes have shape {self.codes.shape}, expected (items + 1, {len(self.codebook_sizes)})")
        if self.codes[0].any():
            raise ValueError(f"row 0 is padding and must be zeros, got {self.codes[0].tolist()}")
        for book, size in enumerate(self.codebook_sizes):
            column = self.codes[:, book]
            if column.min() < 0 or column.max() >= size:
                row = int(np.flatnonzero((column < 0) | (column >= size))[0])
                raise ValueError(f"item row {row}, book {book}: code {column[row]} is not in 0..{size - 1}")
        self.codes.flags.writeable = False

    @classmethod
    def from_codes(
        cls, codes: np.ndarray, codebook_sizes: tuple[int, ...], details: Mapping[str, Plain] | None = None
    ) -> "CodeTable":
        """The table of N items from the (N, books) codes of `Quantizer.encode`, padding row added."""
        for extreme in (codes.min(initial=0), codes.max(initial=0)):
            if not np.iinfo(np.int32).min <= extreme <= np.iinfo(np.int32).max:
                raise ValueError(f"code {extreme} does not fit 32 bits")
        rows = np.zeros((len(codes) + 1, codes.shape[1]), dtype=np.int32)
        rows[1:] = codes
        return cls(codes=rows, codebook_sizes=codebook_sizes, details=details or {})

    @property
    def num_items(self) -> int:
        return len(self.codes) - 1

    @property
    def num_books(self) -> int:
        return len(self.codebook_sizes)

    @property
    def items(self) -> Int32[np.ndarray, "items books"]:
        """Codes without the padding row."""
        return self.codes[1:]

    def offset_codes(self) -> Int64[np.ndarray, "items_plus_one books"]:
        """Ids for embedding look-up: 1..size in each book, 0 for padding."""
        ids = self.codes.astype(np.int64) + 1
        ids[0] = 0
        return ids

    @cached_property
    def reverse(self) -> "ReverseIndex":
        """Codes -> items, built on first use by one sort, which takes less time than reading that of the file."""
        return ReverseIndex.of(self.items, self.codebook_sizes)

    def items_of(self, codes: np.ndarray | list[int]) -> Int64[np.ndarray, " items"]:
        """Item rows that carry exactly these codes, ascending; none for codes that no item has."""
        return self.reverse.items_of(np.asarray(codes, dtype=np.int64))

    def is_injective(self) -> bool:
        """Whether no two items share all codes."""
        return len(self.reverse.offsets) - 1 == self.num_items

    def with_digit(self, style: Digit = "tiger", digit_size: int | None = None) -> "CodeTable":
        """A table with one more book that makes every item's codes unique.

        "tiger": 0..n-1 inside each group of n equal items, in catalog order. "grid": 0 for an item alone, 1..n in a
        group (the released GRID code). The digit has no meaning, and growth keeps it stable (`extend`). `digit_size`
        leaves room for growth, so that a model's vocabulary need not change. Catalog order decides the digit, and
        nothing else: semantic codes do not depend on it, and the same items in another order share the same digits
        out among each group.
        """
        if self.digit is not None:
            raise ValueError(f"the table already has a {self.digit} digit; extend it, or start from the semantic codes")
        return self._appended(self.reverse.ranks(first=0 if style == "tiger" else 1), digit_size, style)

    def extend(self, codes: np.ndarray) -> "CodeTable":
        """The table with more items at the end; no existing row changes.

        `codes` (new items, books) come from the quantizer, without the digit. A new item takes the digit after the
        highest of its group, so `with_digit` of the longer catalog gives the same rows under "tiger"; under "grid" an
        old item that was alone keeps its 0. The size of the digit's book grows when a group outgrows it.
        """
        books = self.num_books - (self.digit is not None)
        if codes.ndim != 2 or codes.shape[1] != books:
            raise ValueError(f"new codes have shape {codes.shape}, the table takes (new items, {books})")
        semantic = np.concatenate([self.items[:, :books], codes.astype(np.int32)])
        plain = CodeTable.from_codes(semantic, self.codebook_sizes[:books], self.details)
        if self.digit is None:
            return plain
        groups = prefix_groups(plain.items, plain.codebook_sizes)
        old, new = groups[: self.num_items], groups[self.num_items :]
        top = np.full(int(groups.max()) + 1 if len(groups) else 0, -1, dtype=np.int64)
        np.maximum.at(top, old, self.items[:, -1].astype(np.int64))
        if self.digit == "grid":  # a group that is new and larger than one starts at 1
            started = np.bincount(old, minlength=len(top)) > 0
            top[~started & (np.bincount(new, minlength=len(top)) > 1)] = 0
        digits = np.concatenate([self.codes[:, -1].astype(np.int64), top[new] + 1 + ranks_in_groups(new)])
        needed = int(digits.max()) + 1
        return plain._appended(digits, max(self.codebook_sizes[-1], needed), self.digit)

    def with_details(self, details: Mapping[str, Plain]) -> "CodeTable":
        """The same codes with these details added."""
        return replace(self, details={**self.details, **details})

    def save(self, path: Path) -> None:
        """One file: codes, the reverse index (for readers without this library), and a JSON header."""
        tensors = {
            "codes": self.codes.copy(),
            "reverse_items": self.reverse.items,
            "reverse_offsets": self.reverse.offsets,
        }
        header: dict[str, Plain] = {
            "codebook_sizes": list(self.codebook_sizes),
            "digit": self.digit,
            "details": dict(self.details),
        }
        write_tensors(path, _KIND, tensors, header)

    @classmethod
    def load(cls, path: Path) -> "CodeTable":
        """The table in the file `path`; `ValueError` when the file is not one.

        Nothing is copied: codes are pages of the file, read as they are used (and once here, to check them).
        """
        tensors, header = read_tensors(path, _KIND)
        return cls(
            codes=tensors["codes"].numpy(),
            codebook_sizes=tuple(cast(list[int], header["codebook_sizes"])),
            digit=cast(Digit | None, header["digit"]),
            details=cast(dict[str, Plain], header["details"]),
        )

    def _appended(self, digits: np.ndarray, digit_size: int | None, style: Digit) -> "CodeTable":
        """One more book: `digits` of rows 0..N."""
        needed = int(digits.max()) + 1
        size = needed if digit_size is None else digit_size
        if size < needed:
            raise ValueError(f"digit_size {size} is too small: the largest group of equal items needs {needed}")
        codes = np.column_stack([self.codes, digits.astype(np.int32, copy=False)])
        sizes = (*self.codebook_sizes, size)
        return replace(self, codes=codes, codebook_sizes=sizes, digit=style)


@dataclass(frozen=True)
class ReverseIndex:
    """Groups of items with equal codes, in lexicographic order: group g holds items[offsets[g]:offsets[g + 1]]."""

    packer: KeyPacker
    keys: Int64[np.ndarray, " groups"]
    items: Int64[np.ndarray, " items"]
    offsets: Int64[np.ndarray, " groups_plus_one"]

    @classmethod
    def of(cls, codes: np.ndarray, sizes: tuple[int, ...]) -> "ReverseIndex":
        packer, keys = KeyPacker.fit(codes, sizes)
        items, starts = runs(keys)
        unique = keys[items[starts]]
        items += 1
        return cls(packer, unique, items, np.append(starts, len(keys)))

    def ranks(self, *, first: int = 0) -> Int32[np.ndarray, " items_plus_one"]:
        """`first`, `first` + 1, ... inside each group of several items, in catalog order; 0 for an item alone, and for
        row 0 (padding).
        """
        sizes = np.diff(self.offsets)
        ordered = np.arange(len(self.items), dtype=np.int32)
        ordered -= np.repeat(self.offsets[:-1].astype(np.int32), sizes)
        if first:
            ordered[np.repeat(sizes > 1, sizes)] += first
        ranks = np.zeros(len(self.items) + 1, dtype=np.int32)
        ranks[self.items] = ordered
        return ranks

    def items_of(self, codes: Int64[np.ndarray, " books"]) -> Int64[np.ndarray, " items"]:
        if codes.shape != (len(self.packer.sizes),):
            raise ValueError(f"codes have shape {codes.shape}, one item has ({len(self.packer.sizes)},)")
        groups = self.groups_of(codes[None])
        if groups[0] < 0:
            return np.zeros(0, dtype=np.int64)
        return self.items[self.offsets[groups[0]] : self.offsets[groups[0] + 1]]

    def groups_of(self, codes: np.ndarray) -> Int64[np.ndarray, " queries"]:
        """Group of each row of codes, -1 where no item has them."""
        wanted = self.packer.keys(codes)
        if len(self.keys) == 0:
            return np.full(len(wanted), -1, dtype=np.int64)
        order = np.argsort(wanted)  # neighbours in the index are neighbours in memory: a tenth of the time
        place = np.empty(len(wanted), dtype=np.int64)
        place[order] = np.searchsorted(self.keys, wanted[order]).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place, -1)
