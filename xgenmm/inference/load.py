"""A folder of weights -> model and processor, ready to answer."""

from pathlib import Path

from torch import nn
from transformers import AutoProcessor

from xgenmm import autoclasses
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import Attention, Dtype
from xgenmm.model.weights import load as load_model
from xgenmm.processor.processor import XGenMMProcessor


def load(
    path: str | Path, *, dtype: Dtype = "float32", device: str = "cpu", attention: Attention | None = None
) -> tuple[XGenMMForConditionalGeneration, XGenMMProcessor]:
    """Read a folder of weights.

    Args:
        path: What `train` wrote to `STAGE/weights`, or an import.
        dtype: Type of the weights in memory; "auto" is that of the folder.
        device: Where the model shall be.
        attention: The language model's attention; None: transformers' choice.

    Raises:
        WeightsError: There is no such folder, or it does not hold our weights.
    """
    model = load_model(Path(path), dtype=dtype, attention=attention)
    autoclasses.register()
    nn.Module.to(model, device)
    return model, AutoProcessor.from_pretrained(path)
