"""Operations by arithmetic, against those that torch counts while a model runs."""

import functools

import pytest
import torch
from flop_counting import flop_counter
from torch.utils.checkpoint import checkpoint
from toy import toy_text_config, toy_vision_config
from transformers import AutoConfig

from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Trained, Work, causal_pairs, step_flops
from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.lora import LoraConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.types import IGNORE_INDEX

RESAMPLER = ResamplerConfig(latents=5, depth=2, heads=3, head_dim=8, ff_mult=2)
IMAGE, TILES, TEXT = 3, 4, 60


def build(encoder, text, **trained):
    config = XGenMMConfig(vision_config=encoder, text_config=text, resampler=vars(RESAMPLER), image_token_id=IMAGE)
    model = XGenMMForConditionalGeneration(config).train()
    model.set_trainable(**trained, lora=LoraConfig(rank=4))
    return model


def run_step(model, again=(), reduction="sum"):
    """One step on a row of tiles and text, half of it supervised; what torch counted."""
    blocks = {
        "vision": getattr(model.vision_encoder, "encoder", model.vision_encoder),
        "resampler": model.vision_tokenizer,
        "language": model.language_model.base_model,
    }
    for part in again:
        for block in blocks[part].layers:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    ids = torch.tensor([[IMAGE] * (TILES * RESAMPLER.latents) + [7] * TEXT])
    targets = torch.where(torch.arange(ids.shape[1]) % 2 == 0, 9, IGNORE_INDEX)[None]
    side = model.config.vision_config.image_size
    with flop_counter() as counter:
        output = model(
            input_ids=ids, pixel_values=torch.randn(TILES, 3, side, side), targets=targets, reduction=reduction
        )
        if output.loss.requires_grad:
            output.loss.backward()
    length = ids.shape[1]
    work = Work(tiles=TILES, tokens=length, pairs=causal_pairs([length]), targets=int((targets != IGNORE_INDEX).sum()))
    return counter.get_total_flops(), work


def shape_of(model):
    config = model.config
    return model_shape(config.vision_config.to_dict(), config.text_config.to_dict(), config.resampler)


SMALL = {"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4}
ENCODERS = {
    "siglip": toy_vision_config(),
    "clip": AutoConfig.for_model("clip_vision_model", image_size=28, patch_size=14, **SMALL),
    "dinov2": AutoConfig.for_model("dinov2", image_size=28, patch_size=14, mlp_ratio=2, **SMALL),
    "efficientnet": AutoConfig.for_model("efficientnet_lite_grid", image_size=64),
}
SPECIAL = {"vocab_size": 150, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LANGUAGES = {
    "phi3": toy_text_config("phi3"),
    "llama": toy_text_config("llama"),
    "qwen2": AutoConfig.for_model("qwen2", **SMALL, num_key_value_heads=2, **SPECIAL),
    "gemma3": AutoConfig.for_model("gemma3_text", **SMALL, num_key_value_heads=2, head_dim=16, **SPECIAL),
    "starcoder2": AutoConfig.for_model("starcoder2", **SMALL, num_key_value_heads=2, **SPECIAL),
}
MODES = [
    {"vision": vision, "resampler": resampler, "language": language}
    for vision in (False, True, "lora")
    for resampler in (False, True, "lora")
    for language in (True, False, "lora")
    if vision or resampler or language
]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(map(str, mode.values())))
def test_every_way_of_training_costs_what_torch_counts(mode):
    model = build(toy_vision_config(), toy_text_config(), **mode)
    counted, work = run_step(model)
    assert step_flops(shape_of(model), work, Trained(**mode, rank=4)).sum.total == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("part", ["vision", "resampler", "language"])
@pytest.mark.parametrize("mode", [True, "lora", False])
def test_computing_a_part_again_costs_what_torch_counts(part, mode):
    others = {"vision": part != "vision", "resampler": True, "language": True}
    model = build(toy_vision_config(), toy_text_config(), **others | {part: mode})
    counted, work = run_step(model, again=[part])
    # The language model is called without packed rows, and so as transformers made it.
    trained = Trained(**others | {part: mode}, rank=4, recompute={part: "full"}, fused=part == "resampler")
    costs = step_flops(shape_of(model), work, trained).sum
    assert costs.total == pytest.approx(counted, rel=1e-3)
    learns_below = part != "vision" or mode
    assert bool(costs.again) == bool(learns_below)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_costs_what_torch_counts(encoder):
    trains = encoder != "efficientnet"  # torch counts the backward pass of a grouped convolution as if it had no groups
    model = build(ENCODERS[encoder], toy_text_config(), vision=trains, resampler=True, language=True)
    counted, work = run_step(model)
    trained = Trained(vision=trains)
    assert step_flops(shape_of(model), work, trained).sum.total == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_model_costs_what_torch_counts(language):
    model = build(toy_vision_config(), LANGUAGES[language], vision=False, resampler=True, language=True)
    counted, work = run_step(model)
    assert step_flops(shape_of(model), work, Trained()).sum.total == pytest.approx(counted, rel=1e-3)


def test_log_probabilities_of_positions_make_logits_twice():
    model = build(toy_vision_config(), toy_text_config(), vision=False, resampler=True, language=True)
    counted, work = run_step(model, reduction="mean")
    assert step_flops(shape_of(model), work, Trained(by_position=True)).sum.total == pytest.approx(counted, rel=1e-3)


def test_the_papers_parts_cost_what_their_formulas_say():
    # Worked out by hand for SigLIP-SO400M and the resampler: 666.4 and 63.1 GFLOP a tile; 2 x 3.624e9 a token.
    vision = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304}
    vision |= {"num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14}
    shape = model_shape(vision, {"model_type": "phi3"}, vars(ResamplerConfig()))
    parts = step_flops(shape, Work(tiles=1, tokens=1, pairs=0, targets=0), Trained()).parts
    assert parts["vision"].useful == pytest.approx(666.4e9, rel=1e-3)
    assert parts["resampler"].forward == pytest.approx(63.1e9, rel=1e-3)
    assert parts["resampler"].backward == 2 * parts["resampler"].forward
    assert parts["linear"].forward == pytest.approx(2 * 3.624e9, rel=1e-3)
    assert shape.parameters == {"vision": 428_225_600, "resampler": 109_901_568, "language": 3_821_079_552}


def test_adapters_are_as_many_as_are_put_on():
    modes = {"vision": "lora", "resampler": "lora", "language": "lora"}
    for encoder in ("siglip", "efficientnet"):
        model = build(ENCODERS[encoder], toy_text_config("llama"), **modes)
        shape = shape_of(model)
        counts = {part: count.trainable for part, count in model.parameter_table().items()}
        assert counts == {part: getattr(shape, part).lora_parameters(4) for part in modes}
