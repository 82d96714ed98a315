"""Captions become the token ids that CLIP2Video's own tokenizer gives."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from clip2video_pipe.models import text
from clip2video_pipe.models.text import Tokenizer, clean


def test_hard_captions_have_the_originals_ids(token_cases: list[dict[str, Any]]) -> None:
    ids, mask = Tokenizer().batch([clean(case["caption"]) for case in token_cases], 32)
    np.testing.assert_array_equal(ids, [case["ids"] for case in token_cases])
    np.testing.assert_array_equal(mask, [case["mask"] for case in token_cases])
    assert ids.dtype == np.int64 and mask.dtype == np.bool_


def test_cleaning_mends_unescapes_and_folds() -> None:
    assert clean("  The cafÃ© &amp;amp;\t\n “Bar”  ") == 'the café & "bar"'


@pytest.mark.parametrize("size", [514, 515, 640, 1024, 49407])
def test_any_vocabulary_size_is_sound(size: int) -> None:
    tokenizer = Tokenizer(size)
    texts = ["a man plays the guitar", "日本語 🎸", "", "<|endoftext|> twice"]
    ids, mask = tokenizer.batch(texts, 40)
    assert ids.min() >= 0 and ids.max() == size - 1
    assert (ids[:, 0] == tokenizer.start).all() and (ids[~mask] == 0).all()
    symbols = {i: s for s, i in tokenizer._ids.items()}
    assert "".join(symbols[i] for i in tokenizer.encode("guitar man")) == "guitar</w>man</w>"


def test_long_captions_are_cut_before_the_end_token() -> None:
    tokenizer = Tokenizer()
    ids, mask = tokenizer.batch(["word " * 50, "word"], 8)
    assert ids[0, 0] == tokenizer.start and ids[0, -1] == tokenizer.end and mask[0].all()
    assert mask[1].sum() == 3


def test_the_word_cache_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "one two three four one two"
    expected = Tokenizer(1024).encode(words)
    monkeypatch.setattr(text, "CACHED_WORDS", 2)
    tokenizer = Tokenizer(1024)
    assert tokenizer.encode(words) == expected
    assert len(tokenizer._words) <= 2


@pytest.mark.parametrize("size", [513, 49409])
def test_impossible_vocabulary_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size is {size}"):
        Tokenizer(size)


def test_a_damaged_merges_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MERGES_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"clip_merges\.txt\.gz is damaged: sha256 is 616f.*expected 000"):
        text.merges.__wrapped__()


def test_neither_tokenizer_nor_presets_import_torch() -> None:
    imports = "import sys, clip2video_pipe.models.text, clip2video_pipe.models.presets"
    subprocess.run([sys.executable, "-c", f"{imports}; assert 'torch' not in sys.modules"], check=True)
