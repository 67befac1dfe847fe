"""VizWiz."""

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

COLUMNS = ("question", "question_id", "image", "answers")
BENCHMARKS = (
    Benchmark(
        name="vizwiz",
        title="VizWiz",
        source=Source(repo="lmms-lab/VizWiz-VQA", split="val", columns=COLUMNS),
        licence="CC BY 4.0",
        scorer="vqa_accuracy",
        prompt="vizwiz",
        headlines=vqa_headlines("vizwiz_vqa"),
        images=cells("image"),
        key=column("question_id"),
        gold=lambda doc: answers_of(doc)[0] if answers_of(doc) else "",
        case=vqa_case,
        value=vqa_value("vizwiz_vqa"),
        group=column("question_id"),
        max_new_tokens=SHORT,
        few_shot=FewShot(
            kind="vqa",
            train=Source(repo="lmms-lab/VizWiz-VQA", split="train", columns=("question", "image")),
            demonstration=lambda doc: answers_of(doc)[0],
        ),
        notes='"none" counts as 0, as in the references.',
    ),
)
