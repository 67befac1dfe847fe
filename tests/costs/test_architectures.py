"""Sizes by arithmetic, against transformers' own modules on the meta device and the counts of the paper's authors."""

import pytest
import torch
from toy import toy_text_config, toy_vision_config
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import xgenmm.model.vision  # noqa: F401  (tells AutoConfig of our own encoder)
from xgenmm.config import ConfigError
from xgenmm.costs.architectures import FAMILIES, language_shape, vision_shape
from xgenmm.costs.shapes import ResamplerShape
from xgenmm.model.resampler import PerceiverResampler, ResamplerConfig

ENCODERS = ("siglip_vision_model", "clip_vision_model", "dinov2", "dinov2_with_registers", "efficientnet_lite_grid")
# Every number differs, so that none can stand for another.
OTHER_SIZES = {
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def count(auto, config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in auto.from_config(config).parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_language_models_parameters_are_those_of_transformers(name):
    config = AutoConfig.for_model(name)
    expected = count(AutoModelForCausalLM, config)
    # What config.json holds, and what is left of it when defaults are left out.
    assert language_shape(config.to_dict()).parameters == expected
    assert language_shape({"model_type": name}).parameters == expected


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_so_they_are_with_other_sizes(name, tied):
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": tied}
    sizes = {key: value for key, value in OTHER_SIZES.items() if name != "gpt2" or "key" not in key}
    if name == "gpt2":
        sizes["n_inner"] = sizes.pop("intermediate_size")
    config = AutoConfig.for_model(name, **sizes, **special)
    assert language_shape(config.to_dict()).parameters == count(AutoModelForCausalLM, config)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoders_parameters_are_those_of_its_module(name):
    config = AutoConfig.for_model(name)
    assert vision_shape(config.to_dict()).parameters == count(AutoModel, config)
    assert vision_shape({"model_type": name}).parameters == count(AutoModel, config)
    assert vision_shape({"model_type": name}).width == config.hidden_size


def test_the_toys_are_counted_too():
    assert vision_shape(toy_vision_config().to_dict()).parameters == count(AutoModel, toy_vision_config())
    for name in ("phi3", "llama"):
        config = toy_text_config(name)
        assert language_shape(config.to_dict()).parameters == count(AutoModelForCausalLM, config)


def test_a_resamplers_parameters_are_those_of_the_module():
    config = ResamplerConfig(latents=5, depth=3, heads=2, head_dim=7, ff_mult=3)
    module = PerceiverResampler(config, 11, 13)
    shape = ResamplerShape(**vars(config), width=11, width_out=13)
    assert shape.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_an_unknown_family_names_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "qwen2"'):
        language_shape({"model_type": "qwen22"})
    with pytest.raises(ConfigError, match="siglip_vision_model"):
        vision_shape({"model_type": "siglip_vision_modal"})
