"""New token rows, logits and log-probabilities of any causal language model."""

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
from xgenmm.model.language import add_token_rows, target_logps

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
