"""Devices by name: what they can do, and what an hour of them costs."""

from collections.abc import Mapping
from dataclasses import dataclass

from xgenmm.config import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a device can do."""

    name: str
    tflops: float
    """bfloat16, dense, in TFLOP/s, as its maker states it."""
    memory: float
    """GB (10^9 bytes)."""
    link: float
    """GB/s in each direction to the other devices of its machine."""
    network: float = 50.0
    """GB/s in each direction to other machines: 400 Gbit/s a device."""
    price: float = 0.0
    """Dollars an hour. An assumption: what renting one cost in 2026, roughly. `plan.price` is yours."""
    per_machine: int = 8


GPUS: Mapping[str, Gpu] = {
    gpu.name.lower().replace(" ", ""): gpu
    for gpu in (
        Gpu(name="H100", tflops=989.4, memory=80.0, link=450.0, price=2.5),
        Gpu(name="H200", tflops=989.4, memory=141.0, link=450.0, price=3.2),
        Gpu(name="H100 PCIe", tflops=756.0, memory=80.0, link=64.0, network=25.0, price=2.2),
        Gpu(name="A100", tflops=312.0, memory=80.0, link=300.0, network=25.0, price=1.5),
        Gpu(name="A100 40GB", tflops=312.0, memory=40.0, link=300.0, network=25.0, price=1.2),
        Gpu(name="B200", tflops=2250.0, memory=180.0, link=900.0, price=5.0),
        Gpu(name="MI300X", tflops=1307.0, memory=192.0, link=448.0, price=2.5),
        Gpu(name="L40S", tflops=362.0, memory=48.0, link=32.0, network=25.0, price=0.9),
        Gpu(name="L4", tflops=121.0, memory=24.0, link=32.0, network=12.5, price=0.5),
        Gpu(name="A10G", tflops=70.0, memory=24.0, link=32.0, network=12.5, price=0.7),
        Gpu(name="RTX 4090", tflops=165.2, memory=24.0, link=32.0, network=12.5, price=0.4),
        Gpu(name="RTX 5090", tflops=209.5, memory=32.0, link=64.0, network=12.5, price=0.7),
        Gpu(name="RTX 3090", tflops=71.0, memory=24.0, link=32.0, network=12.5, price=0.25),
        Gpu(name="V100", tflops=125.0, memory=32.0, link=150.0, network=12.5, price=0.5),
    )
}


def find_gpu(name: str) -> Gpu:
    """The device of this name; spaces, case and "NVIDIA" do not matter, nor what stands behind the name.

    Raises:
        ConfigError: It is not in the table.

    >>> find_gpu("NVIDIA H100 80GB HBM3").tflops
    989.4
    """
    key = name.lower().replace(" ", "").replace("-", "").removeprefix("nvidia").removeprefix("geforce")
    for known in sorted(GPUS, key=len, reverse=True):
        if key.startswith(known):
            return GPUS[known]
    raise ConfigError(
        f'plan.gpu: "{name}" is not in the table; {nearest(key, GPUS)}; or give plan.tflops, plan.memory and plan.price'
    )
