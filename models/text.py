"""CLIP's tokenizer: from a caption to token ids (reference 5). No torch: a cached run stays light."""

import functools
import gzip
import hashlib
import html
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import regex

MERGES_FILE = "clip_merges.txt.gz"
MERGES_SHA256 = "616f0306ad91e158828badf1b01f639688dbf6c0ac8ade78bf8273cd8cbdf44e"

START, END = "<|startoftext|>", "<|endoftext|>"
# What becomes a word: a special token, an English ending, a run of letters, one digit, a run of other things.
WORD = regex.compile(
    rf"{regex.escape(START)}|{regex.escape(END)}|'(?:s|t|re|ve|m|ll|d)|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+",
    regex.IGNORECASE,
)
CACHED_WORDS = 50_000


def clean(text: str) -> str:
    """`text` as CLIP reads it: encoding repaired, HTML entities resolved, single spaces, lower case."""
    # Printable ASCII without entities has nothing to repair, and is what most captions are.
    plain = text.isascii() and text.isprintable() and "&" not in text
    unescaped = text if plain else html.unescape(html.unescape(_repaired(text)))
    return " ".join(unescaped.split()).lower()


def _repaired(text: str) -> str:
    import ftfy  # 0.03 s, for texts that mostly do not come

    return ftfy.fix_text(text)


class Tokenizer:
    """CLIP's byte-level BPE with a vocabulary of `vocab_size` V (reference 5).

    Ids: 256 byte symbols, the same 256 ending a word, V - 514 merges in rank order, start V - 2, end V - 1. A
    smaller vocabulary than CLIP's own 49,408 has its first merges. Raises ValueError if V is below 514 or
    above 49,408, or if the merges that come with the package are damaged.
    """

    def __init__(self, vocab_size: int = 49408) -> None:
        most = len(merges()) + 514
        if not 514 <= vocab_size <= most:
            raise ValueError(
                f"vocab_size is {vocab_size}, but must lie between 514 (bytes only) and {most} (CLIP's own)"
            )
        pairs = merges()[: vocab_size - 514]
        symbols = list(byte_symbols().values())
        vocabulary = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in pairs), START, END]
        self.vocab_size = vocab_size
        self.start, self.end = vocab_size - 2, vocab_size - 1
        self._ids = {symbol: i for i, symbol in enumerate(vocabulary)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a cleaned caption, without the start and end tokens."""
        return [i for word in WORD.findall(text) for i in self._word(word)]

    def batch(self, texts: Sequence[str], max_words: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Ids and mask of cleaned captions, both [n, max_words]: start, at most max_words - 2 tokens, end, zeros.

        The mask is true from start to end, both included. Raises ValueError if `max_words` is below 2.
        """
        if max_words < 2:
            raise ValueError(f"max_words is {max_words}, but the start and end tokens alone take 2")
        ids = np.zeros((len(texts), max_words), dtype=np.int64)
        mask = np.zeros((len(texts), max_words), dtype=np.bool_)
        for row, text in enumerate(texts):
            tokens = [self.start, *self.encode(text)[: max_words - 2], self.end]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def _word(self, word: str) -> list[int]:
        if word in (START, END):
            return [self._ids[word]]
        if word not in self._words:
            if len(self._words) >= CACHED_WORDS:
                self._words.clear()
            self._words[word] = [self._ids[symbol] for symbol in self._bpe(word)]
        return self._words[word]

    def _bpe(self, word: str) -> list[str]:
        """The symbols of one word: the neighbours of the lowest rank are joined until no merge is left."""
        table = byte_symbols()
        symbols = [table[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            known = [pair for pair in pairwise(symbols) if pair in self._ranks]
            if not known:
                break
            best = min(known, key=self._ranks.__getitem__)
            joined: list[str] = []
            for symbol in symbols:
                # joined[-1] may itself be a join: then it is longer than best[0] and stays.
                if joined and (joined[-1], symbol) == best:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            symbols = joined
        return symbols


@functools.cache
def byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in vocabulary order: first the printable bytes, as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@functools.cache
def merges() -> tuple[tuple[str, str], ...]:
    """CLIP's 48,894 merges in rank order, read once. Raises ValueError if the file is not the one shipped."""
    packed = resources.files("clip2video_pipe.models").joinpath(MERGES_FILE).read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != MERGES_SHA256:
        raise ValueError(
            f"{MERGES_FILE} is damaged: sha256 is {found}, expected {MERGES_SHA256}; reinstall the package"
        )
    lines = gzip.decompress(packed).decode().splitlines()
    return tuple((a, b) for a, b in (line.split(" ") for line in lines))
