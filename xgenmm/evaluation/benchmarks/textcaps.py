"""TextCaps: captions that must read."""

from xgenmm.evaluation.benchmarks.benchmark import (
    SENTENCE,
    Benchmark,
    FewShot,
    Source,
    caption_headlines,
    cells,
    column,
    number,
)

BENCHMARKS = (
    Benchmark(
        name="textcaps",
        title="TextCaps",
        source=Source(repo="lmms-lab/TextCaps", split="val", columns=("image", "image_id", "caption_str")),
        licence="CC BY 4.0",
        scorer="caption_metrics",
        prompt="textcaps",
        headlines=caption_headlines(),
        images=cells("image"),
        key=column("image_id"),
        gold=lambda doc: doc["caption_str"][0],
        case=lambda doc: {"corpus": "textcaps", "image_id": doc["image_id"], "references": list(doc["caption_str"])},
        value=number("cider"),
        max_new_tokens=SENTENCE,
        few_shot=FewShot(
            kind="caption",
            train=Source(repo="lmms-lab/TextCaps", split="train", columns=("image", "caption_str")),
            demonstration=lambda doc: str(doc["caption_str"][0]).strip(),
        ),
        beside=("Bleu_4", "ROUGE_L", "METEOR", "SPICE"),
        notes="Not in OpenFlamingo: demonstrations come from its own train split.",
    ),
)
