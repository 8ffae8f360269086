"""``llm-rec export``: the model of a click run for other servers, as torch.export or ONNX."""

from dataclasses import dataclass
from pathlib import Path

from llm_rec.errors import ConfigError
from llm_rec.recipes.click_runs import MODEL, read_click_settings
from llm_rec.recipes.console import say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.serving.click_export import Format, export_click_model
from llm_rec.serving.clicks import KIND, load_click_model


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportJob:
    """Export a trained click model."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "dcn_v2"
    """Which run."""
    formats: tuple[Format, ...] = ("pt2",)
    """pt2 (torch.export), onnx (needs the extra of that name)."""
    out: Path | None = None
    """Folder for the files; export/ of the run by default. Files that are there are replaced."""

    def __post_init__(self) -> None:
        if not self.formats:
            raise ConfigError("formats must name at least one of pt2 and onnx")


def run(job: ExportJob) -> dict[Format, Path]:
    """Write one file a format and print their inputs."""
    place = Workspace(job.workspace)
    folder = place.run(job.name)
    read_click_settings(folder)
    place.need(folder / MODEL, KIND, f"llm-rec train ctr --name {job.name}")
    scorer = load_click_model(folder / MODEL)
    written = export_click_model(scorer, job.out or folder / "export", job.formats)
    for path in written.values():
        say(f"{path}: rows encoded by {folder / MODEL} -> click probabilities")
    return written


RECIPE = Recipe(
    verb="export",
    description="Export the model of a click run, for batches of any size.",
    job=ExportJob,
    presets={"default": ExportJob()},
    run=run,
)
