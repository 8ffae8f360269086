import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from llm_rec.data.catalog import Catalog
from llm_rec.encoders import EncodeConfig, HashingEncoder, HashingEncoderConfig, build_encoder, encode_catalog
from llm_rec.encoders.duplicates import Duplicates
from llm_rec.encoders.tokens import TokenRows
from llm_rec.errors import ArtifactError, DataError
from llm_rec.store import EmbeddingStore

JOB = Path(__file__).with_name("encode_job.py")
ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("encode_job", JOB)
assert spec is not None
assert spec.loader is not None
job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(job)
HASHING = HashingEncoder(HashingEncoderConfig(dim=32))


class Stopped(Exception):
    pass


class Recorder:
    """A real encoder that writes down what it was given; `broken` texts get NaN; it dies after `lives` shards."""

    def __init__(
        self, *, lives: int | None = None, broken: str = "\0", environment: dict[str, int] | None = None
    ) -> None:
        self.seen: list[str] = []
        self.lives = lives
        self.broken = broken
        self.extra = environment or {}
        self.dim = HASHING.dim
        self.tokens_per_batch = HASHING.tokens_per_batch
        self.waiting: list[list[str]] = []

    def fingerprint(self) -> str:
        return HASHING.fingerprint()

    def environment(self) -> Mapping[str, int]:
        return self.extra

    def tokenize(self, texts: Sequence[str]) -> TokenRows:
        self.waiting.append(list(texts))
        return HASHING.tokenize(texts)

    def encode_tokens(self, tokens: TokenRows, batches: Iterable[np.ndarray]) -> np.ndarray:
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise Stopped
        texts = self.waiting.pop(0)
        self.seen += texts
        vectors = HASHING.encode_tokens(tokens, batches)
        vectors[[self.broken in text for text in texts]] = np.nan
        return vectors

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return HASHING.encode(texts)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a store, the manifest without its time."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["created"]
    return {**files, "manifest.json": json.dumps(manifest, sort_keys=True).encode()}


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}


def run_job(out: Path, *arguments: str, processes: int = 1) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(JOB), str(out), *arguments]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_vector_equals_the_encoder_on_its_text_alone(tmp_path: Path) -> None:
    catalog = job.job_catalog(300)
    store = encode_catalog(catalog, HASHING, tmp_path / "store", job.JOB_CONFIG)
    expected = np.stack([HASHING.encode([text])[0] for text in catalog.texts])
    np.testing.assert_array_equal(store.all()[1:], expected)
    assert not store.all()[0].any()
    assert store.layout.num_shards == 5


def test_each_distinct_text_is_encoded_once_over_all_shards_and_empty_ones_never(tmp_path: Path) -> None:
    catalog = job.job_catalog(300)
    recorder = Recorder()
    store = encode_catalog(catalog, recorder, tmp_path / "store", job.JOB_CONFIG)
    distinct = {text for text in catalog.texts if text.strip()}
    assert len(recorder.seen) == len(distinct)
    assert set(recorder.seen) == distinct
    empty = sum(not text for text in catalog.texts)
    assert store.report.encoded == len(distinct)
    assert store.report.empty_texts == empty > 0
    assert store.report.duplicates == 300 - len(distinct) - empty > 0
    assert store.report.zero_norm == 0


@pytest.mark.parametrize("lives", [0, 1, 3, 4])
def test_an_interrupted_job_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, lives: int) -> None:
    catalog = job.job_catalog(300)
    encode_catalog(catalog, HASHING, tmp_path / "whole", job.JOB_CONFIG)
    with pytest.raises(Stopped):
        encode_catalog(catalog, Recorder(lives=lives), tmp_path / "stopped", job.JOB_CONFIG)
    with pytest.raises(ArtifactError, match=rf"half finished: {lives} of 5 shards.*run the same encode command"):
        EmbeddingStore.open(tmp_path / "stopped")
    again = Recorder(lives=5 - lives)
    encode_catalog(catalog, again, tmp_path / "stopped", job.JOB_CONFIG)
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")


def test_a_kill_between_copying_and_sealing_loses_nothing(tmp_path: Path) -> None:
    catalog = job.job_catalog(300)
    encode_catalog(catalog, HASHING, tmp_path / "whole", job.JOB_CONFIG)
    with pytest.raises(Stopped):
        encode_catalog(catalog, Recorder(lives=3), tmp_path / "stopped", job.JOB_CONFIG)
    (tmp_path / "stopped" / ".shard-00004.safetensors.partial-dead").write_bytes(b"half")
    (tmp_path / "stopped" / ".tmpDead").write_bytes(b"half")  # safetensors' own name for a file it has not renamed
    encode_catalog(catalog, HASHING, tmp_path / "stopped", job.JOB_CONFIG)
    plan = tmp_path / "stopped" / "plan.json"
    plan.write_text("{}")  # killed after the manifest was written, before the plan was removed
    (tmp_path / "stopped" / "draft-00001.safetensors").write_bytes(b"old")
    (tmp_path / "stopped" / ".tmpDead").write_bytes(b"half")
    encode_catalog(catalog, HASHING, tmp_path / "stopped", job.JOB_CONFIG)
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")


def test_a_finished_store_is_opened_without_encoding(tmp_path: Path) -> None:
    catalog = job.job_catalog(100)
    encode_catalog(catalog, HASHING, tmp_path / "store", job.JOB_CONFIG)
    recorder = Recorder(environment={"threads": 7})
    encode_catalog(catalog, recorder, tmp_path / "store", job.JOB_CONFIG)
    assert recorder.seen == []


def test_another_catalog_or_encoder_in_the_same_folder_is_refused_and_overwrite_starts_anew(tmp_path: Path) -> None:
    encode_catalog(job.job_catalog(100), HASHING, tmp_path / "store", job.JOB_CONFIG)
    other = HashingEncoder(HashingEncoderConfig(dim=32, seed=1))
    with pytest.raises(ArtifactError, match=r"finished store made otherwise \(encoder: \w+ there, \w+ here\)"):
        encode_catalog(job.job_catalog(100), other, tmp_path / "store", job.JOB_CONFIG)
    with pytest.raises(ArtifactError, match=r"num_items: 100 there, 90 here; catalog: "):
        encode_catalog(job.job_catalog(90), HASHING, tmp_path / "store", job.JOB_CONFIG)
    store = encode_catalog(job.job_catalog(90), other, tmp_path / "store", job.JOB_CONFIG, overwrite=True)
    assert store.num_items == 90


def test_going_on_with_other_threads_is_refused(tmp_path: Path) -> None:
    catalog = job.job_catalog(200)
    with pytest.raises(Stopped):
        encode_catalog(catalog, Recorder(lives=1, environment={"threads": 2}), tmp_path / "s", job.JOB_CONFIG)
    with pytest.raises(ArtifactError, match=r"would mix vectors: threads: 2 there, 1 here\. Use the same settings"):
        encode_catalog(catalog, Recorder(environment={"threads": 1}), tmp_path / "s", job.JOB_CONFIG)
    encode_catalog(catalog, Recorder(environment={"threads": 1}), tmp_path / "s", job.JOB_CONFIG, overwrite=True)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="is not empty and holds no embedding store; choose another folder"):
        encode_catalog(job.job_catalog(10), HASHING, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_vectors_that_are_not_finite_stop_the_job_by_name_and_keep_finished_shards(tmp_path: Path) -> None:
    catalog = job.job_catalog(300)
    recorder = Recorder(broken=" 130")
    with pytest.raises(
        DataError, match=r"not finite for 1 texts \(row 131: 'red kettle folding puzzle .*'\); finished shards are kept"
    ):
        encode_catalog(catalog, recorder, tmp_path / "s", job.JOB_CONFIG)
    assert len(recorder.seen) > 64
    again = Recorder(broken=" 130")
    config = EncodeConfig(shard_rows=64, tokens_per_batch=256, non_finite="zero")
    store = encode_catalog(catalog, again, tmp_path / "s", config)
    assert not set(again.seen) & set(catalog.texts[:128])
    assert store.report.non_finite == 1
    assert store.report.zero_norm == 1 + sum(text == catalog.texts[130] for text in catalog.texts[131:])
    assert not store.rows(np.array([131])).any()


def test_an_empty_catalog_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the catalog has no items"):
        encode_catalog(Catalog([], []), HASHING, tmp_path / "s")


def test_texts_whose_hashes_collide_keep_their_own_vectors() -> None:
    texts = ["a", "b", "a", "c", "b", "a"]
    collided = Duplicates(texts, lambda part: np.zeros(len(part), dtype=np.uint64))
    assert collided.sources(0, 6).tolist() == [0, 1, 0, 3, 4, 0]
    assert Duplicates(texts).sources(0, 6).tolist() == [0, 1, 0, 3, 1, 0]
    assert Duplicates(texts).sources(3, 6).tolist() == [3, 1, 0]


def test_two_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    encode_catalog(job.job_catalog(300), HASHING, tmp_path / "one", job.JOB_CONFIG)
    run_job(tmp_path / "two", "hashing", "300", processes=2)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "sentence"])
def test_two_processes_of_a_transformer_write_the_bytes_of_one(
    tmp_path: Path, llama_folder: Path, bert_folder: Path, name: str
) -> None:
    model = str(llama_folder if name == "causal" else bert_folder)
    run_job(tmp_path / "one", name, "300", model)
    run_job(tmp_path / "two", name, "300", model, processes=2)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def files_in(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


def kill_and_resume(out: Path, kills: int, *arguments: str) -> int:
    """Start the job, kill -9 once a random number of files has appeared, again and again; the kills that hit."""
    rng = random.Random(kills)
    hits = 0
    for _ in range(kills):
        command = [sys.executable, str(JOB), str(out), *arguments]
        process = subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL)
        goal = files_in(out) + rng.randint(1, 8)
        while process.poll() is None and files_in(out) < goal:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        hits += process.wait() == -signal.SIGKILL
    run_job(out, *arguments)
    return hits


def test_kill_9_and_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    encode_catalog(job.job_catalog(4000), HASHING, tmp_path / "whole", job.JOB_CONFIG)
    assert kill_and_resume(tmp_path / "killed", 1, "hashing", "4000") == 1
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_kill_9_five_times_and_resume_of_a_transformer_gives_the_same_bytes(tmp_path: Path, llama_folder: Path) -> None:
    arguments = ("causal", "2000", str(llama_folder))
    run_job(tmp_path / "whole", *arguments)
    assert kill_and_resume(tmp_path / "killed", 5, *arguments) >= 3
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_build_encoder_builds_the_class_of_the_config() -> None:
    assert isinstance(build_encoder(HashingEncoderConfig()), HashingEncoder)
