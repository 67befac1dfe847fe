"""A folder of weights -> model and processor, ready to answer."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoProcessor

from xgenmm import autoclasses
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import Attention, Dtype, WeightsError
from xgenmm.model.weights import load as load_model
from xgenmm.processor.processor import XGenMMProcessor


def load(
    path: str | Path, *, dtype: Dtype | None = None, device: str = "cpu", attention: Attention | None = None
) -> tuple[XGenMMForConditionalGeneration, XGenMMProcessor]:
    """Read a folder of weights.

    Args:
        path: What `train` wrote to `STAGE/weights`, or an import.
        dtype: Type of the weights in memory; "auto" is that of the folder; None: bfloat16 on a GPU that computes in it,
            where float32 takes ten times as long, and float32 elsewhere.
        device: Where the model shall be.
        attention: The language model's attention; None: transformers' choice.

    Raises:
        WeightsError: There is no such folder, or it does not hold our weights.
    """
    if dtype is None:
        fast = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if fast else "float32"
    model = load_model(Path(path), dtype=dtype, attention=attention)
    autoclasses.register()
    nn.Module.to(model, device)
    try:
        return model, AutoProcessor.from_pretrained(path)
    except (ValueError, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{path}: its tokenizer or processor cannot be read: {why}") from error
