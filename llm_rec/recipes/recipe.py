"""What every verb is made of: a frozen job, its presets, and one function that runs it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from llm_rec.config import Settings, read_settings, to_yaml

Job = TypeVar("Job")


@dataclass(frozen=True)
class Recipe(Generic[Job]):
    """A verb of the command line: ``presets`` (the first one is the default) are whole jobs, `run` does one."""

    verb: str
    description: str
    job: type[Job]
    presets: Mapping[str, Job]
    run: Callable[[Job], object]

    def main(self, argv: Sequence[str]) -> None:
        """Fill the job from `argv` and run it."""
        self.run(self._settings(argv).job)

    def show(self, argv: Sequence[str]) -> None:
        """Print the effective settings as YAML, each value with its origin."""
        settings = self._settings(argv)
        sys.stdout.write(to_yaml(settings.job, settings.origins))

    def _settings(self, argv: Sequence[str]) -> Settings[Job]:
        return read_settings(
            self.job, argv, presets=self.presets, program=f"llm-rec {self.verb}", description=self.description
        )
