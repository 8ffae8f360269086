import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_rec.encoders import HashingEncoder, HashingEncoderConfig

TEXTS = st.lists(st.text(max_size=30), max_size=8)
MASK = 2**64 - 1
BASE = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    value = (value + BASE) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def polynomial(characters: str) -> int:
    return sum((ord(c) + 1) * pow(BASE, k + 1, 2**64) for k, c in enumerate(characters)) & MASK


def words_of(text: str) -> list[str]:
    kept = "".join(c if ord(c) >= 128 or c.isalnum() else "\0" for c in text)
    return [word for word in kept.split("\0") if word]


def naive(text: str, config: HashingEncoderConfig) -> np.ndarray:
    """The same features one at a time, with Python integers."""
    text = text.lower() if config.lowercase else text
    features: list[int] = []
    hashes = [polynomial(word) for word in words_of(text)]
    for n in range(1, config.word_ngrams + 1):
        for start in range(len(hashes) - n + 1):
            chained = hashes[start]
            for following in hashes[start + 1 : start + n]:
                chained = (mix(chained) * BASE + following) & MASK
            features.append(mix(chained ^ mix(config.seed * 1_000_003 + n)))
    for n in config.char_ngrams:
        salt = mix(config.seed * 1_000_003 + 1000 + n)
        features += [mix(polynomial(text[i : i + n]) ^ salt) for i in range(len(text) - n + 1)]
    vector = np.zeros(config.dim)
    for feature in set(features):
        count = features.count(feature)
        weight = {"count": count, "binary": 1, "log": 1 + np.log(count)}[config.weighting]
        vector[(feature >> 1) % config.dim] += weight if feature % 2 == 0 else -weight
    norm = np.linalg.norm(vector)
    return vector / norm if config.normalize and norm > 0 else vector


@pytest.mark.parametrize("weighting", ["count", "binary", "log"])
@given(texts=TEXTS)
def test_whole_array_features_equal_a_loop_over_every_feature(weighting, texts: list[str]) -> None:
    config = HashingEncoderConfig(dim=16, word_ngrams=3, char_ngrams=(1, 3), weighting=weighting, seed=5)
    expected = np.array([naive(text, config) for text in texts]).reshape(len(texts), 16)
    np.testing.assert_allclose(HashingEncoder(config).encode(texts), expected, atol=1e-6)


@given(texts=TEXTS)
def test_a_vector_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    encoder = HashingEncoder(HashingEncoderConfig(dim=16))
    alone = [encoder.encode([text])[0] for text in texts]
    np.testing.assert_array_equal(encoder.encode(texts), np.array(alone, dtype=np.float32).reshape(-1, 16))


def test_texts_that_share_words_are_nearer_and_case_does_not_matter() -> None:
    a, b, c, d = HashingEncoder(HashingEncoderConfig()).encode(
        ["red kettle with lid", "Red Kettle, large", "acoustic guitar strings", "RED KETTLE WITH LID"]
    )
    assert a @ b > a @ c + 0.2
    np.testing.assert_array_equal(a, d)


def test_golden_vector() -> None:
    vector = HashingEncoder(HashingEncoderConfig(dim=4, char_ngrams=(), normalize=False)).encode(["red red kettle"])[0]
    expected = naive("red red kettle", HashingEncoderConfig(dim=4, char_ngrams=(), normalize=False))
    np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_seed_and_every_setting_change_the_fingerprint() -> None:
    configs = [
        HashingEncoderConfig(),
        HashingEncoderConfig(seed=1),
        HashingEncoderConfig(dim=256),
        HashingEncoderConfig(weighting="count"),
        HashingEncoderConfig(normalize=False),
        HashingEncoderConfig(char_ngrams=(3,)),
    ]
    assert len({HashingEncoder(config).fingerprint() for config in configs}) == len(configs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"word_ngrams": 4}, "word_ngrams must be 0 to 3, got 4"),
        ({"char_ngrams": (3, 0)}, r"char_ngrams must be positive lengths, got \(3, 0\)"),
        ({"word_ngrams": 0, "char_ngrams": ()}, "leaves no features; set one of them"),
    ],
)
def test_settings_out_of_range_are_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        HashingEncoderConfig(**settings)
