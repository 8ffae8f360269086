"""Peers run in environments of their own, which are built once."""

import re
from pathlib import Path

import pytest

from llm_rec.codec import Plain
from llm_rec.experiment import PeerError, default_peer_cache, peer_environment, peer_folder, run_peer


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which an earlier build of the environment was interrupted."""
    folder = tmp_path_factory.mktemp("cache")
    requirements = folder / "requirements.txt"
    requirements.write_text("# nothing to install\n")
    half = peer_folder("p", requirements, cache=folder)
    half.mkdir()
    (half / "left over").touch()
    peer_environment("p", requirements, cache=folder)
    return folder


class TestPeers:
    def run(self, cache: Path, folder: Path, code: str, *args: str, timeout: float | None = None) -> dict[str, Plain]:
        script = folder / "peer.py"
        script.write_text(code)
        return run_peer("p", script, cache / "requirements.txt", args, cache=cache, timeout=timeout)

    def test_an_interrupted_build_starts_again_and_a_finished_one_is_kept(self, cache: Path) -> None:
        folder = peer_folder("p", cache / "requirements.txt", cache=cache)
        assert not (folder / "left over").exists()
        stamp = (folder / "ready").stat().st_mtime_ns
        assert peer_environment("p", cache / "requirements.txt", cache=cache) == folder / "bin" / "python"
        assert (folder / "ready").stat().st_mtime_ns == stamp

    def test_the_peer_runs_in_its_own_environment(self, tmp_path: Path, cache: Path) -> None:
        code = "import json, sys\nprint('RESULT ' + json.dumps({'prefix': sys.prefix}))"
        assert self.run(cache, tmp_path, code) == {
            "prefix": str(peer_folder("p", cache / "requirements.txt", cache=cache))
        }

    def test_the_last_result_line_is_what_the_peer_says(self, tmp_path: Path, cache: Path) -> None:
        code = "import sys\nprint('loading')\nprint('RESULT {\"a\": 1}')\nprint('RESULT {\"n\": ' + sys.argv[1] + '}')"
        assert self.run(cache, tmp_path, code, "3") == {"n": 3}

    def test_a_failing_peer_shows_the_end_of_its_log(self, tmp_path: Path, cache: Path) -> None:
        wanted = "p: peer.py failed with exit status 1; its output ends with:\n"
        with pytest.raises(PeerError, match=re.escape(wanted) + r"(?s:.*)no such column: item"):
            self.run(cache, tmp_path, "print('reading rows')\nraise SystemExit('no such column: item')")

    def test_a_peer_without_result_is_an_error(self, tmp_path: Path, cache: Path) -> None:
        with pytest.raises(PeerError, match="p: peer.py ended without a RESULT line; its output ends with:\nhello"):
            self.run(cache, tmp_path, "print('hello')")

    @pytest.mark.parametrize("line", ["RESULT nan?", "RESULT [1]"])
    def test_a_result_that_is_no_json_object_is_an_error(self, tmp_path: Path, cache: Path, line: str) -> None:
        with pytest.raises(PeerError, match=r"p: peer.py gave a RESULT line that is not a JSON object"):
            self.run(cache, tmp_path, f"print({line!r})")

    def test_a_slow_peer_is_stopped(self, tmp_path: Path, cache: Path) -> None:
        code = "import threading\nprint('epoch 1', flush=True)\nthreading.Event().wait()"
        with pytest.raises(PeerError, match="p: peer.py ran longer than 1 s; its output ends with:\nepoch 1"):
            self.run(cache, tmp_path, code, timeout=1.0)

    def test_nothing_of_this_environment_leaks_into_the_peer(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "/elsewhere")
        code = "import json, os\nprint('RESULT ' + json.dumps({'path': os.environ.get('PYTHONPATH')}))"
        assert self.run(cache, tmp_path, code) == {"path": None}

    def test_other_pins_have_an_environment_of_their_own(self, tmp_path: Path, cache: Path) -> None:
        other = tmp_path / "requirements.txt"
        other.write_text("numpy==1.26.4\n")
        assert peer_folder("p", other, cache=cache) != peer_folder("p", cache / "requirements.txt", cache=cache)

    @pytest.mark.slow  # builds a second environment
    def test_a_pin_that_does_not_exist_shows_what_pip_says(self, tmp_path: Path) -> None:
        requirements = tmp_path / "requirements.txt"
        requirements.write_text(f"{tmp_path / 'no-such-package.whl'}\n")
        with pytest.raises(PeerError, match=r"(?s)p: pip install -r requirements.txt failed.*no-such-package"):
            peer_environment("p", requirements, cache=tmp_path / "cache")
        assert not list(tmp_path.rglob("ready"))

    def test_requirements_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(PeerError, match="gone.txt does not exist; name the file that pins what the peer needs"):
            peer_folder("p", tmp_path / "gone.txt")

    def test_a_python_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        requirements = tmp_path / "requirements.txt"
        requirements.write_text("")
        with pytest.raises(PeerError, match="p: no-such-python could not be started"):
            peer_environment("p", requirements, cache=tmp_path, python="no-such-python")

    def test_the_cache_follows_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert default_peer_cache() == Path("/somewhere/llm-rec/peers")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert default_peer_cache() == Path.home() / ".cache" / "llm-rec" / "peers"
