"""Caption metrics without Java: CIDEr-D, BLEU-1..4 and ROUGE-L of a corpus. Knows nothing of datasets or prompts.

Source: pycocoevalcap 1.2, whose numbers these functions give to 1e-6 (the order of a sum may differ). All of them take
one candidate per image and any number of references per image, and all of them depend on the *whole* evaluated set:
CIDEr's document frequencies, BLEU's counts. Never average them over batches.

Units: fractions as pycocoevalcap and lmms-eval report them (CIDEr up to 10); OpenFlamingo and VLMEvalKit print 100
times that. METEOR and SPICE need Java programs: `evaluation.java_metrics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xgenmm.evaluation.scorers.ngrams import MAX_ORDER, Corpus, Counts, Ints, corpus_of
from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    PYCOCOEVALCAP,
    VLMEVALKIT_2026,
    Case,
    Rules,
    Scored,
    ScorerTable,
)
from xgenmm.evaluation.scorers.ptb import ptb_tokenize
from xgenmm.evaluation.scorers.subsequences import lcs_lengths

CIDER_SIGMA = 6.0
"""Width of CIDEr-D's length penalty, in bigrams (not words: pycocoevalcap takes the length from the second order)."""
ROUGE_BETA = 1.2
BLEU_TINY, BLEU_SMALL = 1e-15, 1e-9

Floats = NDArray[np.float64]


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


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> MetricResult:
    """CIDEr-D of a corpus, 0 to 10.

    Args:
        candidates: One caption per image.
        references: The gold captions of each image, in the same order; their number may differ between images.
        tokenized: Take the text as it is, because it is tokenised or shall not be (VLMEvalKit scores raw strings). By
            default it is tokenised by the PTB rules first.

    Source: pycocoevalcap 1.2, ``Cider``. One image, or equal reference sets everywhere, gives 0: nothing is telling.
    """
    return _cider(corpus_of(candidates, references, tokenized))


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> BleuResult:
    """BLEU-1..4 of a corpus with the closest reference length. Arguments as for `cider`.

    Source: pycocoevalcap 1.2, ``Bleu(4)`` with option "closest" and its two smoothing constants.
    """
    return _bleu(corpus_of(candidates, references, tokenized))


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> MetricResult:
    """Mean ROUGE-L; precision and recall are each the best over an image's references. Arguments as for `cider`.

    Source: pycocoevalcap 1.2, ``Rouge`` with beta 1.2.
    """
    return _rouge_l(corpus_of(candidates, references, tokenized))


def caption_scores(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False
) -> CaptionScores:
    """All metrics of this file from one tokenisation. Arguments as for `cider`."""
    corpus = corpus_of(candidates, references, tokenized)
    images = corpus.num_images
    bounds = images + np.searchsorted(corpus.image_of, np.arange(images + 1))
    return CaptionScores(
        cider=_cider(corpus),
        bleu=_bleu(corpus),
        rouge_l=_rouge_l(corpus),
        candidate_tokens=corpus.sentences[:images],
        reference_tokens=tuple(corpus.sentences[a:b] for a, b in pairwise(bounds.tolist())),
    )


def _cider(corpus: Corpus) -> MetricResult:
    n_images, n_refs = corpus.num_images, len(corpus.image_of)
    log_images = np.log(float(n_images)) if n_images else 0.0
    similarity: Floats = np.zeros((MAX_ORDER, n_refs))
    for order, rows in enumerate(corpus.ngrams):
        document_frequency = np.bincount(rows.of_references % rows.size, minlength=rows.size)
        weight = rows.count * (log_images - np.log(np.maximum(1.0, document_frequency)))[rows.ngram]
        norm = np.sqrt(np.bincount(rows.sentence, weight**2, minlength=n_images + n_refs))
        dot = _clipped_dot(rows, weight, n_images, n_refs)
        scale = norm[corpus.image_of] * norm[n_images:]
        similarity[order] = np.divide(dot, scale, out=dot, where=scale != 0)
    bigrams = np.maximum(0, corpus.words.lengths - 1)
    gap = bigrams[corpus.image_of] - bigrams[n_images:]
    per_ref = similarity.mean(axis=0) * np.exp(-(gap**2) / (2 * CIDER_SIGMA**2))
    sums = np.bincount(corpus.image_of, per_ref, minlength=n_images)
    return _metric(10.0 * sums / np.bincount(corpus.image_of, minlength=n_images))


def _clipped_dot(rows: Counts, weight: Floats, n_images: int, n_refs: int) -> Floats:
    """For every reference, the sum of min(candidate, reference) x reference over the n-grams both have."""
    if not rows.candidates:
        return np.zeros(n_refs)
    said, theirs = np.split(rows.key, [rows.candidates])
    of_said, of_theirs = np.split(weight, [rows.candidates])
    at = np.minimum(np.searchsorted(said, theirs), len(said) - 1)
    shared = np.where(said[at] == theirs, of_said[at], 0.0)
    products: Floats = np.minimum(shared, of_theirs) * of_theirs
    return np.bincount(rows.sentence[rows.candidates :] - n_images, products, minlength=n_refs).astype(np.float64)


def _bleu(corpus: Corpus) -> BleuResult:
    n_images = corpus.num_images
    hyp_length = corpus.words.lengths[:n_images]
    closest = _closest_length(hyp_length, corpus.words.lengths[n_images:], corpus.image_of)
    guessed = np.maximum(0, hyp_length[None] - np.arange(MAX_ORDER)[:, None])
    correct: Floats = np.zeros((MAX_ORDER, n_images))
    for order, rows in enumerate(corpus.ngrams):
        known = rows.of_references
        if not len(known):
            continue
        (said, theirs), (of_said, of_theirs) = (np.split(x, [rows.candidates]) for x in (rows.key, rows.count))
        most = np.ones(len(known), dtype=np.int64)
        repeated = of_theirs > 1  # few are, and only they can raise the most
        np.maximum.at(most, np.searchsorted(known, theirs[repeated]), of_theirs[repeated])
        at = np.minimum(np.searchsorted(known, said), len(known) - 1)
        clipped = np.where(known[at] == said, np.minimum(most[at], of_said), 0)
        correct[order] = np.bincount(rows.sentence[: rows.candidates], clipped, minlength=n_images)
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


def _rouge_l(corpus: Corpus) -> MetricResult:
    n_images, words = corpus.num_images, corpus.spaced_words
    lcs = lcs_lengths(words, corpus.image_of, np.arange(n_images, len(words.lengths)))
    precision, recall = np.zeros(n_images), np.zeros(n_images)
    np.maximum.at(precision, corpus.image_of, lcs / words.lengths[corpus.image_of])
    np.maximum.at(recall, corpus.image_of, lcs / words.lengths[n_images:])
    weighted = recall + ROUGE_BETA**2 * precision
    both = (1 + ROUGE_BETA**2) * precision * recall
    return _metric(np.divide(both, weighted, out=np.zeros_like(both), where=both != 0))


def _metric(per_image: Floats) -> MetricResult:
    return MetricResult(float(np.mean(per_image)) if len(per_image) else 0.0, tuple(per_image.tolist()))


# ---- parity cases ----


def _of_inputs(cases: Sequence[Case], *, tokenized: bool) -> CaptionScores:
    return caption_scores(
        [case["prediction"] for case in cases], [case["references"] for case in cases], tokenized=tokenized
    )


def _together(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """What pycocoevalcap gives every image of a corpus."""
    scores = _of_inputs(cases, tokenized=False)
    return [
        {
            "pred_tokens": scores.candidate_tokens[i],
            "ref_tokens": list(scores.reference_tokens[i]),
            "cider": scores.cider.per_image[i],
            "rouge_l": scores.rouge_l.per_image[i],
            **{f"bleu_{order + 1}": value for order, value in enumerate(scores.bleu.per_image[i])},
        }
        for i in range(len(cases))
    ]


def _alone(case: Case) -> dict[str, Any]:
    """The same of one image; its CIDEr is left out, because that depends on the whole corpus."""
    return {name: value for name, value in _together([case])[0].items() if name != "cider"}


def _raw_scores(cases: Sequence[Scored]) -> dict[str, Any]:
    """VLMEvalKit's names and percentages, from strings that nothing tokenised."""
    scores = _of_inputs([case.input for case in cases], tokenized=True)
    return {
        "Bleu": [100 * value for value in scores.bleu.scores],
        "ROUGE_L": 100 * scores.rouge_l.score,
        "CIDEr": 100 * scores.cider.score,
    }


def _tokenized_scores(cases: Sequence[Scored]) -> dict[str, Any]:
    return _of_inputs([case.input for case in cases], tokenized=False).as_dict()


def _tokenized_percent(cases: Sequence[Scored]) -> dict[str, Any]:
    scores = _of_inputs([case.input for case in cases], tokenized=False)
    return {
        "Bleu": [100 * value for value in scores.bleu.scores],
        "ROUGE_L": 100 * scores.rouge_l.score,
        "CIDEr": 100 * scores.cider.score,
    }


_PYCOCOEVALCAP = Rules(case=_alone, together=_together, aggregate=_tokenized_scores)

SCORERS: ScorerTable = {
    "ptb_tokenize": {PYCOCOEVALCAP: Rules(case=lambda case: {"tokenized": ptb_tokenize(case["text"])})},
    "caption_metrics": {
        PYCOCOEVALCAP: _PYCOCOEVALCAP,
        LMMS_EVAL: _PYCOCOEVALCAP,
        # Nothing is reported per image, and nothing is tokenised; the corrected numbers are the tokenised ones.
        VLMEVALKIT_2026: Rules(case=lambda _: {}, aggregate=_raw_scores, corrected=_tokenized_percent),
    },
}
