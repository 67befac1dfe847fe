"""Packed rows: every document gets what it would get alone, and nothing of its neighbours."""

import copy
import dataclasses

import pytest
import torch
from toy import IMAGE_TOKEN, TOY_RESAMPLER, alone, make_examples, make_toy_model, toy_text_config, toy_vision_config
from transformers import AutoConfig

from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.branching import branch
from xgenmm.processor.packing import pack
from xgenmm.types import IGNORE_INDEX, Batch, Example

ONE, GRID, WIDE = (0, 0, 30, 30), (2, 2, 48, 64), (1, 2, 30, 40)
MIXED = [[GRID], [], [ONE, WIDE], [ONE]]
"""Documents with one image, none, two, and one."""


def logps_of(model: XGenMMForConditionalGeneration, batch: Batch) -> list[torch.Tensor]:
    """Log-probabilities of each document's targets."""
    logps = model(**batch.inputs(), targets=batch.labels[None]).logps
    documents = batch.documents[batch.labels != IGNORE_INDEX]
    return [logps[documents == document] for document in range(len(batch.ids))]


def branched_examples() -> tuple[list[Example], Example]:
    """Three examples with one beginning, and the same in branches."""
    (trunk,) = make_examples([[WIDE]], length=20)
    apart = []
    for number, words in enumerate(([7, 8, 9], [7, 8, 20, 21, 22], [7, 30])):
        ids = torch.cat([trunk.input_ids, torch.tensor(words)])
        labels = torch.full_like(ids, IGNORE_INDEX)
        labels[20:-1] = ids[21:]
        apart.append(dataclasses.replace(trunk, id=f"branch{number}", input_ids=ids, labels=labels))
    joined = branch(apart, IMAGE_TOKEN)
    assert joined is not None
    return apart, joined


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("family", ["phi3", "llama", "gpt2"])
@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_a_packed_document_is_a_document_alone(family: str, before: str, padding: int):
    model = make_toy_model(family)
    model.language_model.set_attn_implementation(before)
    examples = make_examples(MIXED)
    length = sum(len(example.input_ids) for example in examples) + padding
    packed = logps_of(model, pack(examples, pad_id=256, length=length))
    for found, example in zip(packed, examples, strict=True):
        output = model(**alone(example), targets=example.labels[None])
        torch.testing.assert_close(found, output.logps, rtol=0, atol=1e-5)


def test_a_model_does_what_it_did_before_where_no_documents_are_given():
    for before in ("sdpa", "eager"):
        model = make_toy_model()
        model.language_model.set_attn_implementation(before)
        (example,) = make_examples([[ONE]])
        expected = model(**alone(example)).logits
        generated = model.generate(**alone(example), max_new_tokens=5, do_sample=False, eos_token_id=None)
        logps_of(model, pack([example, example], pad_id=256))
        assert torch.equal(model(**alone(example)).logits, expected)
        again = model.generate(**alone(example), max_new_tokens=5, do_sample=False, eos_token_id=None)
        assert torch.equal(again, generated)


def test_the_loss_of_one_document_has_no_gradient_in_another(toy_model):
    batch = pack([*make_examples(MIXED), branched_examples()[1]], pad_id=256)
    pixels = batch.pixel_values.clone().requires_grad_()
    with torch.no_grad():
        text = toy_model.get_input_embeddings()(batch.input_ids[None])
    text.requires_grad_()
    toy_model.get_input_embeddings().register_forward_hook(lambda *_: text)
    tiles = [5, 0, 4, 1, 3]
    owner_of_tile = torch.arange(5).repeat_interleave(torch.tensor(tiles))
    for document in range(len(batch.ids)):
        # anew for each: the head's loss can be differentiated once
        loss = logps_of(toy_model, dataclasses.replace(batch, pixel_values=pixels))[document]
        gradients = torch.autograd.grad(loss.sum(), [text, pixels])
        of_text, of_pixels = (gradient.abs() for gradient in gradients)
        words = of_text[0].sum(dim=1)
        assert words[batch.documents != document].max() == 0
        assert words[batch.documents == document].max() > 0
        assert of_pixels[owner_of_tile != document].max() == 0
        if tiles[document]:
            assert of_pixels[owner_of_tile == document].flatten(1).sum(dim=1).min() > 0


def test_neighbours_words_and_pictures_do_not_move_a_bit(toy_model):
    batch = pack(make_examples(MIXED), pad_id=256)
    before = toy_model(**batch.inputs()).logits[0]
    for document, tiles in enumerate((slice(0, 5), slice(5, 5), slice(5, 9), slice(9, 10))):
        others = (batch.documents != document) & (batch.input_ids != IMAGE_TOKEN)
        pixels = -batch.pixel_values
        pixels[tiles] = batch.pixel_values[tiles]
        changed = dataclasses.replace(
            batch, input_ids=torch.where(others, 255 - batch.input_ids, batch.input_ids), pixel_values=pixels
        )
        after = toy_model(**changed.inputs()).logits[0]
        own = batch.documents == document
        assert torch.equal(after[own], before[own])
        assert not torch.equal(after[~own], before[~own])


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_branches_are_rows_of_their_own(family: str):
    model = make_toy_model(family)
    apart, joined = branched_examples()
    neighbours = make_examples(MIXED[2:])
    results = []
    for examples in ([neighbours[0], *apart, neighbours[1]], [neighbours[0], joined, neighbours[1]]):
        model.zero_grad()
        model.vision_tokenizer.projection.bias.grad = None
        logps = torch.cat(logps_of(model, pack(examples, pad_id=256)))
        logps.sum().backward()
        results.append((logps.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (expected, gradients), (found, joined_gradients) = results
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(joined_gradients[name], gradient, rtol=1e-4, atol=1e-4)


def test_layers_that_are_computed_again_keep_documents_apart(toy_model):
    """Also if a padded forward pass comes in between."""
    examples = make_examples(MIXED)
    batch = pack(examples, pad_id=256)
    torch.cat(logps_of(toy_model, batch)).sum().backward()
    expected = toy_model.language_model.model.layers[0].mlp.down_proj.weight.grad.clone()
    toy_model.zero_grad()
    toy_model.language_model.activation_checkpointing_enable()
    toy_model.train()
    loss = torch.cat(logps_of(toy_model, batch)).sum()
    toy_model(**alone(examples[0]))
    loss.backward()
    found = toy_model.language_model.model.layers[0].mlp.down_proj.weight.grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CANNOT_PACK = {
    "qwen3_next": ("linear_attention", {"layer_types": ["linear_attention", "full_attention"], "num_experts": 2}),
    "minimax": ("linear_attention", {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2}),
    "lfm2": ("conv", {"layer_types": ["conv", "full_attention"]}),
    "llama4_text": ("chunked_attention", {"layer_types": ["chunked_attention", "full_attention"]}),
    "mamba2": ("linear_attention", {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8}),
    "falcon_h1": ("", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}),
    "jamba": ("", {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "rwkv": ("state", {"attention_hidden_size": 32}),
    "bloom": ("does not use transformers' attention interface", {}),
    "bert": ("more than a matrix between .* and its logits", {"is_decoder": True}),
    "bart": ("does not let itself be told positions", {"is_decoder": True, "is_encoder_decoder": False, "d_model": 32}),
}
"""Family: what is said of it, and how a toy of it is configured."""


@pytest.mark.parametrize("family", CANNOT_PACK)
def test_a_language_model_in_which_documents_would_leak_is_refused_when_it_is_built(family: str):
    said, settings = CANNOT_PACK[family]
    text = AutoConfig.for_model(family, **SIZES, **SPECIAL, **settings)
    config = XGenMMConfig(
        vision_config=toy_vision_config(), text_config=text, resampler=vars(TOY_RESAMPLER), image_token_id=3
    )
    with torch.device("meta"), pytest.raises(ValueError, match=f"{said}.*documents of a packed row cannot be kept"):
        XGenMMForConditionalGeneration(config)


def test_a_layout_that_does_not_reach_attention_is_missed(toy_model):
    """A model that drops keyword arguments would let every document see those before it."""
    block = toy_model.language_model.model.layers[0]
    forward = block.self_attn.forward

    def forgets(*args, layout=None, **kwargs):  # noqa: ARG001
        return forward(*args, **kwargs)

    block.self_attn.forward = forgets
    batch = pack(make_examples(MIXED), pad_id=256)
    with pytest.raises(ValueError, match="Phi3Attention lost the layout of a packed row"):
        logps_of(toy_model, batch)


def test_positions_follow_from_documents():
    """Where they are absolute, wrong ones would change everything."""
    model = make_toy_model("gpt2")
    batch = pack([*make_examples(MIXED), branched_examples()[1]], pad_id=256, length=400)
    inputs = batch.inputs()
    expected = model(**inputs).logits[0, batch.documents >= 0]
    found = model(**{**inputs, "position_ids": None}).logits[0, batch.documents >= 0]
    assert torch.equal(found, expected)


def test_what_is_no_packed_row_is_named(toy_model):
    batch = pack(make_examples([[], []]), pad_id=256)
    inputs = batch.inputs()
    with pytest.raises(ValueError, match="takes no labels, but targets"):
        toy_model(**inputs, labels=batch.labels[None])
    with pytest.raises(ValueError, match="a packed row is a batch of one"):
        toy_model(input_ids=torch.cat([batch.input_ids[None]] * 2), documents=batch.documents)


ROTARY = {
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 24},
    "dynamic": {"factor": 2.0},
}


@pytest.mark.parametrize("kind", ROTARY)
def test_a_long_neighbour_does_not_turn_a_documents_positions(kind: str):
    """These rotary positions have other frequencies for texts of more than 24 tokens."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, **ROTARY[kind]}
    text = toy_text_config("phi3" if kind == "longrope" else "llama")
    lengths = {"max_position_embeddings": 96 if kind == "longrope" else 24, "original_max_position_embeddings": 24}
    text = type(text)(**{**text.to_dict(), "rope_parameters": rope, **lengths})
    torch.manual_seed(0)
    config = XGenMMConfig(
        vision_config=toy_vision_config(), text_config=text, resampler=vars(TOY_RESAMPLER), image_token_id=IMAGE_TOKEN
    )
    model, untouched = (XGenMMForConditionalGeneration(config).eval() for _ in range(2))
    untouched.load_state_dict(model.state_dict())
    examples = [one for length in (10, 60, 12, 40) for one in make_examples([[]], length=length)]
    packed = logps_of(model, pack(examples, pad_id=256, length=130))
    for found, example in zip(packed, examples, strict=True):
        output = copy.deepcopy(untouched)(**alone(example), targets=example.labels[None])
        torch.testing.assert_close(found, output.logps, rtol=0, atol=1e-5)
