"""The configuration of a whole model, as `config.json` holds it: its two backbones and what stands between them."""

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

    vision_config: PretrainedConfig = None  # pyrefly: ignore
    """Any configuration of the registry in `vision`."""
    text_config: PretrainedConfig = None  # pyrefly: ignore
    """Any causal language model of transformers."""
    resampler: dict[str, int] = None  # pyrefly: ignore
    """Fields of `ResamplerConfig`."""
    regroup: Regroup = "tiles"
    image_token_id: int = 32012
    """The placeholder; the processor writes one per vision token."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.resampler = asdict(ResamplerConfig(**(self.resampler or {})))
        encoder_entry(self.vision_config)

    @property
    def resampler_config(self) -> ResamplerConfig:
        """The resampler's settings as their dataclass."""
        return ResamplerConfig(**self.resampler)


AutoConfig.register(XGenMMConfig.model_type, XGenMMConfig)
