"""TextVQA."""

from xgenmm.evaluation.benchmarks.benchmark import (
    SHORT,
    Benchmark,
    FewShot,
    Source,
    answers_of,
    cells,
    column,
    vqa_case,
    vqa_headlines,
    vqa_value,
)

COLUMNS = ("question", "question_id", "image_id", "image", "answers")
BENCHMARKS = (
    Benchmark(
        name="textvqa",
        title="TextVQA",
        source=Source(repo="lmms-lab/textvqa", split="validation", columns=COLUMNS),
        licence="CC BY 4.0",
        scorer="vqa_accuracy",
        prompt="textvqa",
        headlines=vqa_headlines("textvqa"),
        images=cells("image"),
        key=column("question_id"),
        gold=lambda doc: answers_of(doc)[0] if answers_of(doc) else "",
        case=vqa_case,
        value=vqa_value("textvqa"),
        group=column("question_id"),
        max_new_tokens=SHORT,
        few_shot=FewShot(
            kind="vqa",
            train=Source(repo="lmms-lab/textvqa", split="train", columns=("question", "image")),
            demonstration=lambda doc: answers_of(doc)[0],
            max_new_tokens=10,
        ),
        notes="The question is written with one capital under lmms-eval. OCR tokens are not given.",
    ),
)
