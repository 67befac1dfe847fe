"""Layers in fewer passes give what transformers' own give, gradients included; what is no such layer is left alone."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from xgenmm.model import lean
from xgenmm.model.lean import gelu_linear, use_lean_layers
from xgenmm.model.lora import LoraConfig, add_lora, lora_layers, lora_off

SIZES = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"vocab_size": 288, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_key_value_heads": 2}
IDS = torch.arange(80).reshape(2, 40) * 7 % 288


def build(family, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**SIZES, **SPECIAL, **settings})
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


def replaced(model):
    return [type(module).__name__ for module in model.modules() if "forward" in vars(module)]


def results(model, ids=IDS):
    model.zero_grad()
    output = model(input_ids=ids).logits
    (output.float() * torch.linspace(-1, 1, output.shape[-1])).sum().backward()
    return output.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# Of each block attention, two norms and the feed-forward layer, Qwen 3's two norms of heads as well, and the last norm.
FAMILIES = {"llama": 9, "phi3": 9, "qwen2": 9, "qwen3": 13, "mistral": 9, "gemma2": 2, "gpt2": 0}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("portion", [65_536, 100])  # all rows at once; three rows of 32 numbers
def test_they_compute_what_the_family_computes(family, portion, monkeypatch):
    monkeypatch.setattr(lean, "NUMBERS_AT_ONCE", portion)
    model = build(family, **({"head_dim": 8} if family in ("qwen3", "gemma2") else {}))
    (output, gradients), before = results(model), torch.random.get_rng_state()
    use_lean_layers(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(replaced(model)) == FAMILIES[family]
    found, found_gradients = results(model)
    assert (found - output).norm() <= 1e-6 * output.norm()
    for name, gradient in gradients.items():
        assert (found_gradients[name] - gradient).norm() <= 2e-6 * gradient.norm() + 1e-6, name


def test_of_a_head_a_part_may_be_turned():
    model = build("phi3", partial_rotary_factor=0.5)
    output, gradients = results(model)
    use_lean_layers(model)
    found, found_gradients = results(model)
    assert (found - output).norm() <= 1e-6 * output.norm()
    for name, gradient in gradients.items():
        assert (found_gradients[name] - gradient).norm() <= 2e-6 * gradient.norm() + 1e-6, name


def test_the_first_row_may_come_under_autocast():
    lean._with_lean_rotary.cache_clear()
    model = build("llama")
    with torch.autocast("cpu", torch.bfloat16):
        use_lean_layers(model)
    assert len(replaced(model)) == FAMILIES["llama"]


def test_other_models_of_the_family_keep_their_own_way():
    before, forward = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaAttention.forward
    use_lean_layers(build("llama"))
    assert (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaAttention.forward) == (before, forward)
    assert not replaced(build("llama"))


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_in_bfloat16_they_are_rounded_and_nothing_worse(family, weights):
    model = build(family, **({"head_dim": 8} if family == "qwen3" else {}))
    exact, exact_gradients = results(model)
    model.to(weights)
    errors = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
            found, gradients = results(model)
        pairs = [(found, exact), *((gradients[name], exact_gradients[name]) for name in gradients)]
        errors.append(torch.tensor([((one.float() - other).norm() / other.norm()).item() for one, other in pairs]))
        use_lean_layers(model)
    assert (errors[1] < 1.2 * errors[0] + 0.005).all()


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_without_gradients_they_give_the_same_numbers(family, weights, autocast, monkeypatch):
    settings = {"qwen3": {"head_dim": 8}, "phi3": {"partial_rotary_factor": 0.5}}.get(family, {})
    model = build(family, **settings).to(weights)
    use_lean_layers(model)
    given = []
    for few in (lean.FEW_NUMBERS, 0):
        monkeypatch.setattr(lean, "FEW_NUMBERS", few)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert lean._in_one_go(IDS) == (few > 0)
            output = model(input_ids=IDS, use_cache=True)
        given.append([output.logits, *(layer.keys for layer in output.past_key_values.layers)])
    for quick, careful in zip(*given, strict=True):
        assert quick.dtype == careful.dtype
        assert torch.equal(quick, careful)


@pytest.mark.parametrize("bias", [False, True])  # with one, it is left to torch
def test_gelu_and_the_layer_behind_it(bias):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 5, 24, generator=generator, dtype=torch.float64).requires_grad_()
    linear = nn.Linear(24, 7, bias=bias, dtype=torch.float64)
    results = []
    for output in (gelu_linear(inputs, linear), linear(nn.functional.gelu(inputs))):
        parameters = [inputs, *linear.parameters()]
        results.append([output, *torch.autograd.grad(output.sin().sum(), parameters)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def adapted(*, dropout=0.0, seed=0):
    """Qwen 2 has biases; its adapters do something already, and train alone."""
    model = build("qwen2")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        add_lora(model, LoraConfig(rank=3, alpha=7, dropout=dropout), [model.lm_head])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    return model.eval()


def adapter_results(model):
    output = model(input_ids=IDS).logits
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad((output.float() * torch.linspace(-1, 1, output.shape[-1])).sum(), [*named.values()])
    return {"output": output.detach(), **dict(zip(named, gradients, strict=True))}


@pytest.mark.parametrize("whole", [False, True])  # whether the layers beneath the adapters train as well
def test_adapters_give_what_peft_gives(whole, monkeypatch):
    model = adapted()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(whole or "lora_" in name)
    expected = adapter_results(model)
    use_lean_layers(model)
    layers = lora_layers(model).values()
    assert len(layers) == 14
    assert all("forward" in vars(layer) for layer in layers)
    monkeypatch.setattr(type(next(iter(layers))), "forward", None)  # peft's own is not asked
    found = adapter_results(model)
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 2e-6 * value.norm() + 1e-6, name


def test_adapters_in_bfloat16_are_rounded_and_nothing_worse():
    errors = []  # one draw of adapters says little: a single gradient may be twice as far off, either way
    for seed in range(20):
        model = adapted(seed=seed)
        exact = adapter_results(model)
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.bfloat16()
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                found = adapter_results(model)
            errors += [((found[name].float() - exact[name]).norm() / exact[name].norm()).item() for name in exact]
            use_lean_layers(model)
    theirs, ours = torch.tensor(errors).reshape(20, 2, -1).mean(0)
    assert (ours < 1.2 * theirs + 0.005).all()
    assert ours.mean() < theirs.mean()


def test_what_else_adapters_can_do_peft_does():
    model, plain = adapted(), build("qwen2")
    use_lean_layers(model)
    layers = lora_layers(model)
    with lora_off(layers.values()):
        torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    before = model(input_ids=IDS).logits
    for layer in layers.values():
        layer.merge()
    torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=1e-4, atol=1e-4)


def test_what_drops_out_is_drawn_by_peft():
    model = adapted(dropout=0.5)
    use_lean_layers(model)
    assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    model.train()
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_a_copy_has_weights_of_its_own():
    model = build("phi3")
    use_lean_layers(model)
    other, (before, _) = copy.deepcopy(model), results(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(results(other)[0], before)


def test_a_layer_that_looks_the_same_and_is_not_stays():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, inputs):
            centred = inputs - inputs.mean(-1, keepdim=True)
            return self.weight * centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.variance_epsilon)

    module = nn.Sequential(Centred())
    use_lean_layers(module)
    assert not replaced(module)


def test_less_is_kept():
    model, kept = build("phi3"), []
    for _ in range(2):
        sizes = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(input_ids=IDS)
        kept.append(sum(sizes.values()))
        use_lean_layers(model)
    # of each block and place: two normed inputs of 32 numbers beside their rounded copies, 56 values of the gate
    assert kept[1] < kept[0] - 4 * 2 * 80 * 56
