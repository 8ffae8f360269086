"""TIGER and its relatives: histories of semantic IDs in, the semantic ID of the next item out.

The encoder reads one token of the user (hashed) and the codes of the items, oldest first, every book with tokens of its
own; the decoder gives the probability of each next code. Item i with codes c_1..c_L scores

    log p(i | history) = sum_l log p(c_l | c_1..c_l-1, history),   p = softmax(logits / temperature).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file
from torch import Tensor, nn

from llm_rec.data.user_keys import NO_USER
from llm_rec.errors import ConfigError
from llm_rec.generative.batches import latest
from llm_rec.generative.search import beam_search
from llm_rec.generative.t5 import Decoding, Encoded, T5Network, T5ShapeConfig
from llm_rec.metrics.exact import Best
from llm_rec.sequential.saving import read_settings, reading_weights, write_model
from semantic_ids.code_table import CodeTable
from semantic_ids.trie import CodeTrie

KIND = "generative_model"
_START = 0  # the token of padding, which also starts the decoder, as in T5


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerativeConfig:
    """The model. The defaults are TIGER's.

    `num_users` tokens are shared by the users (0: no user token). `head` "vocabulary" takes the softmax over all
    tokens, as T5 does; "level" over the codes of the book whose turn it is. `positions` adds learned vectors for the
    book and for how many items ago it was, beside the relative distances of T5. `beams` is how wide `recommend`
    searches.
    """

    shape: T5ShapeConfig = field(default_factory=T5ShapeConfig)
    max_length: int = 20
    num_users: int = 2000
    head: Literal["vocabulary", "level"] = "vocabulary"
    positions: bool = False
    temperature: float = 1.0
    beams: int = 20

    def __post_init__(self) -> None:
        for name, least in (("max_length", 1), ("num_users", 0), ("beams", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedGenerativeModel:
    """What `config.json` of a saved model holds."""

    model: GenerativeConfig
    codebook_sizes: tuple[int, ...]


class GenerativeModel(nn.Module):
    """Codes of a catalog and the network that writes them. A `ListRecommender`.

    Item rows become tokens here, so batches know nothing of codes. `table` must tell its items apart (`unique_codes`).
    """

    codes: Tensor
    starts: Tensor
    allowed: Tensor

    def __init__(self, config: GenerativeConfig, table: CodeTable) -> None:
        super().__init__()
        if not table.is_injective():
            raise ConfigError(
                "items with equal codes cannot be told apart by what is generated; "
                "index the catalog with --collisions digit, or add a digit (CodeTable.with_digit)"
            )
        self.config = config
        self.table = table
        sizes = np.array(table.codebook_sizes)
        starts = 1 + np.cumsum(sizes) - sizes  # the token of code 0 of every book; token 0 is padding
        self.user_start = int(1 + sizes.sum())
        self.vocabulary = self.user_start + config.num_users
        token = np.arange(self.vocabulary)
        own = (token >= starts[:, None]) & (token < (starts + sizes)[:, None])
        self.register_buffer("codes", torch.tensor(table.codes, dtype=torch.int64))
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)
        everything = np.ones_like(own)
        self.register_buffer(
            "allowed", torch.from_numpy(own if config.head == "level" else everything), persistent=False
        )
        self.network = T5Network(config.shape, self.vocabulary)
        dim, books = config.shape.dim, table.num_books
        self.book_positions = nn.Parameter(torch.zeros(books, dim)) if config.positions else None
        self.item_positions = nn.Parameter(torch.zeros(config.max_length, dim)) if config.positions else None
        self._trie: CodeTrie | None = None

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @property
    def num_items(self) -> int:
        return self.table.num_items

    @property
    def num_books(self) -> int:
        return self.table.num_books

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def trie(self) -> CodeTrie:
        """Every item of the catalog as a constraint, where the weights are."""
        if self._trie is None or self._trie.item_leaves.device != self.device:
            self._trie = CodeTrie.of(self.table, self.device)
        return self._trie

    def forward(
        self, history: Int64[Tensor, "batch length"], users: Int64[Tensor, "batch"], targets: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch books"]:
        """Log probability of each code of `targets`, given the codes before it."""
        return self._of_items(self.encode(history, users), targets)

    def encode(self, history: Int64[Tensor, "batch length"], users: Int64[Tensor, "batch"]) -> Encoded:
        """Read the latest items of right-padded histories, and the users by their keys (`user_keys`, 0 = nobody)."""
        history = latest(history, self.max_length)
        real = history.ne(0)
        tokens = (self.codes[history] + self.starts) * real[..., None]
        vectors = self.network.tokens(tokens)
        if self.book_positions is not None and self.item_positions is not None:
            ago = (real.sum(1, keepdim=True) - 1 - torch.arange(history.shape[1], device=history.device)).clamp_min(0)
            vectors = vectors + self.book_positions + self.item_positions[ago][..., None, :]
        vectors, mask = vectors.flatten(1, 2), real.repeat_interleave(self.num_books, 1)
        if self.config.num_users:
            known = users.ne(NO_USER)
            user = torch.where(known, self.user_start + (users - 1) % self.config.num_users, _START)
            vectors = torch.cat([self.network.tokens(user)[:, None], vectors], 1)
            mask = torch.cat([known[:, None], mask], 1)
        nothing = ~mask.any(1)  # a row without user and history reads one token of padding: attention needs something
        mask = torch.cat([mask[:, :1] | nothing[:, None], mask[:, 1:]], 1)
        return self.network.encode(vectors, mask)

    def start(self, encoded: Encoded) -> Decoding:
        """Decoding of these rows, code by code; see `next_codes`."""
        return Decoding(self.network, encoded)

    def next_codes(
        self, decoding: Decoding, tokens: Int64[Tensor, "rows"], book: int
    ) -> Float[Tensor, "rows vocabulary"]:
        """Log probabilities of the tokens of `book` after `tokens` of the book before (0 for the first)."""
        return self._log_probabilities(decoding.step(self._inputs(tokens[:, None], book)[:, 0]), self.allowed[book])

    @torch.no_grad()
    def log_likelihood(self, encoded: Encoded, items: Int64[Tensor, "batch number"]) -> Float[Tensor, "batch number"]:
        """log p(item | history) of item rows for each encoded history; -inf for row 0. Evaluation behaviour is the
        caller's: call `eval` first."""
        number = items.shape[1]
        spread = Encoded(encoded.states.repeat_interleave(number, 0), encoded.mask.repeat_interleave(number, 0))
        found = self._of_items(spread, items.flatten()).sum(-1).view(items.shape)
        return found.masked_fill(items.eq(0), -torch.inf)

    @torch.no_grad()
    def recommend(
        self,
        history: Int64[Tensor, "batch length"],
        users: Int64[Tensor, "batch"],
        seen: Int64[Tensor, "batch hidden"] | None,
        k: int,
    ) -> Best:
        """The `k` best items that beam search finds, without the item rows `seen` (0 for padding)."""
        training = self.training
        self.eval()
        try:
            found = beam_search(self, history, users, beams=max(k, self.config.beams), seen=seen)
        finally:
            self.train(training)
        short = (0, max(0, k - found.items.shape[1]))
        items = nn.functional.pad(found.items[:, :k], short)
        scores = nn.functional.pad(found.scores[:, :k].double(), short, value=-torch.inf)
        return Best(items, scores)

    def _of_items(self, encoded: Encoded, items: Int64[Tensor, "rows"]) -> Float[Tensor, "rows books"]:
        tokens = self.codes[items] + self.starts
        before = nn.functional.pad(tokens[:, :-1], (1, 0), value=_START)
        states = self.network.decode(self._inputs(before, 0), encoded)
        found = self._log_probabilities(states, self.allowed)
        return found.gather(-1, tokens[..., None]).squeeze(-1)

    def _inputs(self, tokens: Int64[Tensor, "rows steps"], book: int) -> Float[Tensor, "rows steps dim"]:
        """Vectors of decoder inputs from `book` on."""
        vectors: Tensor = self.network.tokens(tokens)
        if self.book_positions is None:
            return vectors
        return vectors + self.book_positions[book : book + tokens.shape[1]]

    def _log_probabilities(
        self, states: Float[Tensor, "*rows dim"], allowed: Bool[Tensor, "*books vocabulary"]
    ) -> Float[Tensor, "*rows vocabulary"]:
        """The tied head of T5, which scales states by 1 / sqrt(dim)."""
        scaled = states * states.shape[-1] ** -0.5
        logits = nn.functional.linear(scaled, self.network.tokens.weight).float() / self.config.temperature
        return logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)

    def save_pretrained(self, folder: Path | str, *, catalog: str | None = None, overwrite: bool = False) -> None:
        """Write config, weights and codes as one artefact; `catalog` is its fingerprint."""
        saved = SavedGenerativeModel(model=self.config, codebook_sizes=self.table.codebook_sizes)
        write_model(folder, KIND, saved, self, catalog, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "GenerativeModel":
        """The model saved in `folder`, in evaluation mode; `ArtifactError` when it is damaged or something else."""
        saved = read_settings(SavedGenerativeModel, folder, KIND)
        with reading_weights(folder) as weights:
            state = load_file(weights)
            table = CodeTable(codes=state["codes"].numpy().astype(np.int32), codebook_sizes=saved.codebook_sizes)
            model = cls(saved.model, table)
            model.load_state_dict(state)
        return model.to(device).eval()


def unique_codes(table: CodeTable) -> CodeTable:
    """The table, with TIGER's digit where items share all codes."""
    return table if table.is_injective() else table.with_digit()
