"""Random steps on two processes that share their weights: pictures here and none there, and nobody waits for ever.

Each process draws for itself, step by step, how long its documents are, how many pictures they have (often none), and
whether there is anything to learn in them. Weights are split (FSDP2). If a step takes longer than a minute, the run
ends with exit code 1; and so it does if the losses of the first steps are not those of one process that takes all
documents.

python benchmarks/stall.py [number of steps]
"""

import math
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from transformers import Phi3Config, SiglipVisionConfig

from xgenmm.costs.sharding import ParallelConfig
from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.objectives.next_token import next_token
from xgenmm.processor.packing import pack
from xgenmm.training.optim import scale_gradients
from xgenmm.training.parallel import adding_up, spread
from xgenmm.types import IGNORE_INDEX, Batch, Example

WORLD, STEPS, COMPARED = 2, 500, 20
PASSES = 2
"""Forward and backward passes of a step."""
PATIENCE = timedelta(seconds=60)
TILE, LATENTS, IMAGE = 28, 4, 511
GRIDS = ((0, 0), (0, 0), (1, 2), (2, 2))


def small_model() -> XGenMMForConditionalGeneration:
    """The same weights in every process; the encoder is frozen."""
    vision = SiglipVisionConfig(
        image_size=TILE, patch_size=14, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    text = Phi3Config(
        vocab_size=512,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
    )
    resampler = asdict(ResamplerConfig(latents=LATENTS, depth=2, heads=2, head_dim=16))
    torch.manual_seed(0)
    model = XGenMMForConditionalGeneration(
        XGenMMConfig(vision_config=vision, text_config=text, resampler=resampler, image_token_id=IMAGE)
    )
    model.set_trainable(vision=False, resampler=True, language=True)
    return model.train()


def draw_document(draw: torch.Generator, name: str) -> Example:
    """Text, in four of ten cases with pictures; in one of ten nothing of it is supervised."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    grids = [GRIDS[number(0, len(GRIDS))] for _ in range(number(1, 4))] if number(0, 10) < 4 else []
    tiles = sum(1 + rows * cols for rows, cols in grids)
    words = torch.randint(1, IMAGE, (number(2, 60),), generator=draw)
    ids = torch.cat([torch.full((LATENTS * tiles,), IMAGE), words])
    labels = torch.full_like(ids, IGNORE_INDEX)
    if number(0, 10) > 0:
        labels[LATENTS * tiles : -1] = words[1:]
    return Example(
        id=name,
        input_ids=ids,
        labels=labels,
        pixel_values=torch.rand(tiles, 3, TILE, TILE, generator=draw) * 2 - 1,
        image_layouts=torch.tensor([(*grid, 30, 40) for grid in grids], dtype=torch.long).reshape(-1, 4),
    )


def draw_passes(step: int, rank: int) -> list[Batch]:
    """What a process has to do in a step: the same number of passes as the others, and whatever comes in them."""
    draw = torch.Generator().manual_seed(1000 * step + rank)
    return [
        pack([draw_document(draw, f"{step} {rank} {number}") for number in range(1 + step % 3)], pad_id=0)
        for _ in range(PASSES)
    ]


def take_step(model: XGenMMForConditionalGeneration, optimizer: torch.optim.Optimizer, passes: list[Batch]) -> Tensor:
    """Sum of losses and number of targets of this process, and an update."""
    found = torch.zeros(2, dtype=torch.float64)
    for number, batch in enumerate(passes, 1):
        with adding_up(model, last=number == len(passes)):
            output = next_token(model, batch)
            if output.loss.requires_grad:
                output.loss.backward()
        found += torch.tensor([output.loss.item(), output.count])
    if dist.is_initialized():
        dist.all_reduce(found)
    if found[1]:
        scale_gradients([one for one in model.parameters() if one.requires_grad], 1 / found[1].item())
        optimizer.step()
    optimizer.zero_grad()
    return found


def steps_of(model: XGenMMForConditionalGeneration, ranks: list[int], steps: int) -> tuple[list[float], list[float]]:
    """Mean losses and seconds of the steps of a process that does the work of these ranks."""
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.05)
    losses, seconds = [], []
    for number in range(steps):
        began = time.perf_counter()
        total = take_step(model, optimizer, [batch for rank in ranks for batch in draw_passes(number, rank)])
        losses.append((total[0] / total[1]).item() if total[1] else 0.0)
        seconds.append(time.perf_counter() - began)
    return losses, seconds


def work(rank: int, folder: str, steps: int) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=PATIENCE)
    model = small_model()
    spread(model, ParallelConfig(strategy="fsdp"), "float32", torch.device("cpu"))
    losses, seconds = steps_of(model, [rank], steps)
    torch.save((losses, seconds), Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()


def main(steps: int) -> int:
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (folder, steps), nprocs=WORLD, start_method="spawn")
        losses, seconds = torch.load(Path(folder) / "rank-0.pt")
    print(
        f"{steps} random steps on {WORLD} processes without a stall, in {time.perf_counter() - began:.0f} s with the "
        f"start: the longest took {max(seconds):.2f} s, the median {statistics.median(seconds):.3f} s"
    )
    alone, _ = steps_of(small_model(), list(range(WORLD)), min(COMPARED, steps))
    apart = max(abs(one - other) / max(other, 1e-9) for one, other in zip(losses, alone, strict=False))
    print(f"losses of the first {len(alone)} steps are those of one process, to {apart:.0e}")
    return 0 if apart < 1e-5 and math.isfinite(sum(losses)) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS))
