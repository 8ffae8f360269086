"""A ledger: finished cells of any number of runs in one file, so that no run does again what was done elsewhere.

Each line of the file is one cell as JSON: its name (`cell_name`: model, seed, fingerprint of all that defines it), its
setting, records and seconds. A cell is taken from a ledger by its name alone, so other data, settings or versions of a
method never mix with it. Lines are only ever added, and one write adds a line: grids at work at the same time may share
a ledger. A line counts once it has its end: what a killed writer left is passed over, and dropped by the next addition.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from llm_rec.artifacts import canonical_json
from llm_rec.codec import Plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.experiment.cells import CellResult, result_of


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger at `path`; a file that is not there yet is an empty one."""

    path: Path

    def read(self) -> dict[str, CellResult]:
        """Finished cells by name, of two lines of one name the later. `ArtifactError` for a line that is no cell."""
        if not self.path.exists():
            return {}
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return dict(_parsed(line, f"{self.path}:{number}") for number, line in enumerate(lines, start=1) if line)

    def add(self, name: str, result: CellResult) -> None:
        """Add a finished cell, without the values of its single targets. `ConfigError` for a failed one."""
        if result.status != "done":
            raise ConfigError(f"{name} is {result.status}: a ledger keeps finished cells alone")
        bare = replace(result, records=[replace(record, per_target=None) for record in result.records])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_unfinished()
        with self.path.open("ab", buffering=0) as file:
            file.write(canonical_json({"name": name, "result": to_plain(bare)}) + b"\n")
            os.fsync(file.fileno())

    def _drop_unfinished(self) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        if data and not data.endswith(b"\n"):
            os.truncate(self.path, data.rfind(b"\n") + 1)


def _parsed(line: bytes, where: str) -> tuple[str, CellResult]:
    try:
        plain = cast(dict[str, Plain], json.loads(line))
        return str(plain["name"]), result_of(cast(dict[str, Plain], plain["result"]))
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"{where}: not a finished cell ({error}); remove the line to run the cell again") from error
