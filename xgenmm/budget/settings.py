"""What `xgenmm plan` assumes where nobody has measured yet."""

from dataclasses import dataclass

from xgenmm.config import ConfigError
from xgenmm.costs.gpus import Gpu, find_gpu


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Assumptions of `xgenmm plan`; training does not read them."""

    gpu: str = "H100"
    """A name of the table in `costs/gpus.py`."""
    gpus: int | None = None
    """How many; by default the smallest number that fits, and a table of others."""
    per_machine: int | None = None
    """GPUs of one machine; by default what is usual for the GPU."""
    tflops: float | None = None
    """Peak of one GPU in TFLOP/s, instead of the table's."""
    memory: float | None = None
    """GB of one GPU, instead of the table's."""
    price: float | None = None
    """Dollars an hour for one GPU, instead of the table's, which is an assumption."""
    mfu: float = 0.4
    """Share of the peak that useful operations reach while nobody waits for the network. torchtitan states 33 to 39 %
    for Llama 3 of 8 B on H100s without float8; packed rows without padding lose nothing beside that."""
    reserve: float = 3.0
    """GB of each GPU that are nobody's: context, communication buffers, gaps between blocks of memory."""
    document_tokens: int = 2048
    """Tokens of a document, vision tokens included, where no index of the data says it."""
    vision_share: float = 0.5
    """Share of vision tokens among them."""
    supervised_share: float = 1.0
    """Share of a document's text that is supervised."""
    fill: float = 0.98
    """Share of a packed row that documents fill."""

    def __post_init__(self) -> None:
        for name in ("mfu", "fill"):
            if not 0 < vars(self)[name] <= 1:
                raise ConfigError(f"plan.{name}: {vars(self)[name]} must be above 0 and at most 1")
        for name in ("vision_share", "supervised_share"):
            if not 0 <= vars(self)[name] <= 1:
                raise ConfigError(f"plan.{name}: {vars(self)[name]} must be between 0 and 1")
        if self.document_tokens < 1 or (self.gpus is not None and self.gpus < 1):
            raise ConfigError("plan: document_tokens and gpus must be at least 1")

    def device(self) -> Gpu:
        """The GPU, with what the settings say otherwise.

        Raises:
            ConfigError: The table has no such name, and not all that it would say is given.
        """
        if self.tflops is not None and self.memory is not None:
            known = Gpu(name=self.gpu, tflops=self.tflops, memory=self.memory, link=32.0)
        else:
            known = find_gpu(self.gpu)
        return Gpu(
            name=known.name,
            tflops=known.tflops if self.tflops is None else self.tflops,
            memory=known.memory if self.memory is None else self.memory,
            link=known.link,
            network=known.network,
            price=known.price if self.price is None else self.price,
            per_machine=known.per_machine if self.per_machine is None else self.per_machine,
        )
