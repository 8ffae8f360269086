"""``llm-rec doctor``."""

import sys
from dataclasses import dataclass

from llm_rec.doctor import checks
from llm_rec.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorJob:
    """Versions, devices and optional parts."""

    strict: bool = False
    """Also fail when an optional part is missing."""


def run(job: DoctorJob) -> None:
    """Print every check; exit code 1 when something that is needed is missing."""
    found = checks()
    width = max(len(check.name) for check in found)
    for check in found:
        sign = "ok" if check.good else "NO"
        advice = f"  ({check.advice})" if check.advice else ""
        sys.stdout.write(f"{sign}  {check.name:<{width}}  {check.found}{advice}\n")
    if not all(check.good and not (job.strict and check.advice) for check in found):
        raise SystemExit(1)


RECIPE = Recipe(
    verb="doctor",
    description="Versions, devices and optional parts of this installation.",
    job=DoctorJob,
    presets={"default": DoctorJob()},
    run=run,
)
