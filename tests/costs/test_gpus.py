"""GPUs by name: as people and drivers write them, and no device by the name of another."""

import pytest

from xgenmm.config import ConfigError
from xgenmm.costs.gpus import GPUS, find_gpu


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("H100 SXM5", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("h100pcie", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("A100", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        *((name, name) for name in GPUS),
    ],
)
def test_a_name_as_it_is_written(name, known):
    assert find_gpu(name) is GPUS[known]


@pytest.mark.parametrize(
    "name",
    [
        *("NVIDIA L40", "L4000", "H1000", "A1000", "NVIDIA A10", "V100S", "NVIDIA GH200 480GB", "MI300A", ""),
        *("NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM2e", "NVIDIA A100-SXM-64GB"),
        *("Tesla V100-SXM2-16GB", "Tesla V100-PCIE-32GB", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"),
        *("NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU"),
    ],
)
def test_another_device_is_not_taken_for_one_of_the_table(name):
    with pytest.raises(ConfigError, match=r"is not in the table; .*or give plan\.tflops"):
        find_gpu(name)


@pytest.mark.parametrize(
    ("name", "offered"), [("H1000", "H100"), ("nvidia l40", "L40S"), ("rtx 3090 ti", "RTX 3090"), ("A1000", "A100")]
)
def test_the_nearest_name_is_offered(name, offered):
    with pytest.raises(ConfigError, match=f'did you mean "{offered}"'):
        find_gpu(name)
