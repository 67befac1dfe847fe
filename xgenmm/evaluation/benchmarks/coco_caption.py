"""COCO captions, Karpathy's or the official validation split."""

from pathlib import Path

from xgenmm.evaluation.benchmarks.benchmark import (
    SENTENCE,
    Benchmark,
    Doc,
    FewShot,
    Source,
    caption_headlines,
    cells,
    number,
    picture,
)
from xgenmm.types import Picture

KARPATHY_TRAIN = Source(repo="yerevann/coco-karpathy", split="train", columns=("filepath", "filename", "sentences"))
"""OpenFlamingo's demonstrations. Pictures lie under the data set's folder as `filepath/filename`."""


def karpathy_images(doc: Doc) -> tuple[Picture, ...]:
    """The picture of a row of Karpathy's split."""
    return (picture(f"{doc['filepath']}/{doc['filename']}", "picture", Path(doc["_root"])),)


def karpathy_caption(doc: Doc) -> str:
    """OpenFlamingo shows the first sentence."""
    sentence = doc["sentences"][0]
    return str(sentence["raw"] if isinstance(sentence, dict) else sentence).strip()


def image_id(doc: Doc) -> int:
    """The digits behind the last underscore of COCO_val2014_000000000042.jpg."""
    return int(str(doc["question_id"]).rpartition("_")[2].partition(".")[0])


BENCHMARKS = (
    Benchmark(
        name="coco_caption",
        title="COCO captions",
        source=Source(repo="lmms-lab/COCO-Caption", split="val", columns=("question_id", "image", "answer")),
        licence="annotations CC BY 4.0; photographs under Flickr's terms",
        scorer="caption_metrics",
        prompt="coco",
        headlines=caption_headlines(),
        images=cells("image"),
        key=lambda doc: str(image_id(doc)),
        gold=lambda doc: doc["answer"][0],
        case=lambda doc: {"corpus": "coco", "image_id": image_id(doc), "references": list(doc["answer"])},
        value=number("cider"),
        max_new_tokens=SENTENCE,
        few_shot=FewShot(kind="caption", train=KARPATHY_TRAIN, demonstration=karpathy_caption, images=karpathy_images),
        beside=("Bleu_4", "ROUGE_L", "METEOR", "SPICE"),
        notes="METEOR and SPICE come with --java-metrics.",
    ),
)
