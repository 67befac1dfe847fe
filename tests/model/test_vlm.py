"""The whole model: backbones equal to transformers' own, what trains is what was said, the numbers are the paper's."""

import dataclasses

import pytest
import torch
from torch import nn
from toy import IMAGE_TOKEN, LATENTS, alone, make_batch, make_examples, make_toy_model, toy_config
from transformers import Phi3Config, SiglipVisionConfig

from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.lora import LoraConfig
from xgenmm.model.vlm import PartCount, count_parameters
from xgenmm.processor.collate import collate
from xgenmm.types import IGNORE_INDEX

ONE, GRID, WIDE = (0, 0, 30, 30), (2, 2, 48, 64), (1, 2, 30, 40)
MIXED = [[GRID], [], [ONE, WIDE]]
"""Rows with one image, none, and two."""


def released_config(vocabulary: int = 32064) -> XGenMMConfig:
    """Spec 1.1."""
    return XGenMMConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=1152,
            num_hidden_layers=27,
            num_attention_heads=16,
            intermediate_size=4304,
            patch_size=14,
            image_size=384,
        ),
        text_config=Phi3Config(
            vocab_size=vocabulary,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            sliding_window=2047,
        ),
    )


def test_parameter_counts_of_the_paper():
    counts = count_parameters(released_config())
    assert counts["vision"] == 428_225_600
    assert counts["resampler"] == 109_901_568
    assert counts["language"] == 3_821_079_552  # Phi-3's spare rows hold the new tokens
    assert counts["total"] == 428_225_600 + 109_901_568 + 3_821_079_552


def test_new_rows_count_for_input_and_output():
    # Rows behind the 32,064 that Phi-3 has: one input and one output row of 3,072 each.
    assert count_parameters(released_config(32064 + 3))["language"] == 3_821_079_552 + 3 * 2 * 3072


@pytest.mark.parametrize("family", ["phi3", "llama", "gpt2"])
def test_text_alone_is_the_language_models_own(family):
    model = make_toy_model(family)
    ids = torch.randint(0, 256, (2, 12))
    assert torch.equal(model(input_ids=ids).logits, model.language_model(input_ids=ids).logits)


def test_the_vision_tower_is_transformers_own(toy_model):
    tiles = torch.randn(3, 3, 28, 28)
    expected = toy_model.vision_encoder(pixel_values=tiles).last_hidden_state
    assert torch.equal(toy_model.encode(tiles), expected)


def test_embeddings_are_text_and_vision_tokens_in_their_places(toy_model):
    batch = make_batch(MIXED)
    (embedded,) = toy_model.embed(batch.input_ids[None], batch.pixel_values, batch.image_layouts)
    placeholders = batch.input_ids == IMAGE_TOKEN
    text = toy_model.get_input_embeddings()(batch.input_ids)
    assert torch.equal(embedded[~placeholders], text[~placeholders])
    # One image after the other through the model's own parts: base tile, then cells; no mask at these sizes but GRID's.
    start, expected = 0, []
    for layout in batch.image_layouts:
        count = 1 + int(layout[0] * layout[1])
        tiles = batch.pixel_values[start : start + count]
        expected.append(toy_model.vision_tokens(tiles, layout[None]).flatten(0, 1))
        start += count
    torch.testing.assert_close(embedded[placeholders], torch.cat(expected), rtol=0, atol=1e-6)
    assert int(placeholders.sum()) == (5 + 1 + 3) * LATENTS


def test_padding_of_an_image_is_masked(toy_model):
    """What the features say of the black bars must not matter, and what they say of the image must."""
    layout = torch.tensor([[2, 1, 28, 28]])  # 4 x 2 patches for a square: one row of patches is bar on either side
    tiles = torch.randn(3, 3, 28, 28)
    features = toy_model.encode(tiles)
    changed = features.clone()
    changed[1, :2] = torch.randn(2, 24)  # upper row of the upper tile
    changed[2, 2:] = torch.randn(2, 24)  # lower row of the lower tile
    toy_model.encode = lambda _tiles: features
    before = toy_model.vision_tokens(tiles, layout)
    toy_model.encode = lambda _tiles: changed
    torch.testing.assert_close(toy_model.vision_tokens(tiles, layout), before, rtol=0, atol=1e-6)
    changed[1, 2] = torch.randn(24)
    assert not torch.allclose(toy_model.vision_tokens(tiles, layout), before)


def test_strips_and_tiles_are_two_models():
    """They agree where the grid is one tile wide, and only there."""
    tiles, strips = make_toy_model(), make_toy_model(regroup="strips")
    pixels = torch.randn(3, 3, 28, 28)
    tall, wide = torch.tensor([[2, 1, 60, 30]]), torch.tensor([[1, 2, 30, 60]])
    assert torch.equal(tiles.vision_tokens(pixels, tall), strips.vision_tokens(pixels, tall))
    one, other = tiles.vision_tokens(pixels, wide), strips.vision_tokens(pixels, wide)
    assert torch.equal(one[0], other[0])  # the base tile
    assert not torch.allclose(one[1:], other[1:])


@pytest.mark.parametrize("regroup", ["tiles", "strips"])
@pytest.mark.parametrize("family", ["phi3", "llama", "gpt2"])
def test_logps_at_supervised_positions_are_those_of_all_logits(family, regroup):
    model = make_toy_model(family, regroup=regroup)
    batch = make_batch(MIXED)
    full = model(**batch.inputs()).logits.log_softmax(-1)
    output = model(**batch.inputs(), targets=batch.labels[None])
    supervised = (batch.labels != IGNORE_INDEX).nonzero().flatten()
    expected = full[0, supervised, batch.labels[supervised]]
    torch.testing.assert_close(output.logps, expected, rtol=0, atol=1e-5)
    assert output.logps.dtype == torch.float32
    assert output.loss.item() == pytest.approx(-expected.mean().item(), abs=1e-5)
    assert output.logits is None


def test_the_head_is_computed_at_supervised_positions_only(toy_model, monkeypatch):
    batch = make_batch(MIXED)
    seen = []
    inner = nn.functional.linear

    def spy(inputs, weight, *others):
        if len(weight) == 288:
            seen.append(tuple(inputs.shape[:-1]))
        return inner(inputs, weight, *others)

    monkeypatch.setattr(nn.functional, "linear", spy)
    for reduction in ("mean", "sum"):
        toy_model(**batch.inputs(), targets=batch.labels[None], reduction=reduction)
    assert seen == [(int((batch.labels != IGNORE_INDEX).sum()),)] * 2


def test_the_sum_and_the_mean_are_one_loss(toy_model):
    batch = make_batch(MIXED)
    mean = toy_model(**batch.inputs(), targets=batch.labels[None])
    mean.loss.backward()
    expected = {name: p.grad * len(mean.logps) for name, p in toy_model.named_parameters() if p.grad is not None}
    toy_model.zero_grad()
    total = toy_model(**batch.inputs(), targets=batch.labels[None], reduction="sum")
    total.loss.backward()
    assert total.loss.item() == pytest.approx(mean.loss.item() * len(mean.logps), rel=1e-6)
    torch.testing.assert_close(total.logps, mean.logps, rtol=1e-5, atol=1e-5)
    assert not total.logps.requires_grad
    for name, gradient in expected.items():
        torch.testing.assert_close(toy_model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_do_not_depend_on_each_other(toy_model, side):
    """A mixed batch in the way of Hugging Face gives each row what it gets alone, without padding."""
    examples = make_examples(MIXED)
    logits = toy_model(**vars(collate(examples, pad_id=256, side=side))).logits
    for row, example in zip(logits, examples, strict=True):
        length = len(example.input_ids)
        own = row[:length] if side == "right" else row[-length:]
        torch.testing.assert_close(own, toy_model(**alone(example)).logits[0], rtol=0, atol=1e-5)


def test_the_image_matters(toy_model):
    batch = make_batch([[ONE]])
    other = dataclasses.replace(batch, pixel_values=-batch.pixel_values)
    difference = toy_model(**batch.inputs()).logits - toy_model(**other.inputs()).logits
    assert difference[0, :2].abs().max() == 0  # tokens before the image have not seen it
    assert difference[0, -1].abs().max() > 1e-3


def test_mismatch_of_placeholders_and_tiles(toy_model):
    inputs = alone(make_examples([[ONE]])[0])
    with pytest.raises(ValueError, match=r"3 image placeholders for 15 vision tokens: the processor must"):
        toy_model(**{**inputs, "pixel_values": torch.zeros(5, 3, 28, 28), "image_layouts": torch.tensor([GRID])})
    with pytest.raises(ValueError, match="3 image placeholders for 0 vision tokens"):
        toy_model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="0 image placeholders for 3 vision tokens"):
        toy_model(**{**inputs, "input_ids": inputs["input_ids"].clamp(max=255)})


def test_forward_takes_ids_or_embeddings(toy_model):
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        toy_model()


def test_nothing_supervised_gives_zero_and_no_nan(toy_model):
    batch = make_batch([[ONE]])
    output = toy_model(**batch.inputs(), targets=torch.full_like(batch.labels[None], IGNORE_INDEX))
    assert output.loss.item() == 0
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in toy_model.parameters())


# ---------------------------------------------------------------------- what trains


@pytest.mark.parametrize("vision", [False, True, "lora"])
@pytest.mark.parametrize("resampler", [False, True, "lora"])
@pytest.mark.parametrize("language", [False, True, "lora"])
def test_gradients_reach_what_trains_and_nothing_else(toy_model, vision, resampler, language):
    if not (vision or resampler or language):
        return
    toy_model.set_trainable(vision=vision, resampler=resampler, language=language, lora=LoraConfig(rank=2))
    batch = make_batch(MIXED)
    toy_model(**batch.inputs(), targets=batch.labels[None]).loss.backward()
    with_gradient = {name for name, p in toy_model.named_parameters() if p.grad is not None}
    trains = {"vision_encoder": vision, "vision_tokenizer": resampler, "language_model": language}
    expected = set()
    for name, _ in toy_model.named_parameters():
        part = trains[name.split(".")[0]]
        unused = name.startswith("vision_encoder.head")
        if part and not unused and (part is True or ".lora_" in name):
            expected.add(name)
    assert with_gradient == expected
    assert {name for name, p in toy_model.named_parameters() if p.requires_grad} == expected


def test_table_of_what_trains(toy_model, caplog):
    counts = count_parameters(toy_model.config)
    with caplog.at_level("INFO", logger="xgenmm"):
        table = toy_model.set_trainable(vision=False, resampler=True, language="lora", lora=LoraConfig(rank=2))
    # Rank 2 on four layers per block of Phi-3: 2 * (in + out) each; widths 32 -> 96, 32 -> 32, 32 -> 112, 56 -> 32.
    adapters = 2 * 2 * ((32 + 96) + (32 + 32) + (32 + 112) + (56 + 32))
    assert table == {
        "vision": PartCount(trainable=0, frozen=counts["vision"]),
        "resampler": PartCount(trainable=counts["resampler"], frozen=0),
        "language": PartCount(trainable=adapters, frozen=counts["language"]),
    }
    assert f"{counts['resampler']:,} trainable" in caplog.text
    assert f"{counts['vision']:,} frozen" in caplog.text


def test_what_trains_can_be_said_again(toy_model):
    toy_model.set_trainable(vision=False, resampler=False, language="lora", lora=LoraConfig(rank=2))
    again = toy_model.set_trainable(vision=False, resampler=True, language="lora", lora=LoraConfig(rank=2))
    assert again["resampler"].trainable > 0
    assert again["language"].trainable == 2 * 2 * ((32 + 96) + (32 + 32) + (32 + 112) + (56 + 32))
    with pytest.raises(ValueError, match="save and load it before training all of it"):
        toy_model.set_trainable(vision=False, resampler=True, language=True)


def test_a_frozen_encoder_stays_in_evaluation_mode(toy_model):
    toy_model.set_trainable(vision=False, resampler=True, language=True)
    toy_model.train()
    assert not toy_model.vision_encoder.training
    assert toy_model.language_model.training
    toy_model.set_trainable(vision=True, resampler=True, language=True)
    assert toy_model.vision_encoder.training


def test_frozen_parts_in_the_compute_type(toy_model):
    batch = make_batch(MIXED)
    toy_model.set_trainable(vision=False, resampler=True, language="lora", lora=LoraConfig(rank=2))
    before = toy_model(**batch.inputs(), targets=batch.labels[None]).loss.item()
    toy_model.to_compute_dtype(torch.bfloat16)
    types = {name: (p.requires_grad, p.dtype) for name, p in toy_model.named_parameters()}
    assert set(types.values()) == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        output = toy_model(**batch.inputs(), targets=batch.labels[None])
    assert output.logps.dtype == torch.float32
    assert output.loss.item() == pytest.approx(before, rel=0.03)
    output.loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in toy_model.parameters() if p.grad is not None)


# ---------------------------------------------------------------------- the reference of preference objectives


MODES = [
    ("lora", False),
    ("lora", True),
    (True, True),
    (False, True),
    ("lora", "lora"),
    (False, "lora"),
    (True, "lora"),
]


def reference_case(language: bool | str, resampler: bool | str, vision: bool | str = False, family: str = "phi3"):
    model = make_toy_model(family)
    model.set_trainable(vision=vision, resampler=resampler, language=language, lora=LoraConfig(rank=2))
    batch = make_batch(MIXED)
    inputs = {**batch.inputs(), "targets": batch.labels[None]}
    before = model(**inputs).logps.detach()
    reference = model.frozen_reference()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    return model, reference, inputs, before


@pytest.mark.parametrize("vision", [False, True, "lora"])
@pytest.mark.parametrize(("language", "resampler"), MODES)
def test_the_reference_is_the_model_as_it_was(language, resampler, vision):
    model, reference, inputs, before = reference_case(language, resampler, vision)
    with torch.no_grad():
        torch.testing.assert_close(reference(**inputs).logps, before, rtol=0, atol=1e-6)
        assert (model(**inputs).logps - before).abs().max() > 1e-3


def test_the_reference_knows_no_dropout():
    """GPT-2's dropout is part of training; the model as it was is asked without."""
    model, reference, inputs, before = reference_case("lora", resampler=False, family="gpt2")
    model.train()
    with torch.no_grad():
        torch.testing.assert_close(reference(**inputs).logps, before, rtol=0, atol=1e-6)
    assert model.training


def test_the_reference_keeps_adapters_that_were_there_before():
    """Trained once and asked for again without merging: what they have learnt belongs to the reference."""
    model, _, inputs, _ = reference_case("lora", resampler=False)
    now = model(**inputs).logps.detach()
    reference = model.frozen_reference()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
        torch.testing.assert_close(reference(**inputs).logps, now, rtol=0, atol=1e-6)


def test_the_reference_costs_nothing_with_lora_and_only_what_trains_otherwise():
    for vision, resampler in ((False, False), ("lora", "lora")):
        model, reference, _, _ = reference_case("lora", resampler, vision)
        assert reference.func.__self__ is model
    model, reference, _, _ = reference_case(False, resampler=True)
    shared = {id(p) for p in model.parameters()}
    copied = [name for name, p in reference.named_parameters() if id(p) not in shared]
    assert copied
    assert all(name.startswith("vision_tokenizer") for name in copied)


# ---------------------------------------------------------------------- Hugging Face's generate


def test_generate_equals_repeated_forward(toy_model):
    inputs = alone(make_examples([[ONE]], length=12)[0])
    generated = toy_model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=256)
    ids = inputs["input_ids"]
    for _ in range(6):
        step = {**inputs, "input_ids": ids}
        ids = torch.cat([ids, toy_model(**step).logits[:, -1:].argmax(-1)], dim=1)
    assert generated.tolist() == ids.tolist()


def test_configuration_round_trip():
    config = toy_config(regroup="strips")
    again = XGenMMConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.resampler_config == config.resampler_config
    assert isinstance(again.text_config, Phi3Config)
    with pytest.raises(ValueError, match="no vision encoder for model type 'vit'"):
        XGenMMConfig(vision_config={"model_type": "vit"})
