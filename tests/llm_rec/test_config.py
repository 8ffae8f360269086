"""Settings: each source over the one before, nothing ignored, every value with its origin."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_rec.config import flatten, read_settings, to_yaml
from llm_rec.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallConfig:
    width: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LargeConfig:
    depth: int = 2
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    part: SmallConfig | LargeConfig = SmallConfig()
    name: str = "x"
    limit: int | None = None


PRESETS = {"small": Job(), "large": Job(part=LargeConfig())}


def read(*words: str):
    return read_settings(Job, words, presets=PRESETS, program="p", description="d")


def test_later_sources_win_and_origins_say_so(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: from-file\npart:\n  kind: large\n  rate: 1e-3\n")
    settings = read("--preset", "large", "--config", str(file), "--part.depth", "7")
    assert settings.job == Job(part=LargeConfig(depth=7, rate=0.001), name="from-file")
    assert settings.origins == {
        "part.kind": str(file),
        "part.depth": "command line",
        "part.rate": str(file),
        "name": str(file),
        "limit": "preset large",
    }


def test_options_may_stand_before_and_after_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: from-file\n")
    assert read("--name=typed", f"--config={file}").job.name == "typed"


def test_default_is_the_first_preset() -> None:
    settings = read()
    assert settings.job == PRESETS["small"]
    assert set(settings.origins.values()) == {"default"}


def test_another_kind_in_a_file_replaces_instead_of_mixing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("part: {kind: large, depth: 9}\n")
    assert read("--config", str(file)).job.part == LargeConfig(depth=9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: y\n", "nam: unknown key; did you mean 'name'?"),
        ("part: {kind: lagre}\n", "part.kind: 'lagre' is not one of 'small', 'large'; did you mean 'large'?"),
        ("part: {width: wide}\n", "part.width: expected int, got 'wide'"),
        ("- 1\n", "expected a mapping of settings, got list"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_files_are_refused_with_the_dotted_path(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read("--config", str(file))
    assert message in str(caught.value)


def test_a_missing_file_and_an_unknown_preset_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config: no file"):
        read("--config", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="--preset: 'huge' is not one of small, large"):
        read("--preset", "huge")


def test_unknown_options_exit_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--nme", "y")
    assert "--name" in capsys.readouterr().err


def test_effective_settings_read_back_to_the_same_job(tmp_path: Path) -> None:
    job = Job(part=LargeConfig(depth=3), limit=5)
    file = tmp_path / "shown.yaml"
    file.write_text(to_yaml(job, dict.fromkeys(flatten({"name": 1}), "default")))
    assert read("--config", str(file)).job == job
