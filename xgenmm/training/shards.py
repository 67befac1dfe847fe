"""How torch's distributed checkpoints (DCP) lie on the disk: in safetensors and JSON, where torch itself would pickle.

Each rank writes what DCP's plan gives it, one file per kind of tensor, and hashes it on the way. When all have, the
coordinator writes the JSON files and last the manifest, which lists every file with its size and SHA-256. The shards
carry the offsets that DCP's own reader of safetensors (`HuggingFaceStorageReader`) needs to read them into any layout.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from xgenmm.files import sync

MANIFEST = "manifest.json"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file that was written and is on the disk."""

    name: str
    bytes: int
    sha256: str


class ShardWriter(StorageWriter):
    """Writes one checkpoint into a folder of its own."""

    def __init__(self, folder: Path, documents: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Set the target.

        Args:
            folder: Is emptied first.
            documents: File name -> what is written there as JSON.
            facts: What the manifest says beside its list of files.
        """
        self.folder = folder
        self.documents = documents
        self.facts = facts
        self.rank = 0

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        """Nothing to do: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Learn which rank this is."""
        self.rank = kwargs["rank"]

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Take the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Empty the folder: the coordinator calls this before any rank writes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's tensors, one file for each first part of their names."""
        kinds: dict[str, dict[str, tuple[Tensor, Sequence[int]]]] = {}
        results = []
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            assert item.tensor_data is not None
            name = item.index.fqn
            kinds.setdefault(name.partition(".")[0], {})[name] = tensor, item.tensor_data.chunk.offsets
            results.append(WriteResult(index=item.index, size_in_bytes=tensor.nbytes, storage_data=None))
        files = [
            _write_safetensors(self.folder / f"{kind}-{self.rank:05d}.safetensors", tensors)
            for kind, tensors in kinds.items()
        ]
        if results:  # they are all that reaches the coordinator: the files travel with the first one
            results[0] = dataclasses.replace(results[0], storage_data=files)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:  # noqa: ARG002
        """Make the checkpoint whole."""
        files = [file for ours in results for result in ours for file in result.storage_data or ()]
        files += [write_json(self.folder / name, content) for name, content in self.documents.items()]
        sync(self.folder)
        listed = {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in sorted(files, key=_name)}
        write_json(self.folder / MANIFEST, {**self.facts, "files": listed})
        sync(self.folder)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        """Whether a place can be written to."""
        return bool(checkpoint_id)


def write_json(path: Path, content: Mapping[str, Any]) -> _File:
    """Written aside and renamed: the file is there with all its text or not at all."""
    aside = path.with_suffix(".partial")
    text = json.dumps(content, indent=1).encode()
    aside.write_bytes(text)
    sync(aside)
    aside.rename(path)
    return _File(name=path.name, bytes=len(text), sha256=hashlib.sha256(text).hexdigest())


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_safetensors(path: Path, tensors: Mapping[str, tuple[Tensor, Sequence[int]]]) -> _File:
    """Write tensors with their offsets in the whole, straight from their memory: a shard may fill half of it."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for block in _safetensors(tensors):
            file.write(block)
            digest.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return _File(name=path.name, bytes=size, sha256=digest.hexdigest())


def _safetensors(tensors: Mapping[str, tuple[Tensor, Sequence[int]]]) -> Iterator[Any]:
    # Wide types first: a reader maps the file and wants every tensor to begin at a multiple of its type's width.
    tensors = dict(sorted(tensors.items(), key=lambda named: -named[1][0].element_size()))
    offsets = json.dumps({name: {"saved_offsets": list(offset)} for name, (_, offset) in tensors.items()})
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": offsets}}
    start = 0
    for name, (tensor, _) in tensors.items():
        place = [start, start + tensor.nbytes]
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        start += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    yield len(text).to_bytes(8, "little") + text
    for tensor, _ in tensors.values():
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _name(file: _File) -> str:
    return file.name
