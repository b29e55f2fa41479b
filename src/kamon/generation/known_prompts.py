"""Whether a prompt is like those that a model has learned to follow.

A model answers any prompt, also one that it cannot understand. So Kamon compares the prompt with
those of its training: by an n-gram of their characters, no prompt may be much more unlikely than
the most unlikely of them is to an n-gram of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from kamon.engines.loops import document_logprobs
from kamon.ngrams.native import NativeNgram, count_ngram
from kamon.ngrams.reference import Ngram
from kamon.tokenizers.char import CharTokenizer

ORDER = 4  # of the n-grams
NUM_PARTS = 5  # of the prompts, each compared with the others
MIN_PROMPTS = 20  # different ones. With fewer, a prompt must be one of them
MAX_PROMPTS = 5_000  # that are read
NUM_SHOWN = 3  # as examples
MAX_SHOWN = 60  # characters of an example


@dataclass(frozen=True)
class KnownPrompts:
    """The different prompts of a training, in its order."""

    prompts: tuple[str, ...]

    @classmethod
    def of(cls, prompts: Iterable[str]) -> KnownPrompts:
        return cls(tuple(dict.fromkeys(prompts)))

    def knows(self, prompt: str) -> bool:
        """Return whether a prompt is one of these, or like them.

        >>> known = KnownPrompts.of(f"{sex}, {n}" for sex in ("girl", "boy") for n in range(3, 13))
        >>> known.knows("boy, 13"), known.knows("a girl name with m")
        (True, False)
        """
        if not self.prompts or prompt in self.prompts:
            return True
        if len(self.prompts) < MIN_PROMPTS or self.tokenizer.unknown(prompt):
            return False
        return bits_per_char(self.counted(self.read), self.tokenizer, [prompt])[0] <= self.most_bits

    @cached_property
    def read(self) -> Sequence[str]:
        return self.prompts[:: max(1, -(-len(self.prompts) // MAX_PROMPTS))]

    @cached_property
    def tokenizer(self) -> CharTokenizer:
        return CharTokenizer.train(self.prompts)

    def counted(self, prompts: Sequence[str]) -> Ngram | NativeNgram:
        tokenizer = self.tokenizer
        return count_ngram(tokenizer.encode_documents(prompts), tokenizer.vocab_size, ORDER)

    @cached_property
    def most_bits(self) -> float:
        """The bits per character of the most unlikely prompt, by an n-gram of other prompts."""
        largest = 0.0
        for part in range(NUM_PARTS):
            others = [p for place, p in enumerate(self.read) if place % NUM_PARTS != part]
            bits = bits_per_char(self.counted(others), self.tokenizer, self.read[part::NUM_PARTS])
            largest = max(largest, *bits)
        return largest

    def warning(self, prompt: str) -> tuple[str, str] | None:
        """Return what to tell a user about an unknown prompt, and what to do; None for others."""
        if self.knows(prompt):
            return None
        step = max(1, len(self.prompts) // NUM_SHOWN)
        shown = [f'"{text[:MAX_SHOWN]}"' for text in self.prompts[::step][:NUM_SHOWN]]
        return (
            f'the prompt "{prompt:.100}" is unlike the prompts that the model has learned, so its '
            "answers mean little",
            f"write a prompt such as {', '.join(shown)}",
        )


def bits_per_char(
    ngram: Ngram | NativeNgram, tokenizer: CharTokenizer, texts: Sequence[str]
) -> list[float]:
    logprobs, _ = document_logprobs(ngram, tokenizer.encode_documents(texts))
    sizes = (len(tokenizer.normal(text)) + 1 for text in texts)
    return [-log / size / math.log(2) for log, size in zip(logprobs, sizes, strict=True)]
