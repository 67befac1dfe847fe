"""Run as a program: two training steps of a small model, and its largest memory beside what is foretold.

Writes {"measured": bytes, "foretold": bytes}. A process of its own, because a peak belongs to a process. The settings
are one argument of JSON: mode, precision, passes, recompute.
"""

import functools
import gc
import json
import sys

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig

from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Trained, Work, causal_pairs
from xgenmm.costs.memory import step_memory
from xgenmm.costs.sharding import Mesh, ParallelConfig
from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.lora import LoraConfig
from xgenmm.model.vlm import PARTS, XGenMMForConditionalGeneration
from xgenmm.processor.packing import pack
from xgenmm.training.optim import OptimConfig, build_optimizer
from xgenmm.types import IGNORE_INDEX, Batch, Example

IMAGE, TEXT, RANK = 3, 7, 8
DOCUMENTS = ((64, 1), (200, 2), (160, 3), (300, 0))
"""Tokens of text, and tiles."""
VISION = AutoConfig.for_model(
    "siglip_vision_model",
    **{"image_size": 112, "patch_size": 16, "hidden_size": 192, "intermediate_size": 512},
    **{"num_hidden_layers": 4, "num_attention_heads": 3},
)
LANGUAGE = AutoConfig.for_model(
    "phi3",
    **{"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "vocab_size": 16384, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
)
RESAMPLER = {"latents": 64, "depth": 4, "heads": 4, "head_dim": 48, "ff_mult": 4}


def make_batch() -> Batch:
    examples = []
    for number, (text, tiles) in enumerate(DOCUMENTS):
        ids = torch.tensor([IMAGE] * (RESAMPLER["latents"] * tiles) + [TEXT] * text)
        examples.append(
            Example(
                id=str(number),
                input_ids=ids,
                labels=torch.where(ids == TEXT, 9, IGNORE_INDEX),
                pixel_values=torch.randn(tiles, 3, 112, 112),
                image_layouts=torch.zeros(tiles, 4, dtype=torch.long),
            )
        )
    return pack(examples, pad_id=0)


def memory(name: str) -> int:
    """Bytes of this process by the kernel's count."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def main(mode: dict, precision: str, passes: int, recompute: str) -> None:
    batch = make_batch()
    warm = torch.randn(256, 256, requires_grad=True)  # what torch sets up once is nobody's
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        (warm @ warm).sum().backward()
    gc.collect()
    before = memory("VmRSS")
    config = XGenMMConfig(vision_config=VISION, text_config=LANGUAGE, resampler=RESAMPLER, image_token_id=IMAGE)
    model = XGenMMForConditionalGeneration(config).train()
    model.set_trainable(**mode, lora=LoraConfig(rank=RANK))
    model.to_compute_dtype(getattr(torch, precision))
    if recompute == "full":
        for block in model.language_model.base_model.layers:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    optimizer = build_optimizer(OptimConfig(lr=1e-4), model, PARTS)
    for _ in range(2):  # the optimizer makes its moments in the first one
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as clear:
            clear.write("5")
        for _ in range(passes):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = model(**batch.inputs(), targets=batch.labels[None], reduction="sum").loss
            loss.backward()
            del loss
        optimizer.step()
        optimizer.zero_grad()
    lengths = [text + RESAMPLER["latents"] * tiles for text, tiles in DOCUMENTS]
    foretold = step_memory(
        model_shape(VISION.to_dict(), LANGUAGE.to_dict(), RESAMPLER),
        Trained(**mode, rank=RANK, recompute={"language": recompute}),
        Work(
            tiles=len(batch.pixel_values),
            tokens=sum(lengths),
            pairs=causal_pairs(lengths),
            targets=int((batch.labels != IGNORE_INDEX).sum()),
        ),
        parallel=ParallelConfig(),
        mesh=Mesh(replicas=1, shards=1),
        precision=precision,
        several=passes > 1,
        cpu=True,
    )
    json.dump({"measured": memory("VmHWM") - before, "foretold": foretold.sum}, sys.stdout)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
