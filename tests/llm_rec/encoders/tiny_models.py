"""Tiny real models, built from a config and saved as folders that the loaders open like any other model."""

from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

ADJECTIVES = ["red", "quiet", "folding", "organic", "tiny", "waterproof", "vintage", "spicy"]
NOUNS = ["kettle", "backpack", "noodles", "lamp", "guitar", "soap", "blanket", "puzzle"]


def titles(count: int) -> list[str]:
    """Distinct titles of 2 to 12 words."""
    words = ADJECTIVES + NOUNS
    return [
        f"{ADJECTIVES[i % 8]} {NOUNS[i // 8 % 8]} " + " ".join(words[(i * 7 + k) % 16] for k in range(i % 9)) + f" {i}"
        for i in range(count)
    ]


def make_bert(folder: Path, texts: list[str]) -> Path:
    """A BERT-like sentence model (mean pooling, length 1) in sentence-transformers' own folder layout."""
    from sentence_transformers import SentenceTransformer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(set("".join(words)))
    # counted here: a trained vocabulary is another one in every process, and so would the model be
    frequent = sorted(words, key=lambda word: (-words[word], word))
    pieces = list(dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *frequent]))[:300]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=fast.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).eval().save_pretrained(folder / "plain")
    fast.save_pretrained(folder / "plain")
    SentenceTransformer(str(folder / "plain"), device="cpu", local_files_only=True).save_pretrained(
        str(folder / "sentence"), create_model_card=False
    )
    return folder / "sentence"


def make_llama(folder: Path, texts: list[str]) -> Path:
    """A two-layer Llama with a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    LlamaModel(config).eval().save_pretrained(folder)
    return folder
