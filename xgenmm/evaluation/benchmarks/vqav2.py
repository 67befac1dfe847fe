"""VQAv2."""

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

COLUMNS = ("question", "question_id", "image_id", "image", "answers", "question_type", "answer_type")
BENCHMARKS = (
    Benchmark(
        name="vqav2",
        title="VQAv2",
        source=Source(repo="lmms-lab/VQAv2", split="validation", columns=COLUMNS),
        licence="CC BY 4.0",
        scorer="vqa_accuracy",
        prompt="vqav2",
        headlines=vqa_headlines("vqav2"),
        images=cells("image"),
        key=column("question_id"),
        gold=lambda doc: answers_of(doc)[0] if answers_of(doc) else "",
        case=vqa_case,
        value=vqa_value("vqav2"),
        group=column("question_id"),
        max_new_tokens=SHORT,
        few_shot=FewShot(
            kind="vqa",
            train=Source(repo="HuggingFaceM4/VQAv2", split="train", columns=("question", "image")),
            demonstration=lambda doc: answers_of(doc)[0],
        ),
        notes="Test splits have no answers here: their samples file is what EvalAI wants.",
    ),
)
