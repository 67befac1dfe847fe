"""What reading costs: our loader against bare decoding, webdataset and torch's DataLoader, on the same JPEGs.

    python benchmarks/loader.py

CPU milliseconds a picture, one thread (peers: one worker process, its time included), in turn. Outputs are compared
first. The bars are those of docs/data.md.

Bare decoding is measured under the malloc settings that our loader brings (`data.memory`). Peers and plain Pillow are
measured as people meet them, in a process with the C library's own; what they would gain by ours is printed beside it.
"""

import io
import json
import multiprocessing
import os
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from PIL import Image, ImageDraw
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from xgenmm.data.index import INDEX_VERSION
from xgenmm.data.indexing import byte_processor
from xgenmm.data.loader import Loader, ReadConfig
from xgenmm.data.memory import keep_freed_memory
from xgenmm.data.planner import BatchConfig
from xgenmm.data.shards import open_shards
from xgenmm.data.source import SourceConfig

SIDE, BATCH = 384, 32
PICTURES, LARGE = 96, 32


def photograph(seed: int, width: int, height: int) -> bytes:
    """A JPEG with the statistics of photographs: amplitudes that fall with spatial frequency as in natural scenes,
    faint colours, hard edges where things end, and a sensor's grain. At the size that a camera takes, lens and
    interpolation leave little of the finest detail; a smaller picture was shrunk and is as sharp as its pixels.
    Qualities 80 to 92, as cameras and the web write.
    """
    rng = np.random.default_rng(seed)
    across, down = np.fft.rfftfreq(width), np.fft.fftfreq(height)
    frequency = np.hypot(across[None], down[:, None])
    frequency[0, 0] = np.inf

    def texture(contrast: float, falling: float) -> np.ndarray:
        spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**falling
        spectrum *= np.exp(-((frequency / (0.2 if width > 1000 else 0.5)) ** 2))
        values = np.fft.irfft2(spectrum, (height, width))
        return values * (contrast / values.std())

    luma = texture(45, 1.35)[..., None]
    things = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(things)
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        box = [int(x), int(y), int(x + rng.integers(width // 20, width // 3)), int(y + rng.integers(5, height // 3))]
        draw.ellipse(box, fill=tuple(int(c) for c in rng.integers(0, 80, 3)))
    colours = np.stack([texture(12, 1.6) for _ in range(3)], axis=-1)
    grain = rng.normal(0, 2.0, (height, width, 1))
    pixels = np.clip(100 + luma + colours + np.asarray(things) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(80, 93)))
    return buffer.getvalue()


def write_shard(path: Path, number: int, width: int, height: int) -> None:
    """A tar as img2dataset writes it."""
    with tarfile.open(path, "w") as archive:
        for key in range(number):
            content = {"jpg": photograph(key, width, height), "txt": b"a photograph"}
            for extension, data in content.items():
                member = tarfile.TarInfo(f"{key:06}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def shrink(image: Image.Image) -> np.ndarray:
    """What all of them make of a picture: [3, 384, 384], bytes."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def decode(data: bytes) -> np.ndarray:
    """Nothing but decoding, by Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        return shrink(image)


def decode_by_simplejpeg(data: bytes) -> np.ndarray:
    """Nothing but decoding, by simplejpeg, and resizing by torch."""
    pixels = torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1)[None]
    return functional.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)[0].numpy()


def ours(folder: Path, shard: Path, mode: str) -> Callable[[], Iterator[torch.Tensor]]:
    """The pictures of one epoch, batch by batch, in the order of the shard's keys."""
    source = SourceConfig(name="s", adapter="caption_pairs", path=str(shard))
    reading = ReadConfig(threads=1, decode=mode, index=str(folder / "index"))
    batch = BatchConfig(size=BATCH, tokens=2**20, micro=1)
    loader = Loader([source], batch, byte_processor(), pairs=False, seed=0, epochs=100.0, reading=reading)
    steps = loader.sources[0].index.lengths.rows // BATCH

    def epoch() -> Iterator[torch.Tensor]:
        for step in loader.steps(0, steps):
            for packed in step.batches:
                yield packed.pixel_values

    epoch.loader = loader
    return epoch


class Indexed(Dataset):
    """A map-style data set over the same places in the tar."""

    def __init__(self, shard: Path) -> None:
        (self.shard,) = open_shards("s", [str(shard)])
        self.rows = [(record.key, record.members) for record in self.shard.walk()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        fields = self.shard.read(*self.rows[number])
        with Image.open(io.BytesIO(fields["jpg"])) as image:
            return torch.from_numpy(shrink(image)), fields["txt"].decode()


def torch_epoch(shard: Path) -> Callable[[], Iterator[torch.Tensor]]:
    """torch's DataLoader, one worker."""
    data = Indexed(shard)

    def epoch() -> Iterator[torch.Tensor]:
        for pictures, _ in DataLoader(data, batch_size=BATCH, num_workers=1, multiprocessing_context="fork"):
            yield pictures

    return epoch


def webdataset_epoch(shard: Path) -> Callable[[], Iterator[torch.Tensor]]:
    """webdataset behind torch's DataLoader, one worker."""

    def epoch() -> Iterator[torch.Tensor]:
        data = wds.WebDataset(str(shard), shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
        data = data.map_tuple(lambda image: torch.from_numpy(shrink(image)), lambda text: text).batched(BATCH)
        for pictures, _ in DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork"):
            yield pictures

    return epoch


def cpu_of(epoch: Callable[[], Iterator[torch.Tensor]]) -> float:
    """CPU seconds of this process and of the workers that it has ended."""
    before = _cpu()
    for _ in epoch():
        pass
    return _cpu() - before


def bare(call: Callable[[], Any]) -> float:
    """CPU seconds of one run in this thread."""
    before = time.thread_time()
    call()
    return time.thread_time() - before


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def in_turn(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each took in every round but the first, which does not count."""
    found = [{name: call() for name, call in calls.items()} for _ in range(rounds + 1)][1:]
    return {name: [one[name] for one in found] for name in calls}


def relative(one: list[float], other: list[float]) -> float:
    """The median of the rounds' ratios: the machine is faster in one round than in another, for both."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def plain_pillow(shard: Path) -> float:
    """CPU seconds of Pillow for all of a shard, nothing left out."""
    contents = [record.fields["jpg"] for record in open_shards("s", [str(shard)])[0].walk()]
    return bare(lambda: [decode(data) for data in contents])


PEERS: dict[str, Callable[[Path], float]] = {
    "torch DataLoader": lambda shard: cpu_of(torch_epoch(shard)),
    "webdataset": lambda shard: cpu_of(webdataset_epoch(shard)),
    "plain Pillow": plain_pillow,
}


def peer(name: str, shard: Path) -> float:
    """CPU seconds of a peer, for a process of its own to run."""
    return PEERS[name](shard)


def check_equal(folder: Path, shard: Path) -> None:
    """All give the same bytes for the same pictures, as far as they use the same decoder."""

    def sorted_tiles(epoch: Callable[[], Iterator[torch.Tensor]]) -> list[bytes]:
        return sorted(tile.numpy().tobytes() for batch in epoch() for tile in batch)

    exact = sorted_tiles(ours(folder, shard, "exact"))
    assert exact == sorted_tiles(torch_epoch(shard)) == sorted_tiles(webdataset_epoch(shard))
    contents = [record.fields["jpg"] for record in open_shards("s", [str(shard)])[0].walk()]
    assert exact == sorted(decode(data).tobytes() for data in contents)
    print(f"equal: {len(exact)} pictures, byte for byte, from ours (exact), torch, webdataset and bare Pillow")
    reference = np.stack([decode(data) for data in contents]).astype(np.int16)
    pixels = [decode_by_simplejpeg(data) for data in contents]
    assert sorted_tiles(ours(folder, shard, "draft")) == sorted(one.tobytes() for one in pixels)
    difference = np.abs(np.stack(pixels) - reference)
    print(f"  ours (draft): {difference.mean():.4f} grey levels from that on average, {difference.max()} at most")


def main() -> None:
    """Measure and print."""
    keep_freed_memory()  # as training does
    if hasattr(os, "sched_setaffinity"):  # all on the same core: on a shared machine they are not equally fast
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peers = ("torch DataLoader", "webdataset")
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=keep_freed_memory) as with_ours,
    ):  # not in this one: after a fork, whoever comes next would pay for the pages that the two share
        folder = Path(name)
        small, large = folder / "small.tar", folder / "large.tar"
        write_shard(small, PICTURES, 640, 480)
        write_shard(large, LARGE, 2048, 1536)
        check_equal(folder, small)
        contents = [record.fields["jpg"] for record in open_shards("s", [str(small)])[0].walk()]
        big = [record.fields["jpg"] for record in open_shards("s", [str(large)])[0].walk()]
        sizes = [sum(map(len, some)) / len(some) / 1000 for some in (contents, big)]
        print(
            f"{PICTURES} pictures of 640 x 480, {sizes[0]:.0f} kB each (and {LARGE} of 2048 x 1536, {sizes[1]:.0f} kB)"
        )
        print("CPU ms a picture of 640 x 480:")
        epoch, exact = ours(folder, small, "draft"), ours(folder, small, "exact")
        calls = {
            "Pillow alone": lambda: bare(lambda: [decode(data) for data in contents]),
            "ours, exact": lambda: cpu_of(exact),
            "simplejpeg and torch alone": lambda: bare(lambda: [decode_by_simplejpeg(data) for data in contents]),
            "ours": lambda: cpu_of(epoch),
            **{name: (lambda name=name: alone.submit(peer, name, small).result()) for name in peers},
            **{
                f"{name}, our malloc": (lambda name=name: with_ours.submit(peer, name, small).result())
                for name in peers
            },
        }
        cost = in_turn(calls, 8)
        for name, seconds in cost.items():
            print(f"  {name:28} {statistics.median(seconds) / PICTURES * 1000:6.2f}")
        figures = [
            ("ours, exact / Pillow alone", relative(cost["ours, exact"], cost["Pillow alone"]), "<=", 1.12),
            (
                "ours / simplejpeg and torch alone",
                relative(cost["ours"], cost["simplejpeg and torch alone"]),
                "<=",
                1.12,
            ),
            ("ours / Pillow alone", relative(cost["ours"], cost["Pillow alone"]), "<=", 1.12),
            *((f"{name} / ours, exact", relative(cost[name], cost["ours, exact"]), ">=", 1.1) for name in peers),
            *((f"{name} / ours", relative(cost[name], cost["ours"]), ">=", 1.6) for name in peers),
        ]
        epoch = ours(folder, large, "draft")
        calls = {
            "plain": lambda: alone.submit(peer, "plain Pillow", large).result(),
            "plain, our malloc": lambda: with_ours.submit(peer, "plain Pillow", large).result(),
            "ours": lambda: cpu_of(epoch),
        }
        cost = in_turn(calls, 8)
        gain = relative(cost["plain"], cost["plain, our malloc"])
        print(f"plain Pillow of 2048 x 1536 takes {gain:.2f} times as long as with our malloc settings")
        figures.append(("2048 x 1536, plain Pillow / ours", relative(cost["plain"], cost["ours"]), ">=", 5.0))
        for title, ratio, sign, bar in figures:
            met = ratio <= bar if sign == "<=" else ratio >= bar
            print(f"{title:42} {ratio:5.2f}   (wanted {sign} {bar}{'' if met else ', MISSED'})")
        began = time.perf_counter()
        next(ours(folder, small, "draft")())
        print(f"index opened and first batch: {time.perf_counter() - began:.2f} s   (wanted < 1)")
        print(json.dumps({"index_version": INDEX_VERSION, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
