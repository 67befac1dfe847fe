"""New token rows, logits and log-probabilities of any causal language model, and LoRA."""

import pytest
import torch
from toy import VOCABULARY, toy_text_config
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from xgenmm.model import language
from xgenmm.model.language import LoraConfig, add_lora, add_token_rows, lora_off, merged_state, target_logps

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "phi3": toy_text_config("phi3"),
    "llama": toy_text_config("llama"),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5),
    "cohere": CohereConfig(**SIZES, logit_scale=0.3),
    "granite": GraniteConfig(**SIZES, logits_scaling=7.0),
}


def build(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_logps_are_those_of_the_models_own_logits(family):
    model = build(FAMILIES[family])
    ids, targets = torch.randint(1, 100, (1, 9)), torch.randint(1, 100, (9,))
    expected = model(input_ids=ids).logits[0].log_softmax(-1).gather(1, targets[:, None])[:, 0]
    hidden = model.base_model(input_ids=ids).last_hidden_state[0]
    torch.testing.assert_close(target_logps(model, hidden, targets), expected, rtol=0, atol=1e-6)


def test_chunks_change_neither_logps_nor_gradients(monkeypatch):
    model = build(toy_text_config())
    targets = torch.randint(0, 100, (10,))
    results = []
    for size in (100, 3):
        monkeypatch.setattr(language, "POSITIONS_PER_CHUNK", size)
        hidden = torch.randn(10, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
        model.zero_grad()
        logps = target_logps(model, hidden, targets)
        logps.sum().backward()
        results.append((logps, hidden.grad, model.lm_head.weight.grad))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-5)


def test_chunks_never_hold_all_logits(monkeypatch):
    monkeypatch.setattr(language, "POSITIONS_PER_CHUNK", 4)
    model = build(toy_text_config())
    seen = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    target_logps(model, torch.randn(10, 32), torch.randint(0, 100, (10,)))
    assert seen == [4, 4, 2]


def test_no_targets():
    assert target_logps(build(toy_text_config()), torch.zeros(0, 32), torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_new_rows_are_drawn_and_old_ones_kept(family):
    model = build(toy_text_config(family))
    tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    before = [table.detach().clone() for table in tables]
    # Four new tokens: two in the spare rows that the model has, two behind them.
    new = [VOCABULARY - 2, VOCABULARY - 1, VOCABULARY, VOCABULARY + 1]
    add_token_rows(model, VOCABULARY + 2, new)
    after = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert model.config.vocab_size == VOCABULARY + 2
    assert (after[0] is after[1]) == (family == "llama")
    for old, now in zip(before, after, strict=True):
        assert torch.equal(now[: VOCABULARY - 2], old[: VOCABULARY - 2])
        assert not torch.equal(now[VOCABULARY - 2 : VOCABULARY], old[VOCABULARY - 2 :])
        assert now[new].std().item() == pytest.approx(0.02, rel=0.25)  # 128 numbers, of which the rest had 0.2


def test_spare_rows_are_used_first():
    model = build(toy_text_config())
    add_token_rows(model, VOCABULARY - 5, [VOCABULARY - 6])
    assert len(model.get_input_embeddings().weight) == VOCABULARY


@pytest.fixture
def adapted() -> PreTrainedModel:
    model = build(toy_text_config("llama"))
    add_lora(model, LoraConfig(rank=3, alpha=6))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


IDS = torch.arange(10).reshape(1, 10)


def test_lora_starts_as_the_model_and_sits_on_all_linear_layers_but_the_head():
    model = build(toy_text_config("llama"))
    before = model(IDS).logits
    add_lora(model, LoraConfig(rank=3, alpha=6))
    assert torch.equal(model(IDS).logits, before)
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-1] for name in language.lora_layers(model)} == linear
    assert len(language.lora_layers(model)) == 2 * 7


def test_lora_off_is_the_model_before_and_on_again_afterwards(adapted):
    original = build(toy_text_config("llama"))(IDS).logits
    trained = adapted(IDS).logits
    with lora_off(adapted):
        assert torch.equal(adapted(IDS).logits, original)
    assert torch.equal(adapted(IDS).logits, trained)
    assert not torch.allclose(trained, original)
    assert all(p.requires_grad == ("lora_" in name) for name, p in adapted.named_parameters())


def test_lora_is_on_again_after_an_error(adapted):
    trained = adapted(IDS).logits
    with pytest.raises(KeyError), lora_off(adapted):
        raise KeyError
    assert torch.equal(adapted(IDS).logits, trained)


def test_merged_state_is_a_plain_models(adapted):
    merged = build(toy_text_config("llama"))
    names = set(merged.state_dict())
    state = merged_state(adapted)
    assert set(state) == names
    merged.load_state_dict(state)
    torch.testing.assert_close(merged(IDS).logits, adapted(IDS).logits, rtol=0, atol=1e-5)
    assert any("lora_" in name for name in adapted.state_dict())  # and the model itself goes on


def test_merging_into_bfloat16_keeps_small_changes(adapted):
    """A change of 2^-12 of a weight is lost in bfloat16, which has 8 bits of precision."""
    name = "model.layers.0.mlp.up_proj"
    layer = language.lora_layers(adapted)[name]
    with torch.no_grad():
        layer.base_layer.weight.fill_(1.0)
        layer.lora_A["default"].weight.fill_(2.0**-12 / 6)  # rank 3, scaled by 6 / 3
        layer.lora_B["default"].weight.fill_(1.0)
    layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16()
    torch.testing.assert_close(merged_state(adapted)[f"{name}.weight"], torch.full((56, 32), 1 + 2.0**-12))
