"""The caption metrics beside pycocoevalcap, which needs Java: 5,000 made-up captions with five references each.

From raw text to CIDEr, BLEU-1..4 and ROUGE-L, as CPU time of this process and of the Java that it starts; METEOR and
SPICE are not run. Equal to 1e-6 first, then the ratio. `python benchmarks/captions.py`. Exit code 1 below 10x.
"""

import argparse
import contextlib
import io
import random
import resource
import statistics
import sys
from collections.abc import Callable, Sequence

import measure  # noqa: F401  (sets the number of threads)

from xgenmm.evaluation.scorers.captions import caption_scores

BAR = 10.0
ROUNDS = 3
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


def cpu_seconds(call: Callable[[], object]) -> float:
    """Of this process and of those that it starts."""

    def spent() -> float:
        times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in times)

    begin = spent()
    call()
    return spent() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    candidates, references = corpus(parser.parse_args().images, seed=0)
    ours = caption_scores(candidates, references).as_dict()
    theirs = reference_scores(candidates, references)
    gap = max(abs(ours[name] - value) for name, value in theirs.items())
    assert gap < 1e-6, f"the metrics differ by {gap}"
    print(f"{len(candidates)} captions, largest difference of a metric {gap:.0e}")
    pairs = [
        (
            cpu_seconds(lambda: reference_scores(candidates, references)),
            cpu_seconds(lambda: caption_scores(candidates, references)),
        )
        for _ in range(ROUNDS)
    ]
    peer, own = (statistics.median(pair[place] for pair in pairs) for place in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"pycocoevalcap {peer:.2f} s, ours {own:.2f} s CPU: {ratio:.1f}x (bar {BAR:.0f}x)")
    return int(ratio < BAR)


if __name__ == "__main__":
    sys.exit(main())
