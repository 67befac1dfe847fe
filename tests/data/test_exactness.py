"""Step N is the same whoever reads it and whatever happened before: after a kill, on other threads, on other ranks."""

import json
import multiprocessing
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranks import on_ranks
from reading import BROKEN, REFUSED, digests, open_loader, read_as_rank, train, write_sources

STEPS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sources")
    write_sources(made)
    return made


@pytest.fixture(scope="module")
def straight(toy_folder, folder):
    """What each step holds when nothing happens: digests, and the documents that could not be read. By mixture."""

    def read(weighted):
        loader = open_loader(toy_folder, folder, weighted=weighted, threads=1)
        return [(digests(step), sorted(fault.id for fault in step.faults)) for step in loader.steps(0, STEPS)]

    return {weighted: read(weighted) for weighted in (False, True)}


def test_there_are_bad_records_in_between(toy_folder, folder, straight):
    """Else the tests below would say less than they seem to."""
    loader = open_loader(toy_folder, folder)
    refused = {fault.id for fault in loader.shard_faults()}
    assert refused == {*(f"noise/noise.tar:{n:02}" for n in REFUSED), *(f"talks/talks.json:{n}" for n in (4, 13, 14))}
    assert loader.sources[1].index.lengths.pieces is not None  # and one that is longer than a row
    for steps in straight.values():
        assert {name for _, bad in steps for name in bad} == {f"noise/noise.tar:{n:02}" for n in BROKEN}


@pytest.mark.parametrize("weighted", [False, True])
def test_killed_at_any_step_it_goes_on_as_if_nothing_had_happened(toy_folder, folder, straight, tmp_path, weighted):
    """Twenty times kill -9, each of another run than the last or of one that was killed before."""
    draw = random.Random(int(weighted))
    context = multiprocessing.get_context("forkserver")
    kills, runs = 0, 0
    while kills < 10:
        log = tmp_path / f"{runs}.jsonl"
        runs += 1
        while not log.exists() or lines(log)[-1][0] < STEPS - 1:
            arguments = toy_folder, folder, log, STEPS, {"weighted": weighted, "threads": draw.randint(1, 3)}
            process = context.Process(target=train, args=arguments)
            process.start()
            if kills < 10:
                at = draw.randint(0, STEPS)
                while process.is_alive() and not (log.exists() and len(lines(log)) > at):
                    time.sleep(0.001)
                process.kill()
            process.join(120)
            kills += process.exitcode == -9
            assert process.exitcode in (0, -9)
        seen = lines(log)
        assert [number for number, *_ in seen] == sorted(number for number, *_ in seen)  # at most one step comes twice
        assert {number for number, *_ in seen} == set(range(STEPS))
        for number, found, bad in seen:
            assert (found, bad) == straight[weighted][number]


def lines(log):
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] or [[-1]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_ranks_together_read_the_same_global_batches(toy_folder, folder, straight, weighted, world_size):
    ranks = [
        open_loader(toy_folder, folder, weighted=weighted, rank=rank, world_size=world_size, threads=1 + rank % 3)
        for rank in range(world_size)
    ]
    for number, parts in enumerate(zip(*(loader.steps(0, 12) for loader in ranks), strict=True)):
        found, bad = straight[weighted][number]
        assert sorted(digest for part in parts for digest in digests(part)) == sorted(found)
        assert sorted(fault.id for part in parts for fault in part.faults) == bad


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weighted=st.booleans(),
    stop=st.integers(1, STEPS - 2),
    before=st.sampled_from([1, 2, 3, 4, 8]),
    after=st.sampled_from([1, 2, 3, 4, 8]),
    threads=st.integers(1, 3),
    length=st.integers(1, 6),
    with_state=st.booleans(),
)
def test_a_run_goes_on_with_another_number_of_ranks_where_it_stopped(
    toy_folder, folder, straight, weighted, stop, before, after, threads, length, with_state
):
    """With the state of any rank of before, or with none at all, any rank of after has its part of what comes next."""
    first = open_loader(toy_folder, folder, weighted=weighted, rank=before - 1, world_size=before, threads=threads)
    (last,) = first.steps(stop - 1, stop)
    plan = json.loads(json.dumps(last.plan)) if with_state else None  # as a checkpoint gives it back
    end = min(stop + length, STEPS)
    parts = [
        list(
            open_loader(
                toy_folder, folder, weighted=weighted, rank=rank, world_size=after, threads=threads
            ).steps(stop, end, plan)
        )
        for rank in range(after)
    ]  # fmt: skip
    for number, shared in enumerate(zip(*parts, strict=True), start=stop):
        assert sorted(digest for one in shared for digest in digests(one)) == sorted(straight[weighted][number][0])


def test_two_processes_of_a_group_read_the_same_global_batches(toy_folder, folder, straight):
    on_ranks(2, read_as_rank, folder, toy_folder, 12)
    seen = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    for number, parts in enumerate(zip(*seen, strict=True)):
        found, bad = straight[True][number]
        assert sorted(digest for digests, _ in parts for digest in digests) == sorted(found)
        assert sorted(name for _, names in parts for name in names) == bad
