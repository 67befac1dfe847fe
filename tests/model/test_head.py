"""The head and its loss in chunks: what the family's own logits give, and its gradients, without ever holding them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toy import toy_text_config
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from xgenmm.model import head
from xgenmm.model.head import Portions, head_of, summed_nll, target_logps
from xgenmm.model.lora import LoraConfig, add_lora

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
    "llama": toy_text_config("llama"),  # ties its tables
    "phi": PhiConfig(**SIZES),  # its head has a bias
    "gemma2": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5),
    "cohere": CohereConfig(**SIZES, logit_scale=0.3),
    "granite": GraniteConfig(**SIZES, logits_scaling=7.0),
}
IDS = torch.arange(1, 12)[None]
TARGETS = torch.arange(20, 31)


def build(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def of_all_logits(model: PreTrainedModel) -> Tensor:
    """Log-probabilities from the family's own forward pass."""
    return model(input_ids=IDS).logits[0].float().log_softmax(-1).gather(1, TARGETS[:, None])[:, 0]


def hidden_of(model: PreTrainedModel) -> Tensor:
    return model.base_model(input_ids=IDS).last_hidden_state[0]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("chunk", [4_000_000, 300])  # all in one; three positions each
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_are_those_of_all_logits(family: str, chunk: int, monkeypatch):
    monkeypatch.setattr(head, "ON_A_CPU", Portions(logits=chunk, in_float32=chunk // 2, weights=chunk))
    model = build(FAMILIES[family])
    weights = torch.linspace(-1, 2, len(TARGETS))
    expected = of_all_logits(model)
    of_weighted, of_sum = gradients(model, (expected * weights).sum()), gradients(model, -of_all_logits(model).sum())

    logps = target_logps(model, hidden_of(model), TARGETS)
    torch.testing.assert_close(logps, expected, rtol=0, atol=2e-6)
    assert_same(gradients(model, (logps * weights).sum()), of_weighted)

    total, values = summed_nll(model, hidden_of(model), TARGETS)
    assert total.item() == pytest.approx(-expected.sum().item(), rel=1e-6)
    torch.testing.assert_close(values, expected, rtol=0, atol=2e-6)
    assert_same(gradients(model, 0.5 * total), {name: 0.5 * value for name, value in of_sum.items()})


@pytest.mark.parametrize("summed", [False, True])
def test_a_frozen_head_passes_gradients_on(summed: bool):
    model = build(FAMILIES["phi"])
    head_of(model).requires_grad_(False)
    expected = gradients(model, -of_all_logits(model).sum())
    hidden = hidden_of(model)
    loss = summed_nll(model, hidden, TARGETS)[0] if summed else -target_logps(model, hidden, TARGETS).sum()
    assert_same(gradients(model, loss), expected)
    assert not any(name.startswith("lm_head") for name in expected)


def test_a_head_that_carries_lora(monkeypatch):
    monkeypatch.setattr(head, "ON_A_CPU", replace(head.ON_A_CPU, logits=900))  # three positions of 288 logits
    model = build(FAMILIES["phi3"])
    add_lora(model, LoraConfig(rank=2))
    assert type(model.lm_head) is not nn.Linear
    expected = gradients(model, of_all_logits(model).sum())
    assert "lm_head.lora_B.default.weight" in expected
    assert_same(gradients(model, target_logps(model, hidden_of(model), TARGETS).sum()), expected)
    assert_same(gradients(model, -summed_nll(model, hidden_of(model), TARGETS)[0]), expected)


def test_bfloat16_under_autocast_is_rounded_and_nothing_worse():
    model = build(FAMILIES["phi3"])
    expected = gradients(model, -of_all_logits(model).sum())
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = summed_nll(model, hidden_of(model).detach(), TARGETS)
        logps = target_logps(model, hidden_of(model).detach(), TARGETS)
    assert logps.dtype == torch.float32
    assert total.item() == pytest.approx(-logps.sum().item(), rel=1e-5)
    for loss in (total, -logps.sum()):
        found = gradients(model, loss)["lm_head.weight"]
        assert found.dtype == torch.float32
        difference = (found - expected["lm_head.weight"]).norm() / expected["lm_head.weight"].norm()
        assert difference < 0.02


def test_a_sum_is_differentiated_once():
    model = build(FAMILIES["phi3"])
    total, _ = summed_nll(model, hidden_of(model).detach(), TARGETS)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        total.backward()


@pytest.mark.parametrize("frozen", [False, True])
def test_each_tokens_loss_has_a_gradient_of_its_own(frozen: bool):
    """One forward pass, one backward pass for every token: each is that of the family's own logits."""
    model = build(FAMILIES["phi"])
    head_of(model).requires_grad_(not frozen)
    logps, expected = target_logps(model, hidden_of(model), TARGETS), of_all_logits(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for number in (0, 5, 0):  # the first one again: nothing is left of what was done before
        found = torch.autograd.grad(logps[number], parameters, retain_graph=True)
        wanted = torch.autograd.grad(expected[number], parameters, retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_no_targets():
    model = build(FAMILIES["phi3"])
    nothing, none = torch.zeros(0, 32), torch.zeros(0, dtype=torch.long)
    assert target_logps(model, nothing, none).shape == (0,)
    total, values = summed_nll(model, nothing, none)
    total.backward()
    assert (total.item(), values.shape) == (0, (0,))
