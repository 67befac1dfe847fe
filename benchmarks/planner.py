"""What the planner costs and how tightly it packs, each figure against its bar: `python benchmarks/planner.py`.

Lengths are simulated: log-normal texts whose means per data set follow from the token shares in docs/data.md, pictures
of 128 vision tokens a tile, long documents cut at paragraphs. Speeds are CPU time of one thread. Exit code 1 if a bar
is missed.
"""

import time

import numpy as np

from xgenmm.data.lengths import SourceLengths
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig, MixtureSource, Planner

TOKENS_PER_TILE = 128
# name: weight in percent, mean text tokens, spread of their logarithm, most pictures
PRETRAINING = {
    "mint_html": (17.5, 1050, 0.8, 6),
    "mint_pdf": (12.5, 2450, 0.9, 6),
    "mint_arxiv": (2.5, 3600, 0.9, 6),
    "obelics": (17.5, 1050, 0.8, 6),
    "kale": (25.0, 115, 0.4, 1),
    "datacomp": (10.0, 32, 0.6, 1),
    "ocr": (5.0, 85, 0.8, 1),
    "grounding": (5.0, 150, 0.5, 1),
    "cc12m": (1.25, 43, 0.6, 1),
    "cc3m": (1.25, 43, 0.6, 1),
    "sbu": (1.25, 43, 0.6, 1),
    "vg": (1.25, 43, 0.6, 1),
}
CAPTIONS = {"kale": (60.0, 115, 0.4, 1), "datacomp": (40.0, 32, 0.6, 1)}
INTERLEAVED = {"obelics": (60.0, 1050, 0.8, 6), "mint_html": (40.0, 1050, 0.8, 6)}


def documents(name, rows, text_mean, spread, most_pictures, capacity, seed=0):
    """A data set of documents or caption pairs with one tile a picture."""
    draw = np.random.default_rng([seed, *name.encode()])
    text = np.ceil(draw.lognormal(np.log(text_mean) - spread**2 / 2, spread, rows)).astype(int)
    tiles = draw.integers(1, most_pictures + 1, rows)
    return columns(name, text, tiles, capacity, draw)


def conversations(name, rows, capacity, seed=0):
    """Instruction data with any-resolution pictures: 1, 3, 4 or 5 tiles, and an eighth of text only."""
    draw = np.random.default_rng([seed, *name.encode()])
    text = np.ceil(draw.lognormal(np.log(200) - 0.4, 0.9, rows)).astype(int)
    tiles = draw.choice([0, 1, 3, 4, 5], p=[0.125, 0.125, 0.25, 0.125, 0.375], size=rows)
    return columns(name, text, tiles, capacity, draw, supervised=0.4)


def columns(name, text, tiles, capacity, draw, supervised=1.0):
    """Cut samples that are longer than a row into pieces that end up to 150 tokens before the row does."""
    total = text + tiles * TOKENS_PER_TILE
    counts = -(-total // (capacity - 150))
    long = counts > 1
    pieces = np.concatenate(([0], np.cumsum(counts)))
    sizes = np.repeat(total, counts)
    share = np.repeat(tiles / total, counts)
    last = np.zeros(len(sizes), bool)
    last[pieces[1:] - 1] = True
    cut = np.repeat(long, counts) & ~last
    sizes[cut] = capacity - draw.integers(0, 150, cut.sum())
    whole = np.add.reduceat(np.where(cut, sizes, 0), pieces[:-1])
    sizes[last] = np.maximum(total - whole, 1)
    piece_tiles = np.minimum((share * sizes).astype(int), sizes // TOKENS_PER_TILE)
    piece_tiles[~np.repeat(long, counts)] = tiles[~long]
    loss = np.maximum(((sizes - piece_tiles * TOKENS_PER_TILE) * supervised).astype(int), 1)
    return SourceLengths(
        name=name,
        digest="simulated",
        shards=np.append(np.arange(0, len(text), 5000), len(text)),
        tokens=sizes.astype(np.uint32),
        tiles=piece_tiles.astype(np.uint16),
        loss_tokens=loss.astype(np.uint32),
        longest=int(sizes.max()),
        most_tiles=int(piece_tiles.max()),
        pieces=pieces if long.any() else None,
    )


def make(mix, capacity, unit, rows=64, tiles=None, size=100_000):
    """A planner over simulated sources."""
    sources = [
        MixtureSource(lengths=documents(name, size, *shape, capacity), weight=weight)
        for name, (weight, *shape) in mix.items()
    ]
    return planner(sources, capacity, unit, rows, tiles)


def planner(sources, capacity, unit, rows, tiles):
    """A planner that never ends."""
    mixture = MixtureConfig(unit=unit, at_end="repeat")
    batch = BatchConfig(rows=rows, tokens=capacity, tiles=tiles)
    return Planner(sources, mixture, batch, seed=0, max_tokens=capacity, tokens_per_tile=TOKENS_PER_TILE)


def plan(made, samples):
    """Plan until so many samples are drawn; CPU seconds."""
    began = time.process_time()
    while sum(source.counts.samples for source in made.statistics().sources.values()) < samples:
        for _ in range(8):
            next(made)
    return time.process_time() - began
