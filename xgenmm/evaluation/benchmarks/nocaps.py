"""NoCaps: captions of objects that COCO does not name."""

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
from xgenmm.evaluation.benchmarks.coco_caption import KARPATHY_TRAIN, karpathy_caption, karpathy_images

BENCHMARKS = (
    Benchmark(
        name="nocaps",
        title="NoCaps",
        source=Source(
            repo="lmms-lab/NoCaps", split="validation", columns=("image", "image_id", "annotations_captions")
        ),
        licence="annotations CC BY 2.0; photographs of Open Images",
        scorer="caption_metrics",
        prompt="nocaps",
        headlines=caption_headlines(),
        images=cells("image"),
        key=column("image_id"),
        gold=lambda doc: doc["annotations_captions"][0],
        case=lambda doc: {
            "corpus": "nocaps",
            "image_id": int(doc["image_id"]),
            "references": list(doc["annotations_captions"]),
        },
        value=number("cider"),
        max_new_tokens=SENTENCE,
        few_shot=FewShot(kind="caption", train=KARPATHY_TRAIN, demonstration=karpathy_caption, images=karpathy_images),
        beside=("Bleu_4", "ROUGE_L", "METEOR", "SPICE"),
        notes="Not in OpenFlamingo: demonstrations come from COCO's train split, as its left-over mapping has it.",
    ),
)
