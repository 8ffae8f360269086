"""``llm-rec VERB``: each verb is a recipe, a frozen config filled from presets, YAML files and options.

The overview is printed from this table alone, without importing torch; a verb's own ``--help`` imports its recipe.
"""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

import llm_rec
from llm_rec.errors import ConfigError, LlmRecError
from llm_rec.processes import own_group

VERBS = {
    "doctor": "what is installed here and what is missing",
    "data": "read a catalog and a log, check them, write them as artefacts",
    "tune-encoder": "tune a language model on this catalog: a LoRA adapter from co-interactions and views of texts",
    "encode": "encode the item texts with a language model (resumable)",
    "index": "turn embeddings into semantic IDs, with health figures",
    "train": "train a recommender: SASRec, GRU4Rec, Caser or PAD, over ids, text, codes or mixtures",
    "train generative": "train an encoder-decoder that writes the next item's semantic ID: TIGER, or a modern recipe",
    "train hybrid": "rank by a dense and a generative run together, weighed by validation",
    "clicks": "encode a click log, from raw files or from the workspace's own interactions",
    "train ctr": "train a click model: FM to DCNv2, product networks, multi-embedding, with codes and texts of items",
    "train domains": "train a model of several domains or tasks, jointly or by the phases of D-Train",
    "evaluate": "rank the full catalog for a trained run, or score its click log; warm and cold apart",
    "recommend": "recommend for a user of the log, or for a raw history",
    "report": "compare runs in one table and one self-contained page, with paired tests",
    "analyze collapse": "whether a click model's embeddings collapsed: abundance, spectra, heat maps",
    "analyze features": "how much each field of a click log says about the label, and fields about each other",
    "analyze sequence": "what a sequence model attends to, finds and separates: maps, search quality, gradients",
    "analyze domains": "whether experts of a model of domains differ, gates mix, and tail embeddings collapsed",
    "explore": "rank candidates by a click model that knows how sure it is: Thompson sampling, UCB, greedy",
    "export": "a click model for other servers: torch.export or ONNX",
    "demo": "all of the above on MovieLens-100k",
    "config show": "the effective settings of a verb, each with its origin",
}


@runtime_checkable
class Verb(Protocol):
    """What the command line needs of a recipe."""

    def main(self, argv: Sequence[str]) -> None: ...

    def show(self, argv: Sequence[str]) -> None: ...


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``llm-rec`` command. User errors end with exit code 2 and one readable message."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with own_group():
            _dispatch(words)
    except LlmRecError as error:
        sys.stderr.write(f"llm-rec: {error}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        sys.stderr.write("llm-rec: interrupted; run the same command again to go on\n")
        raise SystemExit(130) from None


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
    elif words[0] in ("-V", "--version"):
        sys.stdout.write(f"llm-rec {llm_rec.__version__}\n")
    elif words[0] == "config":
        _config(words[1:])
    else:
        verb, rest = _verb(words)
        verb.main(rest)


def overview() -> str:
    """The text of ``llm-rec --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    head = (
        f"llm-rec {llm_rec.__version__}: language models inside recommender systems\n\nusage: llm-rec VERB [options]\n"
    )
    tail = "llm-rec VERB --help lists the options of a verb; --config FILE.yaml and --preset NAME fill them.\n"
    return "\n".join([head, *lines, "", tail])


def _config(words: list[str]) -> None:
    if words[:1] in (["-h"], ["--help"]) or not words:
        sys.stdout.write("usage: llm-rec config show VERB [--preset NAME] [--config FILE] [options]\n")
        return
    if words[0] != "show" or len(words) < 2:
        raise ConfigError("usage: llm-rec config show VERB [--preset NAME] [--config FILE] [options]")
    verb, rest = _verb(words[1:])
    verb.show(rest)


def _verb(words: Sequence[str]) -> tuple[Verb, Sequence[str]]:
    """The verb that `words` begin with, of two words where there is such a one, and the words after it."""
    known = [name for name in VERBS if name != "config show"]
    size = 2 if " ".join(words[:2]) in known else 1
    verb = " ".join(words[:size])
    if verb not in known:
        close = get_close_matches(verb, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"verbs: {', '.join(known)}"
        raise ConfigError(f"{verb!r} is not a verb; {hint}")
    return cast(Verb, import_module(f"llm_rec.recipes.{verb.replace(' ', '_').replace('-', '_')}").RECIPE), words[size:]
