"""What the model said of the same targets before the stage: asked again at every step, or looked up."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from xgenmm.objectives.objective import Logps, Model, documents_of_targets, target_logps
from xgenmm.types import Batch

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
        logps: Of every document that will come, by `document_keys`.

    Raises:
        ValueError: When called with a document that is not among them.
    """

    def reference(batch: Batch) -> Float[Tensor, " M"]:
        found = []
        for key, (identity, count) in zip(document_keys(batch), _targets(batch), strict=True):
            if count and key not in logps:
                raise ValueError(
                    f"the cached reference holds nothing of the sample {identity} as it is now: it was written for "
                    "other data; remove it, and it is computed anew"
                )
            if count:
                found.append(logps[key])
        return torch.cat([torch.zeros(0), *found]).to(batch.input_ids.device)

    return reference


def document_keys(batch: Batch) -> list[str]:
    """A name for each document, with a digest of its tokens and of what is supervised: a changed text or template has
    another name.
    """
    tokens = torch.stack([batch.input_ids.cpu(), batch.labels.cpu()])
    lengths = batch.documents[batch.documents >= 0].bincount(minlength=len(batch.ids)).tolist()
    return [
        f"{identity} {hashlib.blake2b(own.contiguous().numpy().data, digest_size=8).hexdigest()}"
        for identity, own in zip(batch.ids, tokens[:, : sum(lengths)].split(lengths, dim=1), strict=True)
    ]


def by_document(batch: Batch, logps: Float[Tensor, " M"]) -> dict[str, Float[Tensor, " targets"]]:
    """Log-probabilities of a batch's targets, parted by their documents' keys; of those that have any."""
    parts = logps.detach().float().cpu().split([count for _, count in _targets(batch)])
    return {key: part for key, part in zip(document_keys(batch), parts, strict=True) if len(part)}


def _targets(batch: Batch) -> list[tuple[str, int]]:
    """Id and number of targets of each document."""
    counts = documents_of_targets(batch).bincount(minlength=len(batch.ids)).tolist()
    return list(zip(batch.ids, counts, strict=True))
