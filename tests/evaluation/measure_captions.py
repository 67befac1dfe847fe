"""Time the caption metrics beside pycocoevalcap, which needs Java, on made-up captions of five references each.

    python tests/evaluation/measure_captions.py --images 5000

Prints seconds of both from raw text to CIDEr, BLEU and ROUGE-L (ours the best of three, after one run on other captions
to compile the rules), their ratio, and the largest difference between the metrics. METEOR and SPICE are not run.
"""

import argparse
import contextlib
import io
import random
import sys
import time
from collections.abc import Sequence

from xgenmm.evaluation.scorers.captions import caption_scores

NOUNS = (
    "man woman dog cat bus train street table pizza plate boy girl horse field beach wave surfboard frisbee racket ball"
    " kitchen sink clock tower sign car truck bike bench park tree grass snow elephant zebra giraffe bird kite sky"
    " phone laptop desk bed room couch tv book vase cake donut banana bowl cup knife fork group child player court boat"
)
ADJECTIVES = (
    "red blue green white black brown large small young old tall wooden empty busy sunny clean two several many"
)
VERBS = "sitting standing riding holding eating walking playing flying parked looking running jumping talking"
PLACES = "on in at near with by under over beside behind"


def caption(rng: random.Random) -> str:
    """A caption in the manner of COCO's, some with clitics, hyphens, commas or a lone period."""

    def thing() -> str:
        return (rng.choice(ADJECTIVES.split()) + " " if rng.random() < 0.5 else "") + rng.choice(NOUNS.split())

    start = f"{rng.choice(['A', 'The', 'Two'])} {thing()} {rng.choice(VERBS.split())}"
    text = f"{start} {rng.choice(PLACES.split())} a {thing()}"
    if rng.random() < 0.5:
        text += f" {rng.choice(PLACES.split())} the {thing()}"
    if rng.random() < 0.05:
        text += f", and a man's black-and-white {thing()}"
    return text + rng.choice([".", ".", ".", "", " ."])


def corpus(images: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Candidates, a fifth of them copies of a reference, and references."""
    rng = random.Random(seed)
    references = [[caption(rng) for _ in range(5)] for _ in range(images)]
    return [rng.choice(refs) if rng.random() < 0.2 else caption(rng) for refs in references], references


def reference_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """The same metrics by pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()):
        gold = PTBTokenizer().tokenize({i: [{"caption": text} for text in refs] for i, refs in enumerate(references)})
        said = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(candidates)})
        bleu = Bleu(4).compute_score(gold, said, verbose=0)[0]
        return {
            **{f"Bleu_{order + 1}": value for order, value in enumerate(bleu)},
            "ROUGE_L": float(Rouge().compute_score(gold, said)[0]),
            "CIDEr": float(Cider().compute_score(gold, said)[0]),
        }


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    images = parser.parse_args().images
    caption_scores(*corpus(10, seed=1))
    candidates, references = corpus(images, seed=0)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        ours = caption_scores(candidates, references).as_dict()
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    theirs = reference_scores(candidates, references)
    slow, fast = time.perf_counter() - start, min(times)
    gap = max(abs(ours[name] - theirs[name]) for name in theirs)
    sys.stdout.write(f"{images} images: ours {fast:.2f} s (first {times[0]:.2f}), pycocoevalcap {slow:.2f} s, ")
    sys.stdout.write(f"ratio {slow / fast:.1f}, largest difference {gap:.1e}\n")


if __name__ == "__main__":
    main()
