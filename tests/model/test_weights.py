"""Folders of weights: what goes out comes in again in every mode of training, and nothing is ever half written."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import (
    VOCABULARY,
    make_batch,
    make_processor,
    toy_text_config,
    toy_vision_config,
    write_backbones,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    Gemma2Config,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionModel,
)

from xgenmm.model import weights
from xgenmm.model.lora import LoraConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import ModelConfig, WeightsError, assemble, load, save

FAMILIES = pytest.mark.parametrize(("family", "prompt"), [("phi3", "phi3"), ("llama", "chatml")])


def build(tmp_path, family="phi3", prompt="phi3"):
    torch.manual_seed(0)
    processor = make_processor(prompt)
    model = assemble(write_backbones(tmp_path, family, prompt), processor).eval()
    return model, processor


def inputs_for(processor):
    batch = make_batch([[(1, 2, 30, 40)], [], [(0, 0, 9, 9)]])
    inputs = batch.inputs()
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == 280, processor.image_token_id)
    return inputs


MODES = {
    "full": (True, True, True),
    "frozen": (False, True, False),
    "lora": (False, True, "lora"),
    "lora in bfloat16": (False, True, "lora"),
    "lora on the resampler": (False, "lora", False),
    "lora on the encoder": ("lora", True, False),
    "lora everywhere": ("lora", "lora", "lora"),
    "lora beside full training": ("lora", True, True),
}
"""What of vision encoder, resampler and language model trains."""


def train_a_little(model, mode):
    """Move everything that the mode trains."""
    vision, resampler, language = MODES[mode]
    model.set_trainable(vision=vision, resampler=resampler, language=language, lora=LoraConfig(rank=2))
    if mode == "lora in bfloat16":
        model.to_compute_dtype(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


@FAMILIES
@pytest.mark.parametrize("mode", [mode for mode in MODES if "bfloat16" not in mode])
def test_round_trip_in_every_mode_of_training(tmp_path, family, prompt, mode):
    model, processor = build(tmp_path, family, prompt)
    inputs = inputs_for(processor)
    fresh = model(**inputs).logits
    train_a_little(model, mode)
    save(model, processor, tmp_path / "weights")
    expected = model(**inputs).logits
    assert (expected - fresh).abs().max() > 1e-3

    again, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "weights", output_loading_info=True)
    assert isinstance(again, XGenMMForConditionalGeneration)
    assert report["missing_keys"] == report["unexpected_keys"] == set()
    assert not report["mismatched_keys"]
    if "lora" in mode:  # W x + B A x against (W + B A) x
        torch.testing.assert_close(again(**inputs).logits, expected, rtol=0, atol=2e-5)
    else:
        assert torch.equal(again(**inputs).logits, expected)
    assert not any("lora" in name for name in again.state_dict())
    assert torch.equal(load(tmp_path / "weights")(**inputs).logits, again(**inputs).logits)
    assert torch.equal(model(**inputs).logits, expected)  # saving has not changed the model


@FAMILIES
def test_saved_twice_is_saved_the_same(tmp_path, family, prompt):
    model, processor = build(tmp_path, family, prompt)
    save(model, processor, tmp_path / "first")
    first = (tmp_path / "first" / "model.safetensors").read_bytes()
    for _ in range(5):  # an order that is drawn may be the same twice
        save(load(tmp_path / "first"), processor, tmp_path / "again")
        assert (tmp_path / "again" / "model.safetensors").read_bytes() == first


def test_plain_save_pretrained_is_read_too(tmp_path):
    model, processor = build(tmp_path)
    model.save_pretrained(tmp_path / "plain")
    inputs = inputs_for(processor)
    assert torch.equal(load(tmp_path / "plain")(**inputs).logits, model(**inputs).logits)


def test_mixed_types_are_read_in_the_widest(tmp_path):
    """Frozen parts in bfloat16, adapters and resampler in float32: nothing that was trained is rounded."""
    model, processor = build(tmp_path)
    train_a_little(model, "lora in bfloat16")
    save(model, processor, tmp_path / "weights")
    again = load(tmp_path / "weights", dtype="auto")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for name, parameter in model.vision_tokenizer.named_parameters():
        assert torch.equal(again.vision_tokenizer.get_parameter(name), parameter)
    inputs = inputs_for(processor)
    torch.testing.assert_close(again(**inputs).logits, model.float()(**inputs).logits, rtol=0, atol=1e-5)
    assert {p.dtype for p in load(tmp_path / "weights", dtype="bfloat16").parameters()} == {torch.bfloat16}


def test_the_folder_is_whole(tmp_path):
    model, processor = build(tmp_path)
    save(model, processor, tmp_path / "weights", card="# A model\n")
    assert {path.name for path in (tmp_path / "weights").iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "README.md",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["language", "vision", "weights"]
    generation = json.loads((tmp_path / "weights" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(processor.stop_token_ids)
    assert generation["pad_token_id"] == processor.pad_token_id
    again = AutoProcessor.from_pretrained(tmp_path / "weights")
    assert again.config == processor.config
    assert again.image_token_id == model.config.image_token_id


# ---------------------------------------------------------------------- assembling


def test_assembled_of_the_backbones_weights(tmp_path):
    model, processor = build(tmp_path)
    vision = SiglipVisionModel.from_pretrained(tmp_path / "vision")
    tiles = torch.randn(2, 3, 28, 28)
    assert torch.equal(model.encode(tiles), vision.eval()(pixel_values=tiles).last_hidden_state)
    language = AutoModelForCausalLM.from_pretrained(tmp_path / "language").eval()
    ids = torch.arange(12)[None]
    vocabulary = len(processor.tokenizer) - 4  # the four tokens that were added have new rows
    assert torch.equal(model(input_ids=ids).logits[..., :vocabulary], language(ids).logits[..., :vocabulary])
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")
    assert model.config.text_config.vocab_size == VOCABULARY  # spare rows were enough
    before, after = language.get_input_embeddings().weight, model.get_input_embeddings().weight
    changed = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert changed == list(range(vocabulary, len(processor.tokenizer)))  # of these four, and of no other


def test_vision_tokens_start_as_large_as_text(tmp_path):
    model, _ = build(tmp_path)
    text = model.get_input_embeddings().weight.std().item()
    vision = model.vision_tokens(torch.randn(20, 3, 28, 28)).std().item()
    assert vision == pytest.approx(text, rel=0.2)


def test_assembling_is_repeatable(tmp_path):
    config, processor = write_backbones(tmp_path), make_processor()
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(assemble(config, processor).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_attention_is_the_recipes(tmp_path):
    config = write_backbones(tmp_path)
    eager = ModelConfig(vision=config.vision, language=config.language, resampler=config.resampler, attention="eager")
    model = assemble(eager, make_processor())
    assert model.language_model.config._attn_implementation == "eager"
    save(model, make_processor(), tmp_path / "weights")
    for attention in ("eager", "sdpa"):
        assert load(tmp_path / "weights", attention=attention).language_model.config._attn_implementation == attention


def test_the_tower_of_a_whole_siglip_or_clip(tmp_path):
    config = write_backbones(tmp_path)
    text = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 28, "patch_size": 14}
    wholes = {
        "siglip": SiglipModel(SiglipConfig(text_config=SiglipTextConfig(**text), vision_config=toy_vision_config())),
        "clip": CLIPModel(CLIPConfig(text_config=text, vision_config=vision)),
    }
    for name, whole in wholes.items():
        whole.save_pretrained(tmp_path / name)
        settings = ModelConfig(vision=str(tmp_path / name), language=config.language, resampler=config.resampler)
        model = assemble(settings, make_processor())
        for key, value in whole.vision_model.state_dict().items():
            assert torch.equal(model.vision_encoder.state_dict()[key], value)


def test_model_and_processor_must_agree(tmp_path):
    config = write_backbones(tmp_path)
    latents = ModelConfig(vision=config.vision, language=config.language, resampler=ResamplerConfig(latents=7, depth=1))
    with pytest.raises(ValueError, match=r"makes 7 tokens of a tile and the processor writes 3 placeholders"):
        assemble(latents, make_processor())
    smaller = toy_vision_config()
    smaller.image_size = 14
    SiglipVisionModel(smaller).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match=r"takes tiles of 14 pixels and the processor makes tiles of 28"):
        assemble(config, make_processor())


def test_a_backbone_that_lacks_weights(tmp_path):
    config = write_backbones(tmp_path)
    file = tmp_path / "language" / "model.safetensors"
    state = load_file(file)
    del state["model.norm.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"language lacks 1 weights of Phi3ForCausalLM: model.norm.weight"):
        assemble(config, make_processor())


# ---------------------------------------------------------------------- mistakes and accidents


def test_wrong_folders_are_named(tmp_path):
    model, processor = build(tmp_path)
    save(model, processor, tmp_path / "run" / "weights")
    for folder, message in [
        (tmp_path / "nowhere", "there is no such folder"),
        (tmp_path / "run", r"it holds no config.json; did you mean .*run/weights\?"),
        (tmp_path / "language", "holds a model of type 'phi3', not 'xgenmm'"),
    ]:
        with pytest.raises(WeightsError, match=message):
            load(folder)
    (tmp_path / "run" / "weights" / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"its config.json cannot be read"):
        load(tmp_path / "run" / "weights")


def test_missing_left_over_and_damaged_weights(tmp_path):
    model, processor = build(tmp_path)
    save(model, processor, tmp_path / "weights")
    file = tmp_path / "weights" / "model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if k != "vision_tokenizer.latents"}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 weights of .*: vision_tokenizer.latents"):
        load(tmp_path / "weights")
    save_file({**state, "vision_tokenizer.extra": torch.zeros(1)}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"has left over 1 weights of .*: vision_tokenizer.extra"):
        load(tmp_path / "weights")
    os.truncate(file, 1000)
    with pytest.raises(WeightsError, match="are damaged"):
        load(tmp_path / "weights")


@pytest.mark.parametrize("moment", ["model", "processor"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, moment):
    model, processor = build(tmp_path)
    save(model, processor, tmp_path / "weights", card="the old one")

    def disk_full(*_args, **_options):
        raise OSError(28, "No space left on device")

    if moment == "model":
        monkeypatch.setattr(weights, "save_torch_state_dict", disk_full)
    else:
        monkeypatch.setattr(processor, "save_pretrained", disk_full)
    with pytest.raises(
        OSError, match=r"could not write the weights to .*No space left.*what was there before is untouched"
    ):
        save(model, processor, tmp_path / "weights", card="the new one")
    assert (tmp_path / "weights" / "README.md").read_text() == "the old one"
    load(tmp_path / "weights")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["language", "vision", "weights"]


def test_a_save_that_was_killed_does_not_stand_in_the_way(tmp_path):
    model, processor = build(tmp_path)
    shutil.copytree(tmp_path / "vision", tmp_path / "weights.partial")
    save(model, processor, tmp_path / "weights")
    save(model, processor, tmp_path / "weights")
    assert not (tmp_path / "weights.partial").exists()
    assert not (tmp_path / "weights" / "preprocessor_config.json").exists()


def test_toy_text_configs_are_what_they_say():
    assert toy_text_config("llama").tie_word_embeddings
    assert not toy_text_config("phi3").tie_word_embeddings


def test_a_family_without_sdpa_is_read_and_written_by_default(tmp_path):
    """Gemma 2 has none, and transformers chooses eager attention for it."""
    config = write_backbones(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCABULARY, "query_pre_attn_scalar": 8}
    ends = {"bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256}
    AutoModelForCausalLM.from_config(Gemma2Config(**sizes, **more, **ends)).save_pretrained(config.language)
    model = assemble(config, make_processor())
    save(model, make_processor(), tmp_path / "weights")
    assert load(tmp_path / "weights").language_model.config._attn_implementation == "eager"
