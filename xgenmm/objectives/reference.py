"""What the model said of the same targets before the stage: asked again at every step, or looked up."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from xgenmm.config import ConfigError
from xgenmm.objectives.objective import Logps, Model, documents_of_targets, target_logps
from xgenmm.types import IGNORE_INDEX, Batch

Reference = Callable[[Batch], Float[Tensor, " M"]]
"""Log-probabilities of a batch's targets, in the order of their positions, without a graph."""


def live_reference(model: Model) -> Reference:
    """The model as it is now, whatever becomes of it."""
    return asked(model.frozen_reference())


def asked(model: Callable[..., Logps]) -> Reference:
    """What a model says at the time when it is asked."""

    @torch.no_grad()
    def reference(batch: Batch) -> Float[Tensor, " M"]:
        return target_logps(model, batch)

    return reference


def cached_reference(logps: Mapping[str, Float[Tensor, " targets"]]) -> Reference:
    """What was written down before.

    Args:
        logps: Of every document that will come, by `supervised_keys`.

    Raises:
        ConfigError: When called with a document that is not among them.
    """

    def reference(batch: Batch) -> Float[Tensor, " M"]:
        found = [torch.zeros(0)]
        for key in supervised_keys(batch):
            if key not in logps:
                raise ConfigError(
                    f"the cached reference holds nothing of the sample {key.rpartition(' ')[0]} as it is now: text or "
                    "pictures have changed since; remove reference.parquet from the stage's folder, and it is computed "
                    "anew"
                )
            found.append(logps[key])
        return torch.cat(found).to(batch.input_ids.device)

    return reference


def supervised_keys(batch: Batch) -> list[str]:
    """A name for each document that has targets, with a digest of its tokens, of what is supervised and of its tiles: a
    changed text, template or picture has another name.
    """
    tiles = batch.pixel_values.cpu().split(batch.tile_counts)
    tokens = torch.stack([batch.input_ids.cpu(), batch.labels.cpu()])
    lengths = batch.documents[batch.documents >= 0].bincount(minlength=len(batch.ids)).tolist()
    return [
        f"{identity} {_digest(own, pictures)}"
        for identity, own, pictures in zip(
            batch.ids, tokens[:, : sum(lengths)].split(lengths, dim=1), tiles, strict=True
        )
        if bool((own[1] != IGNORE_INDEX).any())
    ]


def _digest(*tensors: Tensor) -> str:
    content = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        content.update(tensor.contiguous().numpy().data)
    return content.hexdigest()


def by_document(batch: Batch, logps: Float[Tensor, " M"]) -> dict[str, Float[Tensor, " targets"]]:
    """Log-probabilities of a batch's targets, parted by their documents' keys."""
    counts = documents_of_targets(batch).unique_consecutive(return_counts=True)[1].tolist()
    return dict(zip(supervised_keys(batch), logps.detach().float().cpu().split(counts), strict=True))
