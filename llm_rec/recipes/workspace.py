"""The folder of a project: where each verb finds what an earlier verb made.

```
workspace/catalog  workspace/interactions  workspace/embeddings/<name>  workspace/codes/<name>  workspace/clicks/<name>
workspace/runs/<name>  workspace/adapters/<name>
```
"""

from dataclasses import dataclass
from pathlib import Path

from llm_rec.artifacts import Manifest, read_manifest
from llm_rec.data import Catalog, Interactions
from llm_rec.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Workspace:
    """Names of the artefacts below one folder; nothing is created by asking."""

    root: Path

    @property
    def catalog(self) -> Path:
        return self.root / "catalog"

    @property
    def interactions(self) -> Path:
        return self.root / "interactions"

    def embeddings(self, name: str) -> Path:
        return self.root / "embeddings" / _plain_name(name)

    def adapter(self, name: str) -> Path:
        return self.root / "adapters" / _plain_name(name)

    def codes(self, name: str) -> Path:
        return self.root / "codes" / _plain_name(name)

    def clicks(self, name: str) -> Path:
        return self.root / "clicks" / _plain_name(name)

    def run(self, name: str) -> Path:
        return self.root / "runs" / _plain_name(name)

    def load_catalog(self) -> Catalog:
        """The catalog that ``llm-rec data`` wrote here."""
        self.need(self.catalog, "catalog", "llm-rec data")
        return Catalog.load(self.catalog)

    def load_interactions(self, catalog: Catalog) -> Interactions:
        """The log that ``llm-rec data`` wrote here; refused when it belongs to another catalog."""
        self.need(self.interactions, "interactions", "llm-rec data")
        return Interactions.load(self.interactions, catalog)

    @staticmethod
    def need(path: Path, kind: str, verb: str) -> Manifest:
        """The manifest of the artefact at `path`; `ArtifactError` names the verb that makes it when it is not there."""
        try:
            return read_manifest(path, kind)
        except ArtifactError as error:
            raise ArtifactError(f"{error}; run `{verb}` first, or name the right --workspace") from error


def _plain_name(name: str) -> str:
    """A name of one path component, so that no option can point outside the workspace."""
    if not name or name in (".", "..") or any(character in name for character in "/\\\0"):
        raise ArtifactError(f"{name!r} is not a plain name; artefacts and runs are named by one word, without slashes")
    return name
