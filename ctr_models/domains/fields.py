"""Fields by name: where their vectors lie, and tables of a part of the schema."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.domains.features import BodySetting, as_module
from ctr_models.schema import Schema


class PartFields(nn.Module):
    """Vectors of the id fields `names` from tables of their own: `inner` is over the schema of `part_of`."""

    columns: Tensor

    def __init__(self, schema: Schema, names: tuple[str, ...], inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        slices = [schema.id_columns[field.name] for field in schema.id_fields if field.name in names]
        kept = [column for columns in slices for column in range(columns.start, columns.stop)]
        self.register_buffer("columns", torch.tensor(kept, dtype=torch.long), persistent=False)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        ids = batch.ids.index_select(1, self.columns)
        part = FeatureBatch(ids, batch.numbers[:, :0], batch.dense[:, :0], batch.labels, batch.groups)
        vectors: Tensor = self.inner(part)
        return vectors


def part_of(schema: Schema, names: tuple[str, ...]) -> Schema:
    """The schema of the id fields `names` alone."""
    fields = tuple(field for field in schema.id_fields if field.name in names)
    return Schema(fields=fields, labels=schema.labels, group=schema.group)


def id_field_names(schema: Schema, names: tuple[str, ...]) -> tuple[str, ...]:
    """`names`, or all fields with ids where it is empty; `ValueError` for a name that is none."""
    known = tuple(field.name for field in schema.id_fields)
    for name in names:
        if name not in known:
            raise ValueError(f"prior_fields names {name!r}, which is no field with ids; there are {sorted(known)}")
    return names or known


def part_source(setting: BodySetting, names: tuple[str, ...], dim: int) -> PartFields:
    """Tables of the id fields `names`, of which nothing else reads a row."""
    source = setting.build_sources(part_of(setting.schema, names), dim, 1)
    return PartFields(setting.schema, names, as_module(source))


def places_of(schema: Schema, names: tuple[str, ...]) -> list[int]:
    """Where fields lie among the vectors of a source, which begins with the schema's fields in order."""
    return [place for place, field in enumerate(schema.fields) if field.name in names]


def domain_place(schema: Schema, model: str) -> int:
    """The place of the domain field; `ValueError` where the schema names none."""
    if schema.domain is None:
        raise ValueError(f"{model} reads the vector of the row's domain; name the schema's domain field")
    return places_of(schema, (schema.domain,))[0]
