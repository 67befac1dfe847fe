"""How a run is spread over processes, and how many bytes they send each other for it."""

from dataclasses import dataclass, field
from typing import Literal

from xgenmm.config import ConfigError, nearest
from xgenmm.costs.shapes import Amount

PARTS = ("vision", "resampler", "language")

Strategy = Literal["auto", "ddp", "fsdp", "hsdp"]
Recompute = Literal["none", "selective", "full"]
"""What a block computes again in the backward pass instead of keeping it: nothing; all but its matrix products and its
attention; everything."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the work is spread over processes. Changes memory and speed, never what is learnt."""

    strategy: Strategy = "auto"
    """`ddp`: every process holds everything. `fsdp`: weights, gradients and moments are split over all processes.
    `hsdp`: split over the processes of a machine, the same on every machine. `auto`: `fsdp` on one machine, `hsdp` on
    several.
    """
    recompute: dict[str, Recompute] = field(default_factory=dict)
    """By part (`vision`, `resampler`, `language`): what its blocks compute again in the backward pass; nothing by
    default. `selective` keeps what linear layers and fused attention give (on a CPU in bfloat16 attention is not
    fused), `full` keeps only what goes into a block.
    """
    compile: bool = False
    """Compile every block with torch.compile: some minutes at the start, then faster steps on GPUs."""
    offload: bool = False
    """Keep weights, gradients and moments in the CPU's memory and send every block's over when it is used."""
    reduce: Literal["float32", "bfloat16"] = "float32"
    """In what gradients are added up between processes."""

    def __post_init__(self) -> None:
        for part in self.recompute:
            if part not in PARTS:
                raise ConfigError(f'parallel.recompute: there is no part "{part}"; {nearest(part, PARTS)}')
        if self.offload and self.strategy == "ddp":
            raise ConfigError("parallel.offload: needs weights that are split (fsdp or hsdp), not ddp")


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Processes as a rectangle: states are split along a row, rows hold the same."""

    replicas: int
    shards: int

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.replicas * self.shards

    @property
    def splits(self) -> bool:
        """Whether a process holds only a part of the states."""
        return self.shards > 1


def mesh_of(config: ParallelConfig, world: int, per_machine: int) -> Mesh:
    """The rectangle that a strategy means.

    Args:
        config: The settings.
        world: Number of processes.
        per_machine: Processes of one machine.

    Raises:
        ConfigError: Machines have unequally many processes.

    >>> mesh_of(ParallelConfig(), 32, 8)
    Mesh(replicas=4, shards=8)
    """
    if world == 1 or config.strategy == "ddp":
        return Mesh(replicas=world, shards=1)
    if config.strategy == "fsdp" or world <= per_machine:
        return Mesh(replicas=1, shards=world)
    if world % per_machine:
        raise ConfigError(f"parallel.strategy: {world} processes are no multiple of the {per_machine} of a machine")
    return Mesh(replicas=world // per_machine, shards=per_machine)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that a process sends in one optimizer step."""

    gather: Amount
    """Weights of blocks, put together for every forward and every backward pass, and for every second opinion."""
    reduce: Amount
    """Gradients, along a row of the mesh: once a step."""
    replicate: Amount
    """Gradients, between the rows: once a step."""

    @property
    def sum(self) -> Amount:
        """All of it."""
        return self.gather + self.reduce + self.replicate


def traffic(
    config: ParallelConfig,
    mesh: Mesh,
    *,
    split: int,
    trained: int,
    passes: int,
    weight_bytes: int,
    compares: bool = False,
) -> Traffic:
    """What a step sends, each collective as a ring.

    Args:
        config: The settings.
        mesh: The rectangle.
        split: Parameters that are split, frozen ones included.
        trained: Parameters with a gradient.
        passes: Forward passes of a step.
        weight_bytes: Of a weight on the way: 2 for bfloat16.
        compares: The model as it was is asked in every pass, too.
    """
    gradient = 4 if config.reduce == "float32" else 2
    others = (mesh.shards - 1) / mesh.shards
    rows = 2 * (mesh.replicas - 1) / mesh.replicas
    return Traffic(
        gather=(3 if compares else 2) * passes * others * split * weight_bytes,
        reduce=others * trained * gradient,
        replicate=rows * trained / mesh.shards * gradient,
    )
