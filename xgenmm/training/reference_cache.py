"""The reference's log-probabilities of all pairs of a stage, computed before its first step and kept in its folder.

One parquet file, with what it depends on in its metadata. It is written in parts, so that whoever is stopped goes on
where it was, and counts only when it is whole; one that was made of other weights or data is made anew.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from xgenmm.data.quarantine import DataError
from xgenmm.files import sync
from xgenmm.objectives.reference import Reference, by_document, cached_reference, supervised_keys
from xgenmm.progress import progress
from xgenmm.training.ranks import gather, highest, rank
from xgenmm.types import Batch

log = logging.getLogger(__name__)

DOCUMENTS_PER_PART = 256
"""What a stop may cost, in documents."""
ABOUT = b"reference_of"
"""Key of the metadata under which a file says what it depends on."""

Logps = dict[str, Float[Tensor, " targets"]]
"""By `supervised_keys`."""


@dataclass(frozen=True, kw_only=True)
class ReferenceCache:
    """A file of log-probabilities and what they depend on."""

    path: Path
    about: Mapping[str, Any]
    """Weights, data, settings of the processor, precision: everything but the documents' tokens, which are in their
    keys. JSON.
    """

    def read(self) -> Logps | None:
        """What was written, if all of it was, of the same weights and data."""
        return self._read(self.path)

    def fill(self, steps: Iterable[Iterable[Batch]], num_steps: int, reference: Reference) -> Logps:
        """Ask the reference for what is not there yet, and write it all down. All processes of a run call it.

        Args:
            steps: Batches of all documents that training will meet, step by step: this process's part of them.
            num_steps: How many steps they are, for the progress.
            reference: The model before the stage.

        Raises:
            OSError: The disk is full. The parts that are whole stay.
            DataError: Processes do not agree on what the file depends on.
        """
        parts = self.path.with_suffix(".parts")
        logps, new = self._read_parts(parts), Logps()
        with progress("reference", num_steps, "steps") as tell:
            for batches in steps:
                for batch in batches:
                    unknown = any(key not in logps and key not in new for key in supervised_keys(batch))
                    if any(highest(int(unknown))):  # a model in shards is called by all processes or by none
                        new.update(by_document(batch, reference(batch)))
                if len(new) >= DOCUMENTS_PER_PART:
                    self._write(parts / _part_name(new), new)
                    logps.update(new)
                    new = {}
                tell(1)
        if new:
            self._write(parts / _part_name(new), new)
        gather(None)  # all parts are there
        if rank() == 0:
            self._write(self.path, self._read_all(parts))
            shutil.rmtree(parts, ignore_errors=True)
        gather(None)  # the whole is there
        logps = self.read()
        if logps is None:
            raise DataError(f"{self.path}: this process has other weights, data or settings than the one that wrote it")
        return logps

    def _read_parts(self, folder: Path) -> Logps:
        """What an earlier start has written, if it was of the same weights and data."""
        if rank() == 0 and any(self._read(path) is None for path in folder.glob("*.parquet")):
            shutil.rmtree(folder)
        gather(None)
        logps = self._read_all(folder)
        if logps:
            log.info("the reference of %d documents is there already", len(logps))
        return logps

    def _read_all(self, folder: Path) -> Logps:
        logps: Logps = {}
        for path in sorted(folder.glob("*.parquet")):
            logps.update(self._read(path) or {})
        return logps

    def _read(self, path: Path) -> Logps | None:
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            log.warning("%s cannot be read and is made anew: %s", path, error)
            return None
        about = json.loads((table.schema.metadata or {}).get(ABOUT, b"null"))
        if about != self._plain():
            log.warning("%s is of other weights, data or settings, and is made anew", path)
            return None
        values = table.column("logps").combine_chunks()
        flat = torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).copy())
        counts = np.diff(values.offsets.to_numpy()).tolist()
        return dict(zip(table.column("document").to_pylist(), flat.split(counts), strict=True))

    def _write(self, path: Path, logps: Logps) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = pa.array([one.numpy() for one in logps.values()], type=pa.list_(pa.float32()))
        table = pa.table({"document": pa.array(list(logps), type=pa.string()), "logps": values})
        aside = path.with_suffix(".partial")
        pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(self._plain())}), aside)
        sync(aside)
        aside.replace(path)

    def _plain(self) -> Any:
        """`about` as it comes back from JSON."""
        return json.loads(json.dumps(self.about))


def _part_name(logps: Logps) -> str:
    """The same for the same documents, and for no others: processes and starts do not write over each other's."""
    return hashlib.blake2b("\n".join(logps).encode(), digest_size=8).hexdigest() + ".parquet"


def prepare_reference(
    cache: ReferenceCache, steps: Iterable[Iterable[Batch]], num_steps: int, live: Reference
) -> Reference:
    """The cached reference of a stage, computed now if it is not there; the arguments are `fill`'s."""
    logps = cache.read()
    if any(highest(int(logps is None))):
        logps = cache.fill(steps, num_steps, live)
    assert logps is not None
    return cached_reference(logps)
