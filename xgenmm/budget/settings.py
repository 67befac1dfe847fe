"""What `xgenmm plan` assumes where nobody has measured yet."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from xgenmm.config import Bounds, ConfigError, Count, NotNegative, Share
from xgenmm.costs.gpus import Gpu, find_gpu

Divisor = Annotated[float, Bounds(least=1e-6)]
"""Of what is divided by: not so little that hours become endless."""
DividingShare = Annotated[float, Bounds(least=1e-3, most=1)]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Assumptions of `xgenmm plan`; training does not read them."""

    gpu: str = "H100"
    """A name of the table in `costs/gpus.py`."""
    gpus: Count | None = None
    """How many; by default the smallest number that fits, and a table of others."""
    per_machine: Count | None = None
    """GPUs of one machine; by default what is usual for the GPU."""
    tflops: Divisor | None = None
    """Peak of one GPU in TFLOP/s, in the format of the recipe's `precision`, instead of the table's."""
    memory: Divisor | None = None
    """GB of one GPU, instead of the table's."""
    price: NotNegative | None = None
    """Dollars an hour for one GPU, instead of the table's, which is an assumption."""
    mfu: DividingShare = 0.4
    """Share of the peak that operations reach while nobody waits for the network, those that `parallel.recompute` makes
    a second time included. torchtitan states 33 to 39 % for Llama 3 of 8 B on H100s without float8; packed rows without
    padding lose nothing beside that."""
    reserve: NotNegative = 3.0
    """GB of each GPU that are nobody's: context, communication buffers, gaps between blocks of memory."""
    document_tokens: Count = 2048
    """Tokens of a document, vision tokens included, where no index of the data says it."""
    vision_share: Share = 0.5
    """Share of vision tokens among them."""
    supervised_share: Share = 1.0
    """Share of a document's text that is supervised."""
    fill: DividingShare = 0.98
    """Share of a packed row that documents fill."""

    def device(self, precision: Literal["float32", "bfloat16"] = "bfloat16") -> Gpu:
        """The GPU, with what the settings say otherwise; its `tflops` are those of a format.

        Raises:
            ConfigError: The table has no such name, and not all that it would say is given; or nothing is left of its
                memory.
        """
        try:
            known = find_gpu(self.gpu)
        except ConfigError:
            if self.tflops is None or self.memory is None:
                raise
            known = Gpu(name=self.gpu, tflops=self.tflops, float32=self.tflops, memory=self.memory, link=32.0)
        memory = known.memory if self.memory is None else self.memory
        if self.reserve >= memory:
            raise ConfigError(f"plan.reserve: {self.reserve:g} GB leave nothing of {memory:g} GB ({known.name})")
        peak = known.float32 if precision == "float32" else known.tflops
        return replace(
            known,
            tflops=peak if self.tflops is None else self.tflops,
            memory=memory,
            price=known.price if self.price is None else self.price,
            per_machine=known.per_machine if self.per_machine is None else self.per_machine,
        )
