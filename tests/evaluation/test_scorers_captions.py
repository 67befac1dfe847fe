"""Caption metrics against pycocoevalcap 1.2: its stored output, its classes run here, and values by hand."""

import json
import math
import random
from pathlib import Path

import pytest

from xgenmm.evaluation.scorers.captions import bleu, caption_scores, cider, rouge_l
from xgenmm.evaluation.scorers.ptb import ptb_tokenize, ptb_tokenize_corpus

CASES = Path(__file__).parent / "cases"
PCE = "pycocoevalcap==1.2"


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", records("ptb_tokenize"), ids=lambda case: case["id"])
def test_tokens_are_the_java_tokenisers(case: dict):
    assert ptb_tokenize(case["input"]["text"]) == case["expected"][PCE]["tokenized"]


@pytest.mark.parametrize(
    "record", [r for r in records("caption_metrics") if r["type"] == "aggregate"], ids=lambda r: r["id"]
)
def test_corpus_values_are_pycocoevalcaps(record: dict):
    cases = [c for c in records("caption_metrics") if c["id"] in record["case_ids"]]
    predictions = [c["input"]["prediction"] for c in cases]
    references = [c["input"]["references"] for c in cases]
    scores = caption_scores(predictions, references)
    expected = {k: v for k, v in record["expected"][PCE].items() if k != "METEOR"}
    assert scores.as_dict() == pytest.approx(expected, abs=1e-6)
    for i, case in enumerate(cases):
        want = case["expected"][PCE]
        assert scores.candidate_tokens[i] == want["pred_tokens"]
        assert list(scores.reference_tokens[i]) == want["ref_tokens"]
        assert scores.cider.per_image[i] == pytest.approx(want["cider"], abs=1e-6)
        assert scores.rouge_l.per_image[i] == pytest.approx(want["rouge_l"], abs=1e-6)
        assert scores.bleu.per_image[i] == pytest.approx([want[f"bleu_{n}"] for n in (1, 2, 3, 4)], abs=1e-6)


def test_untokenised_text_gives_vlmevalkits_numbers():
    record = next(r for r in records("caption_metrics") if r["id"] == "caption-v_coco-corpus")
    cases = [c for c in records("caption_metrics") if c["id"] in record["case_ids"]]
    scores = caption_scores(
        [c["input"]["prediction"] for c in cases], [c["input"]["references"] for c in cases], tokenized=True
    )
    expected = record["expected"]["vlmevalkit@e8e78f0"]
    assert [100 * value for value in scores.bleu.scores] == pytest.approx(expected["Bleu"], abs=1e-6)
    assert 100 * scores.rouge_l.score == pytest.approx(expected["ROUGE_L"], abs=1e-6)
    assert 100 * scores.cider.score == pytest.approx(expected["CIDEr"], abs=1e-6)


def random_corpus(seed: int, images: int) -> tuple[list[str], list[list[str]]]:
    """Captions over a small vocabulary: repeated words, empty and very long ones, one to six references."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(40)]

    def sentence() -> str:
        return " ".join(rng.choices(vocabulary, k=rng.choice([0, 1, 2, 5, 9, 12, 30, 90])))

    references = [[sentence() or "w0" for _ in range(rng.randint(1, 6))] for _ in range(images)]
    candidates = [rng.choice(refs) if rng.random() < 0.3 else sentence() for refs in references]
    return candidates, references


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_equal_the_reference_classes(seed: int):
    bleu_module = pytest.importorskip("pycocoevalcap.bleu.bleu")
    cider_module = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge_module = pytest.importorskip("pycocoevalcap.rouge.rouge")
    candidates, references = random_corpus(seed, images=60)
    gold = dict(enumerate(references))
    results = {i: [text] for i, text in enumerate(candidates)}
    want, per_image = cider_module.Cider().compute_score(gold, results)
    ours = cider(candidates, references, tokenized=True)
    assert ours.score == pytest.approx(want, abs=1e-9)
    assert ours.per_image == pytest.approx(per_image.tolist(), abs=1e-9)
    want, per_image = bleu_module.Bleu(4).compute_score(gold, results, verbose=0)
    ours_bleu = bleu(candidates, references, tokenized=True)
    assert ours_bleu.scores == pytest.approx(want, abs=1e-9)
    assert [list(row) for row in zip(*ours_bleu.per_image, strict=True)] == [
        pytest.approx(row, abs=1e-9) for row in per_image
    ]
    want, per_image = rouge_module.Rouge().compute_score(gold, results)
    ours = rouge_l(candidates, references, tokenized=True)
    assert ours.score == pytest.approx(want, abs=1e-9)
    assert ours.per_image == pytest.approx(per_image.tolist(), abs=1e-9)


def test_one_image_has_no_informative_ngram():
    assert cider(["a dog runs"], [["a dog runs"]]).score == 0.0


def test_cider_by_hand():
    # "a" has df 1 of 2 images: weight log 2 on both sides, cosine 1 for unigrams, no longer n-grams, a quarter of 10
    assert cider(["a", "b"], [["a"], ["c"]], tokenized=True).per_image == pytest.approx([2.5, 0.0])


def test_rouge_by_hand():
    # LCS of "a b c" and "a c" is 2: precision 2/3, recall 1.
    want = (1 + 1.44) * (2 / 3) / (1 + 1.44 * 2 / 3)
    assert rouge_l(["a b c"], [["a c"]], tokenized=True).score == pytest.approx(want)


def test_empty_candidate_scores_zero_everywhere():
    scores = caption_scores(["", "a dog"], [["a cat sat"], ["a dog"]])
    assert scores.cider.per_image[0] == scores.rouge_l.per_image[0] == 0.0
    assert scores.bleu.per_image[0] == pytest.approx((0.0,) * 4, abs=1e-6)
    assert all(math.isfinite(value) for value in scores.as_dict().values())


def test_the_next_line_decides_whether_no_is_an_abbreviation():
    assert ptb_tokenize_corpus(["the answer is no.", "2 dogs"])[0] == "the answer is no."
    assert ptb_tokenize_corpus(["the answer is no.", "two dogs"])[0] == "the answer is no"


def test_closing_tags_have_no_attributes():
    # By the Java tokeniser: with an attribute or a slash behind the name it is no tag, but marks and words.
    assert ptb_tokenize("x </a > y") == "x </a\u00a0> y"
    assert ptb_tokenize("x </a b> y") == "x < / a b > y"
    assert ptb_tokenize("x </a/> y") == "x < / a / > y"
    assert ptb_tokenize('x <a b="c" /> y') == 'x <a\u00a0b="c"\u00a0/> y'


def test_line_separators_are_spaces():
    assert ptb_tokenize_corpus(["a\u2028dog", "two\rcats"]) == ["a dog", "two cats"]


def test_captions_must_match_their_references():
    with pytest.raises(ValueError, match="1 candidates for 2 images"):
        cider(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="image 1 has no reference"):
        cider(["a", "b"], [["a"], []])
