"""Features of a frozen vision encoder, computed once per tile and kept on disk for the next epoch and the next run.

A tile is known by its pixels, an encoder by its weights, so neither a changed picture nor another encoder can be
mistaken for an old one. What is returned has always gone through the storage type, also the first time: a run that
finds a full cache computes exactly what the run did that filled it.
"""

import hashlib
import json
import logging
import os
import zlib
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from xgenmm.files import sync
from xgenmm.model.vision import encode

log = logging.getLogger(__name__)

TILES_PER_FILE = 512
SUMS = "crc32"
"""Key of a file's metadata under which it says its tiles' checksums."""
STORAGE = torch.float16
"""Relative error 2^-11; the features of all encoders here stay far below its largest value, which is checked."""


def digest(tensor: Tensor) -> str:
    """A short name of a tensor's content."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()[:32]


def fingerprint(encoder: PreTrainedModel) -> str:
    """A short name of an encoder: of its class, its settings and all its weights."""
    content = hashlib.sha256(type(encoder).__name__.encode() + encoder.config.to_json_string().encode())
    for name, value in encoder.state_dict().items():
        content.update(f"{name} {value.dtype} {digest(value)}".encode())
    return content.hexdigest()[:16]


class FeatureCache:
    """Looks tiles up before it asks the encoder. Several runs may share a directory."""

    def __init__(self, directory: Path, encoder: PreTrainedModel) -> None:
        """Open a cache.

        Args:
            directory: Where the files of all encoders live; made if it is not there.
            encoder: A frozen encoder, which must not change afterwards.
        """
        self.encoder = encoder
        self.directory = directory / fingerprint(encoder)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.new: dict[str, Float[Tensor, "P D"]] = {}
        """Tiles that are on no disk yet."""
        self.files: dict[str, safe_open] = {}
        """Tiles that are on disk, and the mapped file that holds each."""
        self.sums: dict[str, int] = {}
        """Checksums of what is on disk, as the files say them."""
        for path in sorted(self.directory.glob("*.safetensors")):
            self._index(path)
        self.hits = 0
        self.misses = 0

    def features(self, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
        """Features of the tiles in the encoder's type, equal to `encode`'s within the storage type's precision."""
        names = [digest(tile) for tile in tiles]
        found = {name: value for name in dict.fromkeys(names) if (value := self._read(name)) is not None}
        missing = {name: i for i, name in enumerate(names) if name not in found}
        self.misses += len(missing)
        self.hits += len(names) - len(missing)
        # Without autocast: what is stored must not depend on who was the first to ask.
        with torch.no_grad(), torch.autocast(tiles.device.type, enabled=False):
            if missing:
                new = dict(zip(missing, self._encode(tiles[list(missing.values())]).unbind(), strict=True))
                self.new |= new
                found |= new
            stacked = torch.stack([found[name] for name in names]).to(tiles.device, self.encoder.dtype)
        if len(self.new) >= TILES_PER_FILE:
            self.flush()
        return stacked

    def flush(self) -> None:
        """Write what is new to disk, whole or not at all.

        Raises:
            OSError: It cannot be written, say for a full disk.
        """
        if not self.new:
            return
        name = hashlib.sha256("".join(self.new).encode()).hexdigest()[:16]
        path = self.directory / f"{name}.safetensors"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            tensors = {key: value.contiguous() for key, value in self.new.items()}
            sums = {key: _checksum(value) for key, value in tensors.items()}
            save_file(tensors, partial, metadata={SUMS: json.dumps(sums)})  # one entry: of several the order changes
            sync(partial)
            partial.replace(path)
        except SafetensorError as error:
            raise OSError(f"could not write features to {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
        self._index(path)
        self.new.clear()

    def _encode(self, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
        features = encode(self.encoder, tiles).to("cpu", STORAGE)
        if not features.isfinite().all():
            name = type(self.encoder).__name__
            raise ValueError(f"{name} gives features too large for {STORAGE}: use no feature cache")
        return features

    def _index(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt")
        except SafetensorError as error:
            log.warning("%s is damaged (%s): its features are computed anew", path, error)
            path.unlink(missing_ok=True)
            return
        self.files.update(dict.fromkeys(file.keys(), file))
        self.sums.update(json.loads((file.metadata() or {}).get(SUMS, "{}")))

    def _read(self, name: str) -> Float[Tensor, "P D"] | None:
        """What is known of a tile; None where nothing is, or what is on the disk is not what was written."""
        if name in self.new or name not in self.files:
            return self.new.get(name)
        value = self.files[name].get_tensor(name)
        if _checksum(value) == self.sums.get(name):
            return value
        log.warning("features in %s are damaged and are computed anew", self.directory)
        del self.files[name]
        return None


def _checksum(features: Float[Tensor, "P D"]) -> int:
    """Against what disks do, and not against people: it is asked for with every tile that is read."""
    return zlib.crc32(features.view(torch.uint8).numpy().data)
