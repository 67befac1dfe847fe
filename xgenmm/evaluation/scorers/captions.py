"""Caption metrics without Java: CIDEr-D, BLEU-1..4 and ROUGE-L over a whole corpus. Knows nothing of datasets or prompts.

Source: pycocoevalcap 1.2, whose numbers these functions give to 1e-6 (the order of a sum may differ). All of them take
one candidate per image and any number of references per image, and all of them depend on the *whole* evaluated set:
CIDEr's document frequencies, BLEU's counts. Never average them over batches.

Units: fractions as pycocoevalcap and lmms-eval report them (CIDEr up to 10); OpenFlamingo and VLMEvalKit print 100 times that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xgenmm.evaluation.scorers.ptb import ptb_tokenize_corpus

MAX_ORDER = 4
"""Longest n-gram of BLEU and CIDEr."""
CIDER_SIGMA = 6.0
"""Width of CIDEr-D's length penalty, in bigrams (not words: pycocoevalcap takes the length from the second order)."""
ROUGE_BETA = 1.2
BLEU_TINY, BLEU_SMALL = 1e-15, 1e-9
LCS_BITS = 62
"""Longest candidate in tokens that the vectorised LCS holds in one machine word."""
LCS_CHUNK = 4096
"""Sentence pairs compared at once by the LCS; bounds its memory."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MetricResult:
    """One caption metric: the corpus value and the value of every image, in the order given."""

    score: float
    per_image: tuple[float, ...]


@dataclass(frozen=True)
class BleuResult:
    """BLEU-1..4: corpus values (from summed counts, not means) and per image, each indexed by order - 1."""

    scores: tuple[float, float, float, float]
    per_image: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class CaptionScores:
    """All Java-free caption metrics of one corpus, and the tokenised text they were computed from."""

    cider: MetricResult
    bleu: BleuResult
    rouge_l: MetricResult
    candidate_tokens: tuple[str, ...]
    reference_tokens: tuple[tuple[str, ...], ...]

    def as_dict(self) -> dict[str, float]:
        """Corpus values under the names that pycocoevalcap and lmms-eval print."""
        bleu = {f"Bleu_{order + 1}": value for order, value in enumerate(self.bleu.scores)}
        return {**bleu, "ROUGE_L": self.rouge_l.score, "CIDEr": self.cider.score}


@dataclass(frozen=True)
class _Corpus:
    """Tokenised captions; references are flat, ``image_of`` says whose each one is."""

    candidates: tuple[str, ...]
    references: tuple[str, ...]
    image_of: Ints

    @property
    def num_images(self) -> int:
        return len(self.candidates)


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> MetricResult:
    """CIDEr-D of a corpus, 0 to 10.

    Args:
        candidates: One caption per image.
        references: The gold captions of each image, in the same order; their number may differ between images.
        tokenized: The text is already tokenised (or shall not be: VLMEvalKit scores raw strings). Else the PTB rule runs first.

    Source: pycocoevalcap 1.2, ``Cider``. One image, or equal reference sets everywhere, gives 0: no n-gram is informative.
    """
    return _cider(_corpus(candidates, references, tokenized))


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> BleuResult:
    """BLEU-1..4 of a corpus with the closest reference length. Arguments as for `cider`.

    Source: pycocoevalcap 1.2, ``Bleu(4)`` with option "closest" and its two smoothing constants.
    """
    return _bleu(_corpus(candidates, references, tokenized))


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> MetricResult:
    """Mean ROUGE-L; precision and recall are each the best over an image's references. Arguments as for `cider`.

    Source: pycocoevalcap 1.2, ``Rouge`` with beta 1.2.
    """
    return _rouge_l(_corpus(candidates, references, tokenized))


def caption_scores(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False
) -> CaptionScores:
    """All metrics of this file from one tokenisation. Arguments as for `cider`."""
    corpus = _corpus(candidates, references, tokenized)
    bounds = np.searchsorted(corpus.image_of, np.arange(corpus.num_images + 1))
    return CaptionScores(
        cider=_cider(corpus),
        bleu=_bleu(corpus),
        rouge_l=_rouge_l(corpus),
        candidate_tokens=corpus.candidates,
        reference_tokens=tuple(corpus.references[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)),
    )


def _corpus(candidates: Sequence[str], references: Sequence[Sequence[str]], tokenized: bool) -> _Corpus:
    if len(candidates) != len(references):
        raise ValueError(
            f"{len(candidates)} candidates for {len(references)} images: exactly one caption per image is scored"
        )
    empty = [i for i, refs in enumerate(references) if not refs]
    if empty:
        raise ValueError(f"image {empty[0]} has no reference caption ({len(empty)} such images): every image needs one")
    flat = [text for refs in references for text in refs]
    image_of = np.repeat(np.arange(len(references)), [len(refs) for refs in references])
    # The two sides are tokenised as two files, because the reference tokeniser treats the end of its input differently.
    prepare: Callable[[Sequence[str]], Sequence[str]] = list if tokenized else ptb_tokenize_corpus
    return _Corpus(tuple(prepare(candidates)), tuple(prepare(flat)), image_of)


@dataclass(frozen=True)
class _Counts:
    """n-grams of one order: one row per (sentence, n-gram), sorted by sentence, then n-gram."""

    sentence: Ints
    ngram: Ints
    count: Ints


def _ngram_counts(sentences: Sequence[Sequence[str]]) -> list[_Counts]:
    """Count the n-grams of every order; equal n-grams have equal numbers in all sentences of the call."""
    lengths = np.array([len(words) for words in sentences], dtype=np.int64)
    ids: dict[str, int] = {}
    words = np.array([ids.setdefault(word, len(ids)) for words in sentences for word in words], dtype=np.int64)
    sentence = np.repeat(np.arange(len(sentences)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the end of the sentence
    grams, start, orders = words, np.arange(len(words)), []
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            keep = left[start] >= order
            start = start[keep]
            # A longer n-gram is the number of its head and one more word, renumbered so that the product stays small.
            _, grams = np.unique(grams[keep] * len(ids) + words[start + order - 1], return_inverse=True)
        size = int(grams.max()) + 1 if len(grams) else 1
        key, count = np.unique(sentence[start] * size + grams, return_counts=True)
        orders.append(_Counts(key // size, key % size, count))
    return orders


def _cider(corpus: _Corpus) -> MetricResult:
    n_images, n_refs = corpus.num_images, len(corpus.references)
    # Sentences 0..n_images are the candidates, so sentence number and image number agree there.
    counts = _ngram_counts([text.split() for text in corpus.candidates + corpus.references])
    image_of_sentence = np.concatenate([np.arange(n_images), corpus.image_of])
    log_images = np.log(float(n_images)) if n_images else 0.0
    similarity: Floats = np.zeros((MAX_ORDER, n_refs))
    for order, rows in enumerate(counts):
        is_ref = rows.sentence >= n_images
        size = int(rows.ngram.max()) + 1 if len(rows.ngram) else 1
        image = image_of_sentence[rows.sentence]
        seen = np.unique(image[is_ref] * size + rows.ngram[is_ref]) % size
        document_frequency = np.bincount(seen, minlength=size)
        weight = rows.count * (log_images - np.log(np.maximum(1.0, document_frequency[rows.ngram])))
        norm = np.sqrt(np.bincount(rows.sentence, weight**2, minlength=n_images + n_refs))
        dot = _clipped_dot(image * size + rows.ngram, weight, is_ref, rows.sentence - n_images, n_refs)
        scale = norm[corpus.image_of] * norm[n_images:]
        similarity[order] = np.divide(dot, scale, out=dot, where=scale != 0)
    bigrams = np.bincount(counts[1].sentence, counts[1].count, minlength=n_images + n_refs)
    gap = bigrams[corpus.image_of] - bigrams[n_images:]
    per_ref = similarity.mean(axis=0) * np.exp(-(gap**2) / (2 * CIDER_SIGMA**2))
    per_image = np.bincount(corpus.image_of, per_ref, minlength=n_images) / np.bincount(
        corpus.image_of, minlength=n_images
    )
    return _metric(10.0 * per_image)


def _clipped_dot(key: Ints, weight: Floats, is_ref: NDArray[np.bool_], ref_of_row: Ints, n_refs: int) -> Floats:
    """For every reference, the sum of min(candidate, reference) x reference over the n-grams both have.

    ``key`` joins image and n-gram; a candidate's rows have ascending keys because its sentence number is its image's.
    """
    hyp_key, hyp_weight = key[~is_ref], weight[~is_ref]
    if not len(hyp_key):
        return np.zeros(n_refs)
    at = np.minimum(np.searchsorted(hyp_key, key[is_ref]), len(hyp_key) - 1)
    shared = np.where(hyp_key[at] == key[is_ref], hyp_weight[at], 0.0)
    return np.bincount(ref_of_row[is_ref], np.minimum(shared, weight[is_ref]) * weight[is_ref], minlength=n_refs)


def _bleu(corpus: _Corpus) -> BleuResult:
    n_images = corpus.num_images
    sentences = [text.split() for text in corpus.candidates + corpus.references]
    lengths = np.array([len(words) for words in sentences], dtype=np.int64)
    image_of_sentence = np.concatenate([np.arange(n_images), corpus.image_of])
    hyp_length, closest = lengths[:n_images], _closest_length(lengths[:n_images], lengths[n_images:], corpus.image_of)
    guessed = np.maximum(0, hyp_length[None] - np.arange(MAX_ORDER)[:, None])
    correct: Floats = np.zeros((MAX_ORDER, n_images))
    for order, rows in enumerate(_ngram_counts(sentences)):
        is_ref = rows.sentence >= n_images
        size = int(rows.ngram.max()) + 1 if len(rows.ngram) else 1
        key = image_of_sentence[rows.sentence] * size + rows.ngram
        ref_key, inverse = np.unique(key[is_ref], return_inverse=True)
        if not len(ref_key):
            continue
        most = np.zeros(len(ref_key), dtype=np.int64)
        np.maximum.at(most, inverse, rows.count[is_ref])
        at = np.minimum(np.searchsorted(ref_key, key[~is_ref]), len(ref_key) - 1)
        clipped = np.where(ref_key[at] == key[~is_ref], np.minimum(most[at], rows.count[~is_ref]), 0)
        correct[order] = np.bincount(rows.sentence[~is_ref], clipped, minlength=n_images)
    per_image = _bleu_from_counts(correct, guessed, hyp_length, closest)
    totals = (correct.sum(axis=1, keepdims=True), guessed.sum(axis=1, keepdims=True), hyp_length.sum(keepdims=True))
    corpus_bleu = _bleu_from_counts(*totals, closest.sum(keepdims=True))[:, 0].tolist()
    return BleuResult(
        (corpus_bleu[0], corpus_bleu[1], corpus_bleu[2], corpus_bleu[3]),
        tuple(tuple(values) for values in per_image.T.tolist()),
    )


def _closest_length(hyp_length: Ints, ref_length: Ints, image_of: Ints) -> Ints:
    """The reference length nearest to each candidate's; the shorter one if two are as near."""
    distance = np.abs(ref_length - hyp_length[image_of])
    order = np.lexsort((ref_length, distance, image_of))
    first = np.searchsorted(image_of[order], np.arange(len(hyp_length)))
    return ref_length[order][first]


def _bleu_from_counts(correct: NDArray, guessed: NDArray, length: NDArray, ref_length: NDArray) -> Floats:
    """BLEU per order (rows) from matched and possible n-grams, with pycocoevalcap's smoothing and brevity penalty."""
    precision = np.cumprod((correct + BLEU_TINY) / (guessed + BLEU_SMALL), axis=0)
    score = precision ** (1.0 / np.arange(1, MAX_ORDER + 1))[:, None]
    ratio = (length + BLEU_TINY) / (ref_length + BLEU_SMALL)
    penalty = np.exp(1.0 - 1.0 / np.minimum(ratio, 1.0))
    return score * penalty


def _rouge_l(corpus: _Corpus) -> MetricResult:
    # Split at single spaces: an empty caption is one empty token, which is how pycocoevalcap avoids a division by zero.
    ids: dict[str, int] = {}
    hyps = [[ids.setdefault(word, len(ids)) for word in text.split(" ")] for text in corpus.candidates]
    refs = [[ids.setdefault(word, len(ids)) for word in text.split(" ")] for text in corpus.references]
    lcs = _lcs_lengths([hyps[image] for image in corpus.image_of], refs)
    hyp_length = np.array([len(words) for words in hyps], dtype=np.float64)
    precision, recall = np.zeros(corpus.num_images), np.zeros(corpus.num_images)
    np.maximum.at(precision, corpus.image_of, lcs / hyp_length[corpus.image_of])
    np.maximum.at(recall, corpus.image_of, lcs / np.array([len(words) for words in refs], dtype=np.float64))
    weighted = recall + ROUGE_BETA**2 * precision
    both = (1 + ROUGE_BETA**2) * precision * recall
    return _metric(np.divide(both, weighted, out=np.zeros_like(both), where=both != 0))


def _lcs_lengths(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> Ints:
    """Length of the longest common subsequence of every pair of word-number sequences."""
    result = np.zeros(len(left), dtype=np.int64)
    short = [i for i, words in enumerate(left) if len(words) <= LCS_BITS]
    # Pairs of similar length share a chunk, so that little of it is padding.
    short.sort(key=lambda i: (len(right[i]), len(left[i])))
    for start in range(0, len(short), LCS_CHUNK):
        chunk = short[start : start + LCS_CHUNK]
        result[chunk] = _lcs_batch([left[i] for i in chunk], [right[i] for i in chunk])
    for i in (i for i, words in enumerate(left) if len(words) > LCS_BITS):
        result[i] = _lcs_one(left[i], right[i])
    return result


def _lcs_batch(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> Ints:
    """Bit-parallel LCS: bit i of ``state`` is cleared while position i of ``left`` ends a longer match (Hyyrö 2004)."""
    a, b = _padded(left, -1), _padded(right, -2)
    bits = np.left_shift(np.int64(1), np.arange(a.shape[1], dtype=np.int64))
    inside = np.left_shift(np.int64(1), np.array([len(words) for words in left], dtype=np.int64)) - 1
    state = inside.copy()
    for column in range(b.shape[1]):
        match = (a == b[:, column, None]) @ bits
        hit = state & match
        state = ((state + hit) | (state - hit)) & inside
    return np.array([len(words) for words in left]) - np.bitwise_count(state).astype(np.int64)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Ints:
    width = max(len(row) for row in rows)
    lengths = np.array([len(row) for row in rows])
    table = np.full((len(rows), width), fill, dtype=np.int64)
    table[np.arange(width) < lengths[:, None]] = [word for row in rows for word in row]
    return table


def _lcs_one(left: Sequence[int], right: Sequence[int]) -> int:
    """The same as `_lcs_batch` for one pair of any length, in Python's unbounded integers."""
    positions: dict[int, int] = {}
    for i, word in enumerate(left):
        positions[word] = positions.get(word, 0) | (1 << i)
    inside = (1 << len(left)) - 1
    state = inside
    for word in right:
        hit = state & positions.get(word, 0)
        state = ((state + hit) | (state - hit)) & inside
    return len(left) - state.bit_count()


def _metric(per_image: Floats) -> MetricResult:
    return MetricResult(float(np.mean(per_image)) if len(per_image) else 0.0, tuple(per_image.tolist()))
