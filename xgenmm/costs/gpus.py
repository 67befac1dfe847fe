"""Devices by name: what they can do, and what an hour of them costs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from xgenmm.config import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a device can do."""

    name: str
    tflops: float
    """bfloat16, dense, in TFLOP/s, as its maker states it."""
    float32: float
    """The same in float32, without rounding to TF32, which torch does not do unasked."""
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
    gpu.name: gpu
    for gpu in (
        Gpu(name="H100", tflops=989.4, float32=67.0, memory=80.0, link=450.0, price=2.5),
        Gpu(name="H200", tflops=989.4, float32=67.0, memory=141.0, link=450.0, price=3.2),
        Gpu(name="H100 PCIe", tflops=756.0, float32=51.0, memory=80.0, link=64.0, network=25.0, price=2.2),
        Gpu(name="A100", tflops=312.0, float32=19.5, memory=80.0, link=300.0, network=25.0, price=1.5),
        Gpu(name="A100 40GB", tflops=312.0, float32=19.5, memory=40.0, link=300.0, network=25.0, price=1.2),
        Gpu(name="A100 PCIe", tflops=312.0, float32=19.5, memory=80.0, link=32.0, network=25.0, price=1.5),
        Gpu(name="A100 PCIe 40GB", tflops=312.0, float32=19.5, memory=40.0, link=32.0, network=25.0, price=1.2),
        Gpu(name="B200", tflops=2250.0, float32=75.0, memory=180.0, link=900.0, price=5.0),
        Gpu(name="MI300X", tflops=1307.0, float32=163.4, memory=192.0, link=448.0, price=2.5),
        Gpu(name="L40S", tflops=362.0, float32=91.6, memory=48.0, link=32.0, network=25.0, price=0.9),
        Gpu(name="L4", tflops=121.0, float32=30.3, memory=24.0, link=32.0, network=12.5, price=0.5),
        Gpu(name="A10G", tflops=70.0, float32=35.0, memory=24.0, link=32.0, network=12.5, price=0.7),
        Gpu(name="RTX 4090", tflops=165.2, float32=82.6, memory=24.0, link=32.0, network=12.5, price=0.4),
        Gpu(name="RTX 5090", tflops=209.5, float32=104.8, memory=32.0, link=64.0, network=12.5, price=0.7),
        Gpu(name="RTX 3090", tflops=71.0, float32=35.6, memory=24.0, link=32.0, network=12.5, price=0.25),
        Gpu(name="V100", tflops=125.0, float32=15.7, memory=32.0, link=150.0, network=12.5, price=0.5),
    )
}


_SAYS_NOTHING = re.compile(r"nvidia|geforce|tesla|amd|instinct|sxm\d?|oam|hbm3e?")
"""Words of a driver's name for a device that do not make it another one. PCIe, NVL, Ti, D, Laptop and MIG do; so does
HBM2e, with which an H100 is not the one of the table."""


def find_gpu(name: str) -> Gpu:
    """The device of this name, as people or drivers write it; case, spaces, hyphens and the maker do not matter.

    A memory that is named must be the device's. What else stands in the name makes another device: better none than
    the wrong one, whose peak every utilisation would hang on.

    Raises:
        ConfigError: It is not in the table.

    >>> find_gpu("NVIDIA H100 80GB HBM3").tflops
    989.4
    >>> find_gpu("NVIDIA A100-SXM4-40GB").memory
    40.0
    """
    product, memory = _words(name)
    for known in GPUS.values():
        if product == _words(known.name)[0] and memory in (None, known.memory):
            return known
    raise ConfigError(
        f'plan.gpu: "{name}" is not in the table; {nearest(product.upper(), GPUS)}; '
        "or give plan.tflops, plan.memory and plan.price"
    )


def _words(name: str) -> tuple[str, float | None]:
    """What a name says: the product, and its memory in GB if it names one."""
    words = re.split(r"[\s_-]+", name.lower())
    sizes = [word for word in words if re.fullmatch(r"\d+gb", word)]
    product = "".join(word for word in words if word not in sizes and not _SAYS_NOTHING.fullmatch(word))
    return product, float(sizes[0].removesuffix("gb")) if sizes else None
