"""The model: vision encoder, resampler, language model, and what passes between them.

    pixels [T 3 S S] ─► vision encoder ─► features [T P D] ─► regroup ─► resampler ─► vision tokens [T K D']
                                                                                           │ splice
    input ids [B L] ─► text embeddings [B L D'] ───────────────────────────────────────────┴─► language model ─► logits

`forward` and generation share `embed`. Knows nothing of text formats, files or training.
"""

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Cache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput

from xgenmm.model.attention import check_packable, use_packed_attention, working_on
from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.feature_cache import FeatureCache
from xgenmm.model.head import head_of, summed_nll, target_logps
from xgenmm.model.layout import layout_of
from xgenmm.model.lora import LoraConfig, LoraLinear, add_lora, does_nothing, lora_layers, lora_off
from xgenmm.model.regroup import regroup
from xgenmm.model.resampler import PerceiverResampler
from xgenmm.model.splice import splice
from xgenmm.model.vision import encode, encoder_entry, is_frozen
from xgenmm.phases import phase
from xgenmm.pixels import normalised
from xgenmm.types import IGNORE_INDEX

logger = logging.getLogger(__name__)

PARTS = {"vision": "vision_encoder", "resampler": "vision_tokenizer", "language": "language_model"}
"""What recipes and tables call a part, and its name in the weights."""


@dataclass
class XGenMMOutput(ModelOutput):
    """What a forward pass gives: logits without targets, log-probabilities with them."""

    loss: Float[Tensor, ""] | None = None
    """With targets: the mean or the sum of -logps."""
    logits: Float[Tensor, "B kept vocabulary"] | None = None
    """Without targets."""
    past_key_values: Cache | None = None
    logps: Float[Tensor, " M"] | None = None
    """With targets: log-probability of each supervised target in float32, in the order of their positions."""


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """Parameters of a part of the model."""

    trainable: int
    frozen: int


class XGenMMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """xGen-MM: a vision encoder and a language model, joined by a Perceiver resampler."""

    config_class = XGenMMConfig
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012  (transformers declares it so)
    # Backbones that lack one of these fall back or refuse by themselves.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: XGenMMConfig) -> None:
        """Draw random weights.

        Raises:
            ValueError: The language model is of a kind that cannot keep the documents of a packed row apart.
        """
        super().__init__(config)
        self.vision_encoder = AutoModel.from_config(config.vision_config)
        self.vision_tokenizer = PerceiverResampler(
            config.resampler_config, config.vision_config.hidden_size, config.text_config.hidden_size
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        check_packable(self.language_model)
        self.feature_cache: FeatureCache | None = None
        self.always_looks = False
        """A pass without pictures looks at a blank tile with weight 0. For processes that share weights: all of them
        must then make the same calls."""
        self.computes_on: torch.device | None = None
        """Where it computes, if that is not where its weights lie meanwhile (`parallel.offload`)."""
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The resampler starts as torch's layers do, its latents from N(0, 1); the backbones have their own ways."""
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, PerceiverResampler):
            nn.init.normal_(module.latents)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return super().device if self.computes_on is None else self.computes_on

    def get_input_embeddings(self) -> nn.Module:
        """The text's embedding table."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.language_model.get_output_embeddings()

    # ------------------------------------------------------------------ the path

    def encode(self, pixel_values: Num[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
        """Features of all tiles of a batch in one go; out of the feature cache if one is set.

        Args:
            pixel_values: Normalised tiles; or bytes, which are normalised by `image_mean` and `image_std`.
        """
        pixel_values = normalised(pixel_values, self.config.image_mean, self.config.image_std)
        if self.feature_cache is not None:
            return self.feature_cache.features(pixel_values)
        return encode(self.vision_encoder, pixel_values)

    @phase("vision")
    def vision_tokens(
        self, pixel_values: Num[Tensor, "T 3 S S"], image_layouts: Int[Tensor, "N 4"] | None = None
    ) -> Float[Tensor, "T K D"]:
        """Vision tokens of each tile, images in order. Without layouts, every tile is an image of its own."""
        if image_layouts is None:
            image_layouts = torch.zeros(len(pixel_values), 4, dtype=torch.long)
        groups, mask = regroup(self.encode(pixel_values), image_layouts, self.config.regroup)
        return self.vision_tokenizer(groups, mask)

    def embed(
        self,
        input_ids: Int[Tensor, "B L"],
        pixel_values: Num[Tensor, "T 3 S S"] | None = None,
        image_layouts: Int[Tensor, "N 4"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """What the language model reads: text embeddings, and vision tokens at the placeholders.

        Raises:
            ValueError: There are not as many placeholders as vision tokens.
        """
        placeholders = input_ids == self.config.image_token_id
        text = self.get_input_embeddings()(input_ids)
        if pixel_values is not None and len(pixel_values) > 0:
            tokens = self.vision_tokens(pixel_values, image_layouts)
            return splice(text, rearrange(tokens, "t k d -> (t k) d"), placeholders)
        if self.always_looks:
            side = self.config.vision_config.image_size
            text = text + 0 * self.vision_tokens(torch.zeros(1, 3, side, side, device=text.device)).sum()
        return splice(text, text.new_empty(0, text.shape[-1]), placeholders)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Int[Tensor, "B total"] | None = None,
        pixel_values: Num[Tensor, "T 3 S S"] | None = None,
        image_layouts: Int[Tensor, "N 4"] | None = None,
        targets: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "B_or_1 L"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "B L D"] | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        use_cache: bool | None = None,
        documents: Int[Tensor, " L"] | None = None,
        branches: Int[Tensor, " L"] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        **kwargs: Any,
    ) -> XGenMMOutput:
        """One pass, over a packed row (`Batch.inputs()`) or over padded rows.

        Args:
            input_ids: Tokens; the placeholder stands once per vision token.
            attention_mask: 1 at tokens, 0 at padding, over the cache and the new tokens; None means no padding.
            pixel_values: Tiles of all images of the batch, in the order of their placeholders.
            image_layouts: See `Batch`; None: every tile is an image of its own.
            targets: `Batch.labels`: the target of position i stands at i, and is not shifted again. Logits are then
                computed at supervised positions only, and not returned.
            position_ids: Positions of the tokens; transformers counts from the cache's length if None.
            past_key_values: Keys and values of earlier tokens.
            inputs_embeds: What `embed` gave, instead of `input_ids` and images.
            logits_to_keep: Without targets: how many last positions get logits (0: all), or which.
            use_cache: Whether to return keys and values.
            documents: `Batch.documents`: makes it a packed row, a batch of one; positions follow from it, if they are
                not given. Like `branches`, `targets` and `image_layouts` best on the CPU, where reading it waits for no
                GPU.
            branches: `Batch.branches`.
            reduction: With targets: the loss is the mean of -logps; or it is their sum, and then only it has a graph
                and `logps` has none, which saves a quarter of the head's work.
            kwargs: Passed to the language model.

        Raises:
            ValueError: Placeholders and vision tokens disagree; or neither or both of input_ids and inputs_embeds are
                given; or documents are not those of one row; or labels are given.
        """
        if kwargs.get("labels") is not None:
            raise ValueError("forward takes no labels, but targets, which are not shifted again")
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.embed(input_ids, pixel_values, image_layouts)
        elif inputs_embeds is None or input_ids is not None:
            raise ValueError("forward takes either input_ids or inputs_embeds, and got both or neither")
        layout = None if documents is None else layout_of(documents, branches)
        if layout is not None:
            if layout.length != inputs_embeds.shape[1] or len(inputs_embeds) != 1:
                raise ValueError(
                    f"documents of {layout.length} positions, and a batch of {len(inputs_embeds)} x "
                    f"{inputs_embeds.shape[1]}: a packed row is a batch of one"
                )
            if position_ids is None:
                position_ids = layout.positions()[None].to(inputs_embeds.device, non_blocking=True)
        inputs: dict[str, Any] = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            **kwargs,
        }
        if layout is not None:
            use_packed_attention(self.language_model)
            inputs |= {"layout": layout, "use_cache": False}
        with nullcontext() if layout is None else working_on(layout):
            if targets is None:
                output = self.language_model(logits_to_keep=logits_to_keep, **inputs)
                return XGenMMOutput(logits=output.logits, past_key_values=output.past_key_values)
            output = self.language_model.base_model(**inputs)
        places = (targets != IGNORE_INDEX).flatten().nonzero().flatten()
        wanted = targets.flatten()[places].to(inputs_embeds.device, non_blocking=True)
        places = places.to(inputs_embeds.device, non_blocking=True)
        hidden = output.last_hidden_state.flatten(0, 1).index_select(0, places)
        if reduction == "sum":
            loss, logps = summed_nll(self.language_model, hidden, wanted)
        else:
            logps = target_logps(self.language_model, hidden, wanted)
            loss = -logps.sum() / max(len(logps), 1)
        return XGenMMOutput(loss=loss, past_key_values=output.past_key_values, logps=logps)

    def _expand_inputs_for_generation(  # pyrefly: ignore[bad-override]
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Int[Tensor, "B L"] | None = None,
        **inputs: Any,
    ) -> tuple[Int[Tensor, "expanded L"] | None, dict[str, Any]]:
        """Every row `expand_size` times in a row, for beams, each with all its pictures.

        transformers would repeat tile by tile, which parts the pictures of a row.
        """
        images = {name: inputs.pop(name) for name in ("pixel_values", "image_layouts") if inputs.get(name) is not None}
        expand: Any = super()._expand_inputs_for_generation
        expanded, inputs = expand(expand_size, is_encoder_decoder, input_ids, **inputs)
        if expand_size > 1 and "pixel_values" in images and input_ids is not None:
            images = self._repeat_images(input_ids, expand_size, **images)
        return expanded, {**inputs, **images}

    def _repeat_images(
        self,
        input_ids: Int[Tensor, "B L"],
        times: int,
        pixel_values: Num[Tensor, "T 3 S S"],
        image_layouts: Int[Tensor, "N 4"] | None = None,
    ) -> dict[str, Tensor]:
        layouts = torch.zeros(len(pixel_values), 4, dtype=torch.long) if image_layouts is None else image_layouts
        # one tile for a bare picture, the base tile and the grid's for others
        tiles = [int(rows * cols) + 1 for rows, cols in layouts[:, :2].tolist()]
        latents = self.config.resampler_config.latents
        rest = list(zip(pixel_values.split(tiles), layouts, strict=True))
        repeated: list[tuple[Tensor, Tensor]] = []
        for placeholders in (input_ids == self.config.image_token_id).sum(dim=1).tolist():
            row = []
            while placeholders > 0:
                row.append(rest.pop(0))
                placeholders -= len(row[-1][0]) * latents
            repeated += row * times
        if not repeated:
            return {"pixel_values": pixel_values, "image_layouts": layouts}
        pictures, kept = zip(*repeated, strict=True)
        return {"pixel_values": torch.cat(pictures), "image_layouts": torch.stack(kept)}

    # ------------------------------------------------------------------ what trains

    def set_trainable(
        self,
        *,
        vision: bool | Literal["lora"],
        resampler: bool | Literal["lora"],
        language: bool | Literal["lora"],
        lora: LoraConfig | None = None,
    ) -> dict[str, PartCount]:
        """Say of every part whether all of it trains, nothing of it, or LoRA adapters on it, and log it.

        A frozen vision encoder stays in evaluation mode.

        Args:
            vision: The vision encoder (its unused pooling head never trains).
            resampler: The resampler.
            language: The language model with its embeddings.
            lora: Size of the adapters, where they are asked for and not there yet.

        Raises:
            ValueError: A part carries LoRA, but shall train as a whole: save and load first, which merges. Or it has no
                layer that could carry LoRA.
        """
        unused = [self.vision_encoder.get_submodule(name) for name in encoder_entry(self.config.vision_config).unused]
        spared = {"vision": unused, "resampler": [], "language": [head_of(self.language_model)]}
        for part, mode in {"vision": vision, "resampler": resampler, "language": language}.items():
            module = self.get_submodule(PARTS[part])
            if mode is True and lora_layers(module):
                raise ValueError(f"{PARTS[part]} carries LoRA adapters: save and load it before training all of it")
            if mode == "lora" and not lora_layers(module):
                add_lora(module, lora or LoraConfig(), spared[part])
            module.requires_grad_(mode is True)
            if mode == "lora":
                for layer in lora_layers(module).values():
                    layer.enable_adapters(True)
        for module in unused:
            module.requires_grad_(False)
        self.train(self.training)
        counts = self.parameter_table()
        for part, count in counts.items():
            logger.info("%-10s %15s trainable %15s frozen", part, f"{count.trainable:,}", f"{count.frozen:,}")
        return counts

    def parameter_table(self) -> dict[str, PartCount]:
        """Trainable and frozen parameters of every part."""
        table = {}
        for part, name in PARTS.items():
            parameters = list(self.get_submodule(name).parameters())
            trainable = sum(p.numel() for p in parameters if p.requires_grad)
            table[part] = PartCount(trainable=trainable, frozen=sum(p.numel() for p in parameters) - trainable)
        return table

    def train(self, mode: bool = True) -> "XGenMMForConditionalGeneration":
        """Training mode, but for a frozen vision encoder: its features are those of inference."""
        super().train(mode)
        self.vision_encoder.train(mode and not is_frozen(self.vision_encoder))
        return self

    def to_compute_dtype(self, dtype: torch.dtype) -> None:
        """Keep frozen parameters in `dtype`: half the memory, and nothing to cast under autocast. What trains stays
        float32.
        """
        for parameter in self.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)

    def use_feature_cache(self, directory: Path | None) -> None:
        """Compute the frozen encoder's features of a tile once and keep them in a directory; None turns it off.

        Raises:
            ValueError: The encoder trains, so its features change.
        """
        if directory is not None and not is_frozen(self.vision_encoder):
            raise ValueError("a feature cache needs a frozen vision encoder: this one trains, so its features change")
        self.feature_cache = None if directory is None else FeatureCache(directory, self.vision_encoder)

    def frozen_reference(self) -> Callable[..., XGenMMOutput]:
        """The model as it is now, in evaluation mode, to be called like the model: what preferences compare with.

        Where only adapters train that do nothing yet, it is this model with them off, and costs nothing. Otherwise what
        trains is copied, so it must be asked for before the first step, and before the weights of a resumed run are
        loaded.
        """
        fresh = [layer for layer in lora_layers(self).values() if does_nothing(layer)]
        removable = {id(p) for layer in fresh for p in layer.parameters()}
        if all(id(p) in removable for p in self.parameters() if p.requires_grad):
            return functools.partial(self._without_lora, fresh)
        shared: dict[int, Any] = {id(p): p for p in self.parameters() if not p.requires_grad}
        if self.feature_cache is not None:
            shared[id(self.feature_cache)] = self.feature_cache
        return copy.deepcopy(self, memo=shared).requires_grad_(False).eval()

    def _without_lora(self, layers: Sequence[LoraLinear], *args: Any, **kwargs: Any) -> XGenMMOutput:
        training = self.training
        try:
            with lora_off(layers):
                return self.eval()(*args, **kwargs)
        finally:
            self.train(training)


def count_parameters(config: XGenMMConfig) -> dict[str, int]:
    """Parameters of every part and in all, from the configuration alone: nothing is allocated."""
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(config)
    counts = {part: count.trainable + count.frozen for part, count in model.parameter_table().items()}
    return {**counts, "total": sum(counts.values())}


AutoModelForImageTextToText.register(XGenMMConfig, XGenMMForConditionalGeneration)
