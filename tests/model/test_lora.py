"""LoRA on any part: it starts as nothing, can be taken away, and is merged on the way out."""

import pytest
import torch
from toy import make_toy_model, toy_text_config, toy_vision_config
from transformers import AutoModelForCausalLM, PreTrainedModel, SiglipVisionModel

from xgenmm.config import ConfigError, decode
from xgenmm.model.lora import LoraConfig, add_lora, does_nothing, lora_layers, lora_off, merged_state


def build() -> PreTrainedModel:
    """A Llama, whose head is tied to its embeddings."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(toy_text_config("llama")).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def adapted() -> PreTrainedModel:
    model = build()
    add_lora(model, LoraConfig(rank=3, alpha=6), [model.get_output_embeddings()])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


IDS = torch.arange(10).reshape(1, 10)


def test_lora_starts_as_the_model_and_sits_on_all_linear_layers_but_the_head():
    model = build()
    before = model(IDS).logits
    add_lora(model, LoraConfig(rank=3, alpha=6), [model.get_output_embeddings()])
    assert torch.equal(model(IDS).logits, before)
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-1] for name in lora_layers(model)} == linear
    assert len(lora_layers(model)) == 2 * 7


def test_lora_off_is_the_model_before_and_on_again_afterwards(adapted):
    original = build()(IDS).logits
    trained = adapted(IDS).logits
    with lora_off(lora_layers(adapted).values()):
        assert torch.equal(adapted(IDS).logits, original)
    assert torch.equal(adapted(IDS).logits, trained)
    assert not torch.allclose(trained, original)
    assert all(p.requires_grad == ("lora_" in name) for name, p in adapted.named_parameters())


def test_lora_is_on_again_after_an_error(adapted):
    trained = adapted(IDS).logits
    with pytest.raises(KeyError), lora_off(lora_layers(adapted).values()):
        raise KeyError
    assert torch.equal(adapted(IDS).logits, trained)


def test_merged_state_is_a_plain_models(adapted):
    merged = build()
    names = set(merged.state_dict())
    state = merged_state(adapted)
    assert set(state) == names
    merged.load_state_dict(state)
    torch.testing.assert_close(merged(IDS).logits, adapted(IDS).logits, rtol=0, atol=1e-5)
    assert any("lora_" in name for name in adapted.state_dict())  # and the model itself goes on


def test_merging_into_bfloat16_keeps_small_changes(adapted):
    """A change of 2^-12 of a weight is lost in bfloat16, which has 8 bits of precision."""
    name = "model.layers.0.mlp.up_proj"
    layer = lora_layers(adapted)[name]
    with torch.no_grad():
        layer.base_layer.weight.fill_(1.0)
        layer.lora_A["default"].weight.fill_(2.0**-12 / 6)  # rank 3, scaled by 6 / 3
        layer.lora_B["default"].weight.fill_(1.0)
    layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16()
    torch.testing.assert_close(merged_state(adapted)[f"{name}.weight"], torch.full((56, 32), 1 + 2.0**-12))
    # and a weight that was rounded to bfloat16 is merged as it was before
    original = {f"{name}.base_layer.weight": torch.full((56, 32), 1 + 2.0**-13)}
    torch.testing.assert_close(
        merged_state(adapted, original)[f"{name}.weight"],
        torch.full((56, 32), 1 + 2.0**-13 + 2.0**-12),
        rtol=1e-8,
        atol=0,
    )


@pytest.mark.parametrize("family", ["phi3", "llama", "gpt2"])
@pytest.mark.parametrize("part", ["vision_encoder", "vision_tokenizer", "language_model"])
def test_every_linear_layer_of_a_part_and_of_no_other(family, part):
    """By shape: what is a matrix and neither an embedding, the latents, the head nor unused, is a linear layer."""
    model = make_toy_model(family)
    names = {"vision_encoder": "vision", "vision_tokenizer": "resampler", "language_model": "language"}
    modes = {names[name]: "lora" if name == part else False for name in names}
    model.set_trainable(**modes, lora=LoraConfig(rank=2))
    others = ("embed", "wte", "wpe", "latents", "lm_head", "vision_encoder.head")
    linear = {
        name.removesuffix(".weight")
        for name, value in make_toy_model(family).state_dict().items()
        if value.ndim == 2 and name.startswith(part) and not any(other in name for other in others)
    }
    assert set(lora_layers(model)) == linear
    assert all(p.requires_grad == (".lora_" in name) for name, p in model.named_parameters())


def test_an_adapter_does_nothing_until_its_second_half_moves(adapted):
    assert not any(does_nothing(layer) for layer in lora_layers(adapted).values())
    model = build()
    add_lora(model, LoraConfig(rank=3), [model.get_output_embeddings()])
    assert all(does_nothing(layer) for layer in lora_layers(model).values())


def test_a_part_without_linear_layers_says_so():
    convolutions = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(ConfigError, match="Sequential has no linear layer that could carry LoRA"):
        add_lora(convolutions, LoraConfig())


def test_spared_modules_get_none():
    encoder = SiglipVisionModel(toy_vision_config())
    add_lora(encoder, LoraConfig(rank=2), [encoder.head])
    assert lora_layers(encoder)
    assert not any(name.startswith("head") for name in lora_layers(encoder))


@pytest.mark.parametrize(("name", "number"), [("rank", 0), ("alpha", 0), ("dropout", 2), ("dropout", -0.1)])
def test_sizes_of_no_adapter_are_refused(name, number):
    with pytest.raises(ConfigError, match=rf"lora.{name}: must be at least"):
        decode(LoraConfig, {name: number}, "lora")
