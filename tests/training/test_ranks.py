"""What the ranks of a run agree on."""

import pytest
import torch.distributed as dist
from ranks import on_ranks

from xgenmm.data.quarantine import read_lines
from xgenmm.training.health import Health, HealthConfig, HealthState, TrainingError
from xgenmm.training.ranks import from_first, gather, highest, rank, world_size
from xgenmm.training.sums import DocumentLoss, Sums


def test_one_alone_agrees_with_itself():
    assert (rank(), world_size()) == (0, 1)
    assert highest(3, 0) == [3, 0]
    assert gather("a") == ["a"]
    assert from_first("a") == "a"


def agree(folder):
    assert (rank(), world_size()) == (dist.get_rank(), 2)
    assert highest(15 if rank() == 1 else 0, rank() == 0) == [15, 1]
    assert gather(f"a{rank()}") == ["a0", "a1"]
    assert from_first(folder if rank() == 0 else None) == folder
    # a loss that is not finite, of all ranks together: all decide the same, and the samples of all are written down
    health, state = Health(HealthConfig(skip_in_row=1), folder), HealthState()
    sums = Sums(losses=[1.0, float("nan")], count=7, documents=[DocumentLoss(id=f"d{rank()}", loss=0.5, targets=3)])
    assert health.examine(state, 4, sums, 1.0).skipped
    with pytest.raises(TrainingError, match=r"step 5: loss nan .* number 2 in a row"):
        health.examine(state, 5, sums, 1.0)
    lines = read_lines(folder / "non_finite.jsonl") if rank() == 0 else []
    dist.barrier()
    found = [(line["step"], line["rank"], line["documents"][0]["id"]) for line in lines]
    assert found == ([(4, 0, "d0"), (4, 1, "d1"), (5, 0, "d0"), (5, 1, "d1")] if rank() == 0 else [])
    # a jump names the highest losses of all ranks
    state = HealthState(losses=(1.0,) * 20)
    documents = [DocumentLoss(id=f"r{rank()}-{number}", loss=10.0 * number + rank(), targets=1) for number in range(6)]
    incident = health.examine(state, 6, Sums(losses=[20.0], count=10, documents=documents), 1.0)
    assert incident.spike == pytest.approx(100.0)  # from 1 to 2, in hundredths of the median
    assert list(incident.ids) == [f"r{r}-{number}" for number in (5, 4, 3, 2) for r in (1, 0)]


@pytest.mark.slow
def test_all_ranks_decide_the_same(tmp_path):
    on_ranks(2, agree, tmp_path)
