"""The configuration of a whole model, as `config.json` holds it: its two backbones and what stands between them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

# Importing the encoders is what tells AutoConfig of our own ones.
from xgenmm.model.regroup import Regroup
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.vision import encoder_entry


class XGenMMConfig(PretrainedConfig):
    """Configuration of `XGenMMForConditionalGeneration`; the defaults are xGen-MM v1.5's classes and sizes between
    them.
    """

    model_type = "xgenmm"
    sub_configs_defaults = {  # noqa: RUF012  (transformers declares it so)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="phi3"),
    }

    def __init__(
        self,
        *,
        vision_config: Mapping[str, Any] | PretrainedConfig | None = None,
        text_config: Mapping[str, Any] | PretrainedConfig | None = None,
        resampler: Mapping[str, int] | None = None,
        regroup: Regroup = "tiles",
        image_token_id: int = 32012,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        """Take the parts' settings, as objects or as the mappings that JSON holds.

        Args:
            vision_config: Any configuration of the registry in `vision`.
            text_config: Any causal language model of transformers.
            resampler: Fields of `ResamplerConfig`.
            regroup: What the resampler reads at once.
            image_token_id: The placeholder; the processor writes one per vision token.
            image_mean: Of each channel, as the processor has it: tiles that come as bytes are normalised by the model.
            image_std: As `image_mean`.
            kwargs: What every transformers configuration has.

        Raises:
            ValueError: The vision encoder is none of the registry.
        """
        self.vision_config: PretrainedConfig = vision_config  # pyrefly: ignore  (transformers turns both into objects)
        self.text_config: PretrainedConfig = text_config  # pyrefly: ignore
        self.resampler = asdict(ResamplerConfig(**(resampler or {})))
        self.regroup: Regroup = regroup
        self.image_token_id = image_token_id
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        super().__init__(**kwargs)
        encoder_entry(self.vision_config)

    @property
    def resampler_config(self) -> ResamplerConfig:
        """The resampler's settings as their dataclass."""
        return ResamplerConfig(**self.resampler)


AutoConfig.register(XGenMMConfig.model_type, XGenMMConfig)
