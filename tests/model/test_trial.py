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


FAMILIES = {
    "mistral": {"sliding_window": 4},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "olmo2": {},
    "granite": {"logits_scaling": 2.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "cohere": {"logit_scale": 0.3},
    "glm": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4},
    "deepseek_v3": {
        **{"head_dim": 4, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4},
        **{"qk_nope_head_dim": 8, "v_head_dim": 6, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1},
        **{"topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 16},
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_can_be_packed(family: str):
    model = build(family, **{"num_key_value_heads": 2, **FAMILIES[family]})
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.ndim == 2:  # as drawn, a toy hardly looks at anything
                parameter.mul_(5)
    try_packed_row(model)


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
