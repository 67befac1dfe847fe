"""Bytes by arithmetic, against what torch keeps and what the kernel counts."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from xgenmm.costs import memory
from xgenmm.costs.architectures import language_shape
from xgenmm.costs.flops import Trained
from xgenmm.costs.memory import block_bytes, formats
from xgenmm.costs.shapes import ResamplerShape
from xgenmm.model import head
from xgenmm.model.attention import use_packed_attention, working_on
from xgenmm.model.layout import layout_of
from xgenmm.model.lora import LoraConfig, add_lora
from xgenmm.model.resampler import PerceiverResampler, ResamplerConfig

LENGTH, WIDTH, LAYERS, RANK = 300, 64, 3, 4
SIZES = {"hidden_size": WIDTH, "intermediate_size": 160, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
SPECIAL = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FORMATS = {
    "float32": formats("float32", splits=False, cpu=True),
    "autocast": formats("bfloat16", splits=False, cpu=True),
    "bfloat16": formats("bfloat16", splits=True, cpu=True),
}
MODES = (True, "lora", False)


def kept_bytes(module, run, format):
    """What the forward pass keeps for the backward pass, each storage once; neither weights nor copies of them."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    shapes = {shape for parameter in module.parameters() for shape in (parameter.shape, parameter.shape[::-1])}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        is_weight = storage.data_ptr() in weights or (format == "autocast" and tensor.shape in shapes)
        if not is_weight:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    precision = torch.autocast("cpu", torch.bfloat16) if format == "autocast" else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), precision:
        result = run()
    assert result.requires_grad
    return sum(kept.values())


def prepare(module, mode, format):
    if mode is not True:
        module.requires_grad_(False)
    if mode == "lora":
        add_lora(module, LoraConfig(rank=RANK))
    if format == "bfloat16":
        module.to(torch.bfloat16)
    elif format == "autocast":
        for parameter in module.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    return module.train()


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen2", "qwen3"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_block_keeps_what_is_counted(family, mode, format):
    config = AutoConfig.for_model(family, **SIZES, **SPECIAL, num_key_value_heads=2, **head_dim(family))
    model = AutoModelForCausalLM.from_config(config)
    use_packed_attention(model)
    prepare(model.model, mode, format)
    dtype = torch.bfloat16 if format == "bfloat16" else torch.float32
    embeddings = torch.randn(1, LENGTH, WIDTH, dtype=dtype, requires_grad=True)
    layout = layout_of(torch.tensor([0] * 140 + [1] * (LENGTH - 140)))

    def run():
        positions = torch.arange(LENGTH)[None]
        with working_on(layout):
            return model.model(inputs_embeds=embeddings, use_cache=False, layout=layout, position_ids=positions)[0]

    blocks = language_shape(config.to_dict()).blocks
    each = block_bytes(blocks, mode, RANK, FORMATS[format], causal=True)
    last_norm = memory._norm(WIDTH, mode, FORMATS[format], centred=False)
    kept = kept_bytes(model.model, run, format)
    assert LENGTH * (LAYERS * each + last_norm) == pytest.approx(kept, rel=0.035)


def head_dim(family):
    return {"head_dim": 16} if family == "qwen3" else {}


@pytest.mark.parametrize("mode", [True, "lora"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_resampler_keeps_what_is_counted(mode, format):
    config = ResamplerConfig(latents=12, depth=3, heads=5, head_dim=7, ff_mult=4)
    module = prepare(PerceiverResampler(config, 48, 40), mode, format)
    features = torch.randn(7, 100, 48, dtype=torch.float32 if format == "float32" else torch.bfloat16)
    shape = ResamplerShape(**vars(config), width=48, width_out=40)
    trained = Trained(resampler=mode, rank=RANK)
    foretold = memory._resampler(shape, 100, trained, 7, FORMATS[format])
    if format != "float32":  # what we do on a CPU instead of fused attention keeps no output and no sums of scores
        foretold -= 7 * config.depth * config.latents * (2 * config.heads * config.head_dim + 4 * config.heads)
    assert foretold == pytest.approx(kept_bytes(module, lambda: module(features), format), rel=0.07)


def test_portions_are_those_of_the_model():
    assert dataclasses.astuple(head.ON_A_CPU) == memory.ON_A_CPU
    assert dataclasses.astuple(head.ON_A_GPU) == memory.ON_A_GPU


FULL = {"vision": False, "resampler": True, "language": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": FULL, "precision": "float32", "passes": 1, "recompute": "none"},
        {"mode": FULL, "precision": "float32", "passes": 2, "recompute": "full"},
    ],
    ids=["one pass", "two passes, computed again"],
)
def test_a_steps_peak_is_foretold_within_ten_percent(settings):
    # Without its own pools of freed memory, the C library gives back what torch frees, so that the peak is torch's.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    program = [sys.executable, str(Path(__file__).with_name("peak.py")), json.dumps(settings)]
    result = subprocess.run(program, check=True, capture_output=True, text=True, env=environment)
    peak = json.loads(result.stdout)
    assert peak["foretold"] == pytest.approx(peak["measured"], rel=0.1)
