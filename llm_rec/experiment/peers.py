"""Peers of a benchmark, each run in an environment of its own that is built once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llm_rec.artifacts import fingerprint
from llm_rec.codec import Plain
from llm_rec.errors import LlmRecError
from llm_rec.progress import progress


class PeerError(LlmRecError, RuntimeError):
    """A peer's environment could not be built, or the peer did not give its RESULT line."""


def default_peer_cache() -> Path:
    """`$XDG_CACHE_HOME/llm-rec/peers`, or `~/.cache/llm-rec/peers`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-rec" / "peers"


def run_peer(
    name: str,
    script: Path,
    requirements: Path,
    args: Sequence[str],
    *,
    cache: Path | None = None,
    python: str = sys.executable,
    timeout: float | None = None,
) -> dict[str, Plain]:
    """Run `script` in the peer's own environment and return the JSON object of its last ``RESULT {...}`` line.

    The environment is built once per set of pins (a folder of `cache`). `PeerError` carries the end of the log when
    pip or the script fails, gives no RESULT line, or runs longer than `timeout` seconds.
    """
    interpreter = peer_environment(name, requirements, cache=cache, python=python)
    output = _call(f"{name}: {script.name}", [str(interpreter), str(script), *args], timeout)
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise PeerError(f"{name}: {script.name} ended without a RESULT line; its output ends with:\n{_tail(output)}")
    try:
        result = json.loads(lines[-1].removeprefix("RESULT "))
    except json.JSONDecodeError as error:
        raise PeerError(f"{name}: {script.name} gave a RESULT line that is not a JSON object: {lines[-1]}") from error
    if not isinstance(result, dict):
        raise PeerError(f"{name}: {script.name} gave a RESULT line that is not a JSON object: {lines[-1]}")
    return result


def peer_environment(name: str, requirements: Path, *, cache: Path | None = None, python: str = sys.executable) -> Path:
    """The interpreter of an environment that holds exactly these pins, built when it is not there yet.

    A build that was interrupted has no `ready` file and is built again.
    """
    folder = peer_folder(name, requirements, cache=cache, python=python)
    interpreter = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with progress(f"installing {name}", None):
            _call(f"{name}: venv", [python, "-m", "venv", str(folder)], 600.0)
            install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-r", str(requirements)]
            _call(f"{name}: pip install -r {requirements.name}", [str(interpreter), *install], 3600.0)
        (folder / "ready").touch()
    return interpreter


def peer_folder(name: str, requirements: Path, *, cache: Path | None = None, python: str = sys.executable) -> Path:
    """Where the environment of these pins lives: other pins or another Python give another folder."""
    if not requirements.is_file():
        raise PeerError(f"{name}: {requirements} does not exist; name the file that pins what the peer needs")
    code = "import platform; print(platform.python_version())"
    release = _call(f"{name}: {python}", [python, "-c", code], 60.0).strip()
    pins = fingerprint(requirements.read_text(encoding="utf-8"), release)
    return (cache or default_peer_cache()) / f"{name}-{pins}"


def _call(what: str, command: Sequence[str], timeout: float | None) -> str:
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}  # nothing of this environment may leak into the peer's
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        log = (error.stdout or b"").decode(errors="replace")  # bytes, also when text was asked for
        raise PeerError(f"{what} ran longer than {timeout:g} s; its output ends with:\n{_tail(log)}") from error
    except OSError as error:
        raise PeerError(f"{what} could not be started: {error}") from error
    if done.returncode != 0:
        raise PeerError(
            f"{what} failed with exit status {done.returncode}; its output ends with:\n{_tail(done.stdout)}"
        )
    return done.stdout


def _tail(log: str, lines: int = 20) -> str:
    return "\n".join(log.rstrip().splitlines()[-lines:]) or "(nothing)"
