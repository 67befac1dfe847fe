"""What cannot keep documents apart is found before anything is trained on it."""

import pytest
import torch
from toy import IMAGE_TOKEN, TOY_RESAMPLER, VOCABULARY, make_toy_model, toy_vision_config
from transformers import AutoConfig

from xgenmm.model import head
from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.trial import try_packed_row
from xgenmm.model.vlm import XGenMMForConditionalGeneration

SIZES = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def build(family: str, **sizes) -> XGenMMForConditionalGeneration:
    text = AutoConfig.for_model(family, **{**SIZES, **sizes})
    torch.manual_seed(0)
    config = XGenMMConfig(
        vision_config=toy_vision_config(), text_config=text, resampler=vars(TOY_RESAMPLER), image_token_id=IMAGE_TOKEN
    )
    return XGenMMForConditionalGeneration(config).eval()


@pytest.mark.parametrize("before", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["phi3", "llama", "gpt2"])
def test_a_row_that_means_what_its_documents_mean(family: str, before: str):
    model = make_toy_model(family).eval()
    model.language_model.set_attn_implementation(before)
    try_packed_row(model)
    assert model.language_model.config._attn_implementation == f"packed_{before}"
    assert not model.training


def test_logits_that_are_made_in_another_way(toy_model, monkeypatch):
    """As in a family whose factor on logits is not known here."""
    monkeypatch.setattr(head, "shape_of", lambda _: head.Shape(scale=1.01))
    with pytest.raises(ValueError, match="does not give a document in a packed row what it gives it alone"):
        try_packed_row(toy_model)


@pytest.mark.parametrize("family", ["stablelm", "nemotron"])
def test_attention_that_is_not_told_of_documents(family: str):
    model = build(family, num_key_value_heads=2, max_position_embeddings=64)
    with pytest.raises(ValueError, match="lost the layout of a packed row on its way to attention: choose"):
        try_packed_row(model)
