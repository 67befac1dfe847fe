"""Captions as numbers: the words and n-grams of a corpus, each sentence one after the other. Scores nothing."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xgenmm.evaluation.scorers.ptb import ptb_tokenize_corpus

MAX_ORDER = 4
"""Longest n-gram of BLEU and CIDEr."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """n-grams of one order: one row per (sentence, n-gram), sorted by sentence, then n-gram."""

    sentence: Ints
    ngram: Ints
    count: Ints
    key: Ints
    """The sentence's image and the n-gram as one number: ascending among the candidates' rows."""
    size: int
    """One more than the largest n-gram, by which a key is taken apart."""
    candidates: int
    """Rows of candidates, which come first; the others are of references."""

    @cached_property
    def of_references(self) -> Ints:
        """The distinct keys of references, ascending."""
        return _distinct(self.key[self.candidates :])[0]


@dataclass(frozen=True)
class Words:
    """The words of sentences as numbers, all in a row."""

    numbers: Ints
    lengths: Ints
    """Words of every sentence."""

    @cached_property
    def starts(self) -> Ints:
        """Place of every sentence's first word."""
        return np.cumsum(self.lengths) - self.lengths

    def sentence(self, index: int) -> list[int]:
        """The words of one sentence."""
        start = self.starts[index]
        return self.numbers[start : start + self.lengths[index]].tolist()

    def table(self, sentences: Ints, fill: int) -> Ints:
        """Some sentences as rows, filled up to the longest."""
        columns = np.arange(self.lengths[sentences].max())
        at = np.minimum(self.starts[sentences, None] + columns, len(self.numbers) - 1)
        return np.where(columns < self.lengths[sentences, None], self.numbers[at], fill)


@dataclass(frozen=True)
class Corpus:
    """Tokenised captions. Sentences are the candidates, numbered as their images, and after them all references."""

    sentences: tuple[str, ...]
    image_of: Ints
    """The image of every reference, ascending."""

    @property
    def num_images(self) -> int:
        """Images, and so candidates."""
        return len(self.sentences) - len(self.image_of)

    @cached_property
    def image_of_sentence(self) -> Ints:
        """The image of every sentence."""
        return np.concatenate([np.arange(self.num_images), self.image_of])

    @cached_property
    def words(self) -> Words:
        """Words between any white space; an empty sentence has none."""
        return _numbered([text.split() for text in self.sentences])

    @cached_property
    def spaced_words(self) -> Words:
        """Words between single spaces, which is what ROUGE compares: two spaces in a row have an empty word between."""
        if all(" ".join(text.split()) == text != "" for text in self.sentences):
            return self.words
        return _numbered([text.split(" ") for text in self.sentences])

    @cached_property
    def ngrams(self) -> list[Counts]:
        """The n-grams of every order; equal ones have equal numbers in all sentences."""
        words, lengths = self.words.numbers, self.words.lengths
        sentence = np.repeat(np.arange(len(lengths)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the sentence's end
        grams, start, orders = words, np.arange(len(words)), []
        for order in range(1, MAX_ORDER + 1):
            if order > 1:
                keep = left[start] >= order
                start = start[keep]
                # An n-gram is the number of its head and one more word, renumbered so that the product stays small.
                grams = _renumbered(grams[keep] * _size_of(words) + words[start + order - 1])
            size = _size_of(grams)
            key, count = _distinct(sentence[start] * size + grams)
            of, ngram = np.divmod(key, size)
            candidates = int(np.searchsorted(of, self.num_images))
            orders.append(Counts(of, ngram, count, self.image_of_sentence[of] * size + ngram, size, candidates))
        return orders


def corpus_of(candidates: Sequence[str], references: Sequence[Sequence[str]], tokenized: bool) -> Corpus:
    """One candidate and any number of references for every image, tokenised by the PTB rules unless they are already.

    Raises:
        ValueError: An image has no candidate or no reference.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates for {len(references)} images: one caption per image is scored")
    empty = [i for i, refs in enumerate(references) if not refs]
    if empty:
        raise ValueError(f"image {empty[0]} has no reference caption ({len(empty)} such images): every image needs one")
    flat = [text for refs in references for text in refs]
    image_of = np.repeat(np.arange(len(references)), [len(refs) for refs in references])
    # Tokenised as two files, because the reference tokeniser treats the end of its input differently.
    prepare: Callable[[Sequence[str]], Sequence[str]] = list if tokenized else ptb_tokenize_corpus
    return Corpus((*prepare(candidates), *prepare(flat)), image_of)


def _numbered(sentences: Sequence[Sequence[str]]) -> Words:
    ids: defaultdict[str, int] = defaultdict(lambda: len(ids))
    numbers = np.array([ids[word] for words in sentences for word in words], dtype=np.int64)
    return Words(numbers, np.array([len(words) for words in sentences], dtype=np.int64))


# numpy's own unique() hashes integers, which takes twenty times as long on these keys as sorting them.
def _distinct(values: Ints) -> tuple[Ints, Ints]:
    """The distinct non-negative values in ascending order and how often each occurs."""
    ordered = np.sort(values)
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    return ordered[first], np.diff(first, append=len(ordered))


def _renumbered(values: Ints) -> Ints:
    """Every non-negative value replaced by its rank among the distinct ones."""
    places = np.arange(len(values))
    bits = len(values).bit_length()
    if len(values) and int(values.max()) < 1 << (63 - bits):
        # A value and its place in one number: sorting numbers is twice as fast as sorting places by them.
        both = np.sort(values << bits | places)
        ordered, order = both >> bits, both & ((1 << bits) - 1)
    else:
        order = np.argsort(values)
        ordered = values[order]
    ranks = np.empty_like(places)
    ranks[order] = np.cumsum(np.diff(ordered, prepend=-1) != 0) - 1
    return ranks


def _size_of(numbers: Ints) -> int:
    """One more than the largest number, so that a pair of numbers can be one number."""
    return int(numbers.max()) + 1 if len(numbers) else 1
