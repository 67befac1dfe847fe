"""The GGUF conversion, on a toy file written here the way llama.cpp writes one."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from xgenmm.starter.language import BLOCK, TOP, hugging_face_name, read_model, read_tokenizer

VOCAB = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "1", "2", "ab", "12", "Ġ", "Ċ"]


@pytest.fixture
def toy() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCAB),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def llama_cpp_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's own reordering of q and k, in its own terms (its converter's `permute`)."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def gguf_file(tmp_path: Path, toy: LlamaForCausalLM) -> Path:
    config = toy.config
    path = tmp_path / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCAB)
    writer.add_token_types([3, 3, 3] + [1] * (len(VOCAB) - 3))
    writer.add_token_merges(["a b", "1 2"])
    writer.add_chat_template("{{ messages[0].content }}")
    names = {theirs: ours for ours, theirs in (TOP | BLOCK).items()}
    for name, weight in toy.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = weight.numpy()
        if "q_proj" in name:
            values = llama_cpp_rows(values, config.num_attention_heads)
        if "k_proj" in name:
            values = llama_cpp_rows(values, config.num_key_value_heads)
        parts = name.removesuffix(".weight").split(".")
        prefix = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        body = ".".join(parts[3:]) if prefix else ".".join(parts)
        writer.add_tensor(f"{prefix}{names[body]}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_converted_model_gives_the_original_logits(gguf_file: Path, toy: LlamaForCausalLM):
    converted = read_model(gguf.GGUFReader(gguf_file))
    ids = torch.tensor([[1, 3, 4, 7, 5, 2]])
    with torch.no_grad():
        assert torch.equal(converted(ids).logits, toy(ids).logits)


def test_digits_are_split_before_merging(gguf_file: Path):
    tokenizer = read_tokenizer(gguf.GGUFReader(gguf_file))
    # "a b" is a merge and is used; "1 2" is one too, but digits never reach the merges together.
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab12<|im_end|>").input_ids) == ["ab", "1", "2", "<|im_end|>"]
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"


def test_names():
    assert hugging_face_name("token_embd.weight") == "model.embed_tokens.weight"
    assert hugging_face_name("blk.11.ffn_down.weight") == "model.layers.11.mlp.down_proj.weight"
