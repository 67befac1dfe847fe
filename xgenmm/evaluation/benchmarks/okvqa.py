"""OK-VQA."""

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

COLUMNS = ("question", "question_id", "image", "answers", "question_type", "answer_type")
BENCHMARKS = (
    Benchmark(
        name="okvqa",
        title="OK-VQA",
        source=Source(repo="lmms-lab/OK-VQA", split="val2014", columns=COLUMNS),
        licence="CC BY 4.0",
        scorer="vqa_accuracy",
        prompt="ok_vqa",
        headlines=vqa_headlines("ok_vqa"),
        images=cells("image"),
        key=column("question_id"),
        gold=lambda doc: answers_of(doc)[0] if answers_of(doc) else "",
        case=vqa_case,
        value=vqa_value("ok_vqa"),
        group=column("question_id"),
        max_new_tokens=SHORT,
        few_shot=FewShot(
            kind="vqa",
            train=Source(repo="lmms-lab/OK-VQA", split="train", columns=("question", "image")),
            demonstration=lambda doc: answers_of(doc)[0],
        ),
        notes="OpenFlamingo also stems answers with NLTK; that step is not run, and results say so.",
    ),
)
