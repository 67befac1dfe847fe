"""Pictures of any resolution to what a model takes: against the plain way (P16): `python benchmarks/tiles.py`.

The plain way is that of the published code's family: decode whole, resize and pad by Pillow, cut the tiles out, and
make each a normalised float32 tensor. Ours keeps bytes, which the model normalises, and decodes a large JPEG no larger
than its tiles need. CPU time of one thread, in turn; outputs are compared first. Exit code 1 if a bar is missed.
"""

import io
import sys
import time
from collections.abc import Callable

import measure  # noqa: F401  (sets the number of threads, before torch)
import numpy as np
import torch
from loader import photograph
from PIL import Image
from torch import Tensor

from xgenmm.data.indexing import byte_processor
from xgenmm.data.memory import keep_freed_memory
from xgenmm.pixels import normalised
from xgenmm.processor.images import PictureFile
from xgenmm.processor.processor import ProcessorConfig, XGenMMProcessor
from xgenmm.processor.tiling import fitting_size, grid_of
from xgenmm.types import Document, Grid, Picture

SIDE, ROUNDS = 384, 5
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
SIZES = ((576, 432), (640, 480), (800, 600), (1024, 768), (1280, 960), (1672, 1254))
"""0.25 to 2.1 megapixels."""


def make_processor() -> XGenMMProcessor:
    """Any resolution as in the paper's recipes."""
    plain = byte_processor()
    settings = {name: getattr(plain.config, name) for name in ProcessorConfig.__dataclass_fields__}
    return XGenMMProcessor(plain.tokenizer, ProcessorConfig(**{**settings, "grids": GRIDS, "tokens_per_tile": 128}))


def plain_way(data: bytes) -> Tensor:
    """Whole, tile by tile, in float32."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    grid = grid_of(image.size, [Grid(*one) for one in GRIDS], SIDE)
    width, height = fitting_size(image.size, grid, SIDE)
    canvas = Image.new("RGB", (grid.cols * SIDE, grid.rows * SIDE))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(small, ((canvas.width - width) // 2, (canvas.height - height) // 2))
    tiles = [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)]
    for row in range(grid.rows):
        for col in range(grid.cols):
            tiles.append(canvas.crop((col * SIDE, row * SIDE, (col + 1) * SIDE, (row + 1) * SIDE)))
    mean = std = torch.full((3, 1, 1), 0.5)
    return torch.stack(
        [(torch.from_numpy(np.array(tile)).permute(2, 0, 1).float() / 255 - mean) / std for tile in tiles]
    )


def ours(processor: XGenMMProcessor, data: bytes, decode: str) -> Tensor:
    """As the loader does it."""
    picture = Picture(source=data, name="picture")
    file = PictureFile(picture)
    (outline,) = processor.outlines(Document(id="", parts=(picture, "a")), lambda _: file.size)
    (needed,) = outline.needed
    image = file.decode() if decode == "exact" else file.decode_pixels(needed)
    return processor.fill(outline, [image]).pixel_values


def cpu(call: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def main() -> int:
    """Measure and print; 1 if a bar is missed."""
    keep_freed_memory()
    processor = make_processor()
    pictures = [photograph(number, *size) for number, size in enumerate(SIZES)]
    wanted = [plain_way(data) for data in pictures]
    for data, expected in zip(pictures, wanted, strict=True):
        found = normalised(ours(processor, data, "exact"), processor.config.mean, processor.config.std)
        assert torch.allclose(found, expected, atol=1e-6), "other tiles"
    print(f"equal: {len(pictures)} pictures, {sum(map(len, wanted)) / len(wanted):.1f} tiles each, decoded exactly")
    ways = {
        "plain way, float32": lambda: [plain_way(data) for data in pictures],
        **{
            f"ours, {decode}": (lambda decode=decode: [ours(processor, data, decode) for data in pictures])
            for decode in ("exact", "draft")
        },
    }
    rounds = [{name: cpu(call) for name, call in ways.items()} for _ in range(ROUNDS + 1)][1:]
    least = {name: min(one[name] for one in rounds) for name in ways}
    plain = least["plain way, float32"]
    for name, seconds in least.items():
        print(f"{name:20} {len(pictures) / seconds:6.1f} pictures/s   {plain / seconds:.2f} x")
    tiles = [ours(processor, data, "draft") for data in pictures]
    bytes_ratio = sum(tile.nbytes for tile in tiles) / sum(tile.nbytes for tile in wanted)
    figures = [
        ("plain way / ours, draft", plain / least["ours, draft"], ">=", 1.8),
        ("bytes of ours / of the plain way", bytes_ratio, "<=", 0.26),
    ]
    missed = 0
    for title, value, sign, bar in figures:
        met = value >= bar if sign == ">=" else value <= bar
        missed += not met
        print(f"{'ok    ' if met else 'MISSED'} {title}: {value:.2f} (bar: {sign} {bar})")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
