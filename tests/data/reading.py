"""Loaders that processes of their own open, and digests of all that a loader gives."""

import functools
import hashlib
import io
import json
import multiprocessing
import os
import random
import tarfile
from pathlib import Path

import torch.distributed as dist
from PIL import Image
from toy import data_config
from transformers import AutoTokenizer

from xgenmm.data.loader import NOTHING, Loader, ReadConfig
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig
from xgenmm.data.source import SourceConfig
from xgenmm.processor.processor import XGenMMProcessor

TENSORS = ("input_ids", "labels", "documents", "position_ids", "pixel_values", "image_layouts", "branches")
BROKEN = (3, 7, 20)
"""Pictures of the tar whose lower half is missing: found when they are read."""
REFUSED = (5, 11)
"""Records of the tar that the index refuses."""

multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "xgenmm.training.trainer", "toy"])  # as `ranks`


def noise(seed: int, size: tuple[int, int] = (40, 40)) -> bytes:
    """A picture that is no picture's neighbour: its bytes are found in no other."""
    buffer = io.BytesIO()
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_sources(folder: Path) -> None:
    """Two sources with bad records in between: captioned pictures, and conversations of which one is longer than a
    row.
    """
    with tarfile.open(folder / "noise.tar", "w") as archive:
        for number in range(26):
            picture = noise(number, size=(40, 20 + 5 * (number % 7)))
            picture = picture[: len(picture) // 2] if number in BROKEN else picture
            text = b" " if number in REFUSED else f"number {number} {'x' * number}".encode()
            for extension, content in (("jpg", picture), ("txt", text)):
                member = tarfile.TarInfo(f"{number:02}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    rows = [
        {"conversations": [{"from": speaker, "value": f"{number} {text}"} for speaker, text in (
            ("human", "how many?"), ("gpt", "so many " * (number % 5)), ("human", "sure?"), ("gpt", "word " * number)
        )]}
        for number in range(15)
    ]  # fmt: skip
    rows[4] = {"conversations": rows[4]["conversations"][:1]}
    (folder / "talks.json").write_text(json.dumps(rows), encoding="utf-8")


@functools.cache
def _processor(toy: Path) -> XGenMMProcessor:
    return XGenMMProcessor(AutoTokenizer.from_pretrained(toy / "language"), data_config(max_tokens=96))


def open_loader(toy: Path, folder: Path, *, weighted: bool = False, threads: int = 2, **settings) -> Loader:
    """A loader over the sources in a folder."""
    processor = _processor(toy)
    batch = {"rows": 5, "tokens": 96} if weighted else {"size": 7, "tokens": 96}
    sources = [
        SourceConfig(name="noise", adapter="caption_pairs", path=str(folder / "noise.tar"), weight=0.7),
        SourceConfig(name="talks", adapter="llava", path=str(folder / "talks.json"), weight=0.3),
    ]
    if not weighted:
        sources = [SourceConfig(name=one.name, adapter=one.adapter, path=one.path) for one in sources]
    return Loader(
        sources,
        BatchConfig(**{**batch, **settings.pop("batch", {})}),
        processor,
        pairs=False,
        seed=3,
        mixture=MixtureConfig(unit="tokens", at_end="repeat") if weighted else None,
        reading=ReadConfig(threads=threads, index=str(folder / "index"), prefetch_mb=1),
        **settings,
    )


def digest_of(batch) -> str:
    """Of everything that a model sees of a batch, and of whose documents it is."""
    digest = hashlib.blake2b(repr(batch.ids).encode(), digest_size=8)
    for name in TENSORS:
        tensor = getattr(batch, name)
        digest.update(b"none" if tensor is None else repr((tensor.dtype, tensor.shape)).encode())
        digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()


def digests(step) -> list[str]:
    """Of a step's batches; a batch of padding, which stands where other ranks have one row more, is none."""
    return [digest_of(batch) for batch in step.batches if batch.ids != (NOTHING,)]


def train(toy: Path, folder: Path, log: Path, stop: int, settings: dict) -> None:
    """What a training process does with its data: batches, and now and then a checkpoint with the plan's state. Goes
    on from the checkpoint, if there is one.
    """
    checkpoint = log.with_suffix(".plan")
    begin = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "plan": None}
    loader = open_loader(toy, folder, **settings)
    with log.open("a", encoding="utf-8") as file:
        for step in loader.steps(begin["step"], stop, begin["plan"]):
            bad = sorted(fault.id for fault in step.faults)
            file.write(json.dumps([step.number, digests(step), bad]) + "\n")
            file.flush()
            scratch = checkpoint.with_suffix(".tmp")
            scratch.write_text(json.dumps({"step": step.number + 1, "plan": step.plan}))
            os.replace(scratch, checkpoint)


def read_as_rank(folder: Path, toy: Path, steps: int) -> None:
    """What a rank of a process group does; each writes what it saw."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    loader = open_loader(toy, folder, weighted=True, rank=rank, world_size=world_size, threads=1 + rank)
    seen = [[digests(step), sorted(fault.id for fault in step.faults)] for step in loader.steps(0, steps)]
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
