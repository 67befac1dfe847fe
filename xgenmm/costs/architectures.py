"""What a config.json says of an architecture's sizes. A mapping is read: no torch, no transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xgenmm.config import ConfigError, nearest
from xgenmm.costs.shapes import Blocks, LanguageShape, Linear, ModelShape, ResamplerShape, VisionShape


@dataclass(frozen=True, kw_only=True)
class _Family:
    """How a family of language models is put together; what its configurations leave out has these values."""

    defaults: Mapping[str, Any]
    fused: bool = False
    """Queries, keys and values are one matrix, and so are the two halves of a gated feed-forward layer."""
    gated: bool = True
    norm_bias: bool = False
    norms: int = 2
    """Norms of the block's width in each block."""
    qk_norm: str = ""
    """`head`: a norm of one head's width for queries and one for keys; `all`: of all heads together."""
    qkv_bias: bool = False
    bias: bool = False
    """Every linear layer has a bias."""
    head_bias: bool = False
    positions: bool = False
    """Positions are learnt."""


def _sizes(
    hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **others: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **others,
    }


# Sizes are the defaults of transformers' configuration classes: what a config.json may leave out. A test compares.
FAMILIES: dict[str, _Family] = {
    "llama": _Family(defaults=_sizes(4096, 11008, 32, 32, 32, 32000)),
    "mistral": _Family(defaults=_sizes(4096, 14336, 32, 32, 8, 32000)),
    "phi3": _Family(defaults=_sizes(3072, 8192, 32, 32, 32, 32064), fused=True),
    "qwen2": _Family(defaults=_sizes(4096, 22016, 32, 32, 32, 151936), qkv_bias=True),
    "qwen3": _Family(defaults=_sizes(4096, 22016, 32, 32, 32, 151936, head_dim=128), qk_norm="head"),
    "smollm3": _Family(defaults=_sizes(2048, 11008, 36, 16, 4, 128256, tie_word_embeddings=True)),
    "gemma": _Family(defaults=_sizes(3072, 24576, 28, 16, 16, 256000, head_dim=256, tie_word_embeddings=True)),
    "gemma2": _Family(defaults=_sizes(2304, 9216, 26, 8, 4, 256000, head_dim=256, tie_word_embeddings=True), norms=4),
    "gemma3_text": _Family(
        defaults=_sizes(2304, 9216, 26, 8, 4, 262208, head_dim=256, tie_word_embeddings=True), norms=4, qk_norm="head"
    ),
    "granite": _Family(defaults=_sizes(4096, 11008, 32, 32, 32, 32000)),
    "olmo2": _Family(defaults=_sizes(4096, 11008, 32, 32, 32, 50304), qk_norm="all"),
    "cohere": _Family(defaults=_sizes(8192, 22528, 40, 64, 64, 256000, tie_word_embeddings=True), norms=1),
    "phi": _Family(
        defaults=_sizes(2048, 8192, 24, 32, 32, 51200), gated=False, norm_bias=True, norms=1, bias=True, head_bias=True
    ),
    "starcoder2": _Family(
        defaults=_sizes(3072, 12288, 30, 24, 2, 49152, tie_word_embeddings=True), gated=False, norm_bias=True, bias=True
    ),
    "gpt2": _Family(
        defaults=_sizes(768, 3072, 12, 12, 12, 50257, tie_word_embeddings=True, max_position_embeddings=1024),
        **{"fused": True, "gated": False, "norm_bias": True, "bias": True, "positions": True},
    ),
}
_GPT2_NAMES = {
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}

_VIT_DEFAULTS: dict[str, dict[str, Any]] = {
    "siglip_vision_model": {"image_size": 224, "patch_size": 16},
    "clip_vision_model": {"image_size": 224, "patch_size": 32},
    "dinov2": {"image_size": 224, "patch_size": 14, "mlp_ratio": 4},
    "dinov2_with_registers": {"image_size": 224, "patch_size": 16, "mlp_ratio": 4, "num_register_tokens": 4},
}
_VIT_SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def language_shape(config: Mapping[str, Any]) -> LanguageShape:
    """Sizes of a language model from its config.json.

    Raises:
        ConfigError: The family is none of those that are known here.
    """
    name = str(config.get("model_type"))
    if name not in FAMILIES:
        raise ConfigError(f'no sizes for language models of type "{name}"; {nearest(name, FAMILIES)}')
    family = FAMILIES[name]
    given = {_GPT2_NAMES.get(key, key): value for key, value in config.items() if value is not None}
    c = {**family.defaults, **given}
    if name == "gpt2" and "intermediate_size" not in given:
        c["intermediate_size"] = 4 * c["hidden_size"]
    plain = family.defaults["num_key_value_heads"] == family.defaults["num_attention_heads"]
    if plain and "num_key_value_heads" not in given:
        c["num_key_value_heads"] = c["num_attention_heads"]
    width, ffn, heads, kv_heads = (
        c[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    head_dim = c.get("head_dim") or width // heads
    qkv_bias = family.bias or family.qkv_bias or bool(c.get("attention_bias"))
    out_bias = family.bias or bool(c.get("attention_bias"))
    mlp_bias = family.bias or bool(c.get("mlp_bias"))
    norm = width * (2 if family.norm_bias else 1)
    qk_norm = {"": 0, "head": 2 * head_dim, "all": (heads + kv_heads) * head_dim}[family.qk_norm]
    blocks = Blocks(
        layers=c["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        linears=(
            *_attention_in(width, heads * head_dim, kv_heads * head_dim, qkv_bias, fused=family.fused),
            Linear("out", heads * head_dim, width, out_bias),
            *_mlp_in(width, ffn, mlp_bias, gated=family.gated, fused=family.fused),
            Linear("down", ffn, width, mlp_bias),
        ),
        others=family.norms * norm + qk_norm,
        norms=family.norms,
        head_norms=bool(family.qk_norm),
        centred=family.norm_bias,
        gated=family.gated,
    )
    positions = c["max_position_embeddings"] * width if family.positions else 0
    others = norm + positions + (c["vocab_size"] if family.head_bias else 0)
    tied = bool(c["tie_word_embeddings"])
    return LanguageShape(blocks=blocks, vocabulary=c["vocab_size"], tied=tied, others=others)


def vision_shape(config: Mapping[str, Any]) -> VisionShape:
    """Sizes of a vision encoder from its config.json, or from that of a CLIP or SigLIP that has one.

    Raises:
        ConfigError: The encoder is none of those that are known here.
    """
    if "vision_config" in config:
        vision = config["vision_config"]
        return vision_shape({"model_type": f"{config['model_type'].removesuffix('2')}_vision_model", **vision})
    name = str(config.get("model_type"))
    if name == "efficientnet_lite_grid":
        return _efficientnet_shape(config.get("image_size", 224), config.get("text_width", 64))
    if name not in _VIT_DEFAULTS:
        known = (*_VIT_DEFAULTS, "efficientnet_lite_grid")
        raise ConfigError(f'no sizes for vision encoders of type "{name}"; {nearest(name, known)}')
    if config.get("use_swiglu_ffn"):
        raise ConfigError("no sizes for DINOv2 with SwiGLU feed-forward layers (its giant size)")
    c = {**_VIT_SIZES, **_VIT_DEFAULTS[name], **{key: value for key, value in config.items() if value is not None}}
    width, patch, patches = c["hidden_size"], c["patch_size"], (c["image_size"] // c["patch_size"]) ** 2
    dino = name.startswith("dinov2")
    ffn = int(width * c["mlp_ratio"]) if dino else c["intermediate_size"]
    class_tokens = {"siglip_vision_model": 0, "clip_vision_model": 1}.get(name, 1 + c.get("num_register_tokens", 0))
    blocks = Blocks(
        layers=c["num_hidden_layers"],
        width=width,
        heads=c["num_attention_heads"],
        kv_heads=c["num_attention_heads"],
        head_dim=width // c["num_attention_heads"],
        linears=(
            *_attention_in(width, width, width, bias=True, fused=False),
            Linear("out", width, width, bias=True),
            Linear("up", width, ffn, bias=True),
            Linear("down", ffn, width, bias=True),
        ),
        others=(6 if dino else 4) * width,
        norms=2,
        centred=True,
        gated=False,
    )
    has_head = name == "siglip_vision_model" and c.get("vision_use_head", True)
    # A probe, attention with biases, a norm, a feed-forward layer (spec 2.1).
    head = 4 * width**2 + 4 * width + 3 * width + 2 * width * ffn + ffn + width if has_head else 0
    # What stands before and behind the blocks: patches with or without a bias, positions, class token and registers
    # (DINOv2's mask token too), one norm or two.
    stem = patch**2 * 3 * width
    positions = {"siglip_vision_model": patches, "clip_vision_model": patches + 1}.get(name, patches + 1)
    extra = {"siglip_vision_model": 3, "clip_vision_model": 5}.get(name, 5 + c.get("num_register_tokens", 0))
    return VisionShape(
        tile=c["image_size"],
        patches=patches,
        width=width,
        parameters=stem + positions * width + extra * width + blocks.parameters + head,
        unused=head,
        blocks=blocks,
        tokens=patches + class_tokens,
        stem_macs=patches * stem,
        stem_first=patches * stem,
    )


def model_shape(
    vision: Mapping[str, Any], language: Mapping[str, Any], resampler: Mapping[str, int], *, rows: int | None = None
) -> ModelShape:
    """Sizes of a whole model.

    Args:
        vision: The encoder's config.json.
        language: The language model's.
        resampler: All fields of `ResamplerConfig`.
        rows: Rows of the embedding table, if new tokens made them more than the language model's own.
    """
    seeing = vision_shape(vision)
    speaking = language_shape({**language, **({} if rows is None else {"vocab_size": rows})})
    between = ResamplerShape(**resampler, width=seeing.width, width_out=speaking.blocks.width)
    return ModelShape(vision=seeing, resampler=between, language=speaking)


def _attention_in(width: int, queries: int, keys: int, bias: bool, *, fused: bool) -> tuple[Linear, ...]:
    if fused:
        return (Linear("qkv", width, queries + 2 * keys, bias),)
    return (Linear("q", width, queries, bias), Linear("k", width, keys, bias), Linear("v", width, keys, bias))


def _mlp_in(width: int, ffn: int, bias: bool, *, gated: bool, fused: bool) -> tuple[Linear, ...]:
    if not gated:
        return (Linear("up", width, ffn, bias),)
    if fused:
        return (Linear("gate_up", width, 2 * ffn, bias),)
    return (Linear("gate", width, ffn, bias), Linear("up", width, ffn, bias))


# (widening, width, blocks, kernel, stride) of the inverted residuals of EfficientNet-Lite0, as in model.efficientnet,
# whose module this one must not import; a test compares.
_LITE_STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
_LITE_STEM, _LITE_HEAD, _LITE_GRID = 32, 1280, 1280 + 112 + 24


def _efficientnet_shape(image_size: int, text_width: int) -> VisionShape:
    side = image_size // 2
    stem = 27 * _LITE_STEM * side**2
    macs, parameters, width = stem, 28 * _LITE_STEM, _LITE_STEM
    for widen, width_out, repeats, kernel, stride in _LITE_STAGES:
        for number in range(repeats):
            middle = width * widen
            after = side // (stride if number == 0 else 1)
            if widen > 1:
                macs += width * middle * side**2
                parameters += (width + 1) * middle
            macs += (kernel**2 * middle + middle * width_out) * after**2
            parameters += (kernel**2 + 1) * middle + (middle + 1) * width_out
            width, side = width_out, after
    macs += width * _LITE_HEAD * side**2 + _LITE_GRID * text_width
    parameters += (width + 1) * _LITE_HEAD + 2 * _LITE_GRID + (_LITE_GRID + 1) * text_width
    return VisionShape(
        tile=image_size,
        patches=side**2,
        width=_LITE_GRID + text_width,
        parameters=parameters,
        stem_macs=macs,
        stem_first=stem,
        pooled=(Linear("text", _LITE_GRID, text_width, bias=True),),
    )
