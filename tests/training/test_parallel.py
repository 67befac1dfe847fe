"""The same loss and gradients however the work is spread: over micro-batches, processes and kinds of sharding."""

import contextlib
import gc
import importlib
import os

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from toy import make_examples, make_toy_model
from transformers import SiglipVisionConfig, SiglipVisionModel

from xgenmm.config import ConfigError
from xgenmm.costs.sharding import Mesh, ParallelConfig
from xgenmm.model.lora import LoraConfig, whole
from xgenmm.model.vision import encode
from xgenmm.objectives.next_token import NextTokenConfig
from xgenmm.processor.packing import pack
from xgenmm.training import parallel
from xgenmm.training.optim import gradient_norm
from xgenmm.training.parallel import adding_up, blocks_of, compute_again, spread

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
PLAIN, TWO_TILES = (0, 0, 30, 30), (1, 2, 30, 60)
# Eight documents: no picture, one, several, and one of several tiles; so some processes see none in a pass.
PICTURES = [[PLAIN], [], [TWO_TILES], [], [PLAIN, PLAIN], [], [], [TWO_TILES, PLAIN]]
MODES = {
    "paper": {"vision": False, "resampler": True, "language": True},
    "all": {"vision": True, "resampler": True, "language": True},
    "lora": {"vision": False, "resampler": True, "language": "lora"},
    "resampler": {"vision": False, "resampler": True, "language": False},
}


def make(mode):
    """The toy model, its language model's weights halved: sharper ones make more of float32's rounding, and then single
    small parameters differ by up to 1.3e-6 on some processors, with transformers' own layers as with ours.
    """
    model = make_toy_model("llama")
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.ndim == 2:
                parameter.div_(2)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model.set_trainable(**MODES[mode], lora=LoraConfig(rank=2))
    return model.train()


def step(model, micro, rank=0, world=1):
    """One step over the eight documents, as many at once as `micro` says; loss and gradients of this process's part."""
    mine = make_examples(PICTURES)[rank::world]
    batches = [pack(mine[first : first + micro], 0) for first in range(0, len(mine), micro)]
    objective, loss = NextTokenConfig().build(model), 0.0
    for number, batch in enumerate(batches, 1):
        with adding_up(model, last=number == len(batches)):
            output = objective(model, batch)
            if output.loss.requires_grad:  # alone, a pass without pictures teaches a resampler nothing
                output.loss.backward()
        loss += output.loss.item()
    return loss


def gradients(model):
    """Of every parameter that trains, whole; one that no document touches has none, which is as good as 0."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: torch.zeros(p.shape) if p.grad is None else whole(p.grad) for name, p in found.items()}


def assert_same(found, expected):
    (loss, some), (expected_loss, others) = found, expected
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert some.keys() == others.keys()
    # What is little but rounding (the gradient of a key's bias) is compared with the whole gradient.
    length = torch.linalg.vector_norm(torch.stack([other.norm() for other in others.values()]))
    for name, other in others.items():
        assert (some[name] - other).norm() <= 1e-6 * max(other.norm(), 0.01 * length), name


@pytest.fixture(scope="module")
def alone():
    """Loss and gradients of each mode, in one process and one pass."""
    found = {}
    for mode in MODES:
        model = make(mode)
        found[mode] = (step(model, micro=8), gradients(model))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_add_up(alone, mode, micro):
    model = make(mode)
    assert_same((step(model, micro), gradients(model)), alone[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["selective", "full"])
def test_what_is_computed_again_is_the_same(alone, kind, mode):
    model = make(mode)
    spread(model, ParallelConfig(recompute=dict.fromkeys(MODES[mode], kind)), "float32", torch.device("cpu"))
    found = (step(model, micro=8), gradients(model))
    assert found[0] == alone[mode][0]
    assert all(torch.equal(found[1][name], gradient) for name, gradient in alone[mode][1].items())


@pytest.mark.parametrize("mode", ["all", "lora"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["selective", "full"])
def test_what_is_computed_again_in_bfloat16_is_the_same(kind, attention, mode):
    """There attention is written out, with masks, on a CPU: that of the encoder, the resampler and packed rows."""
    found = []
    for recompute in ({}, dict.fromkeys(MODES[mode], kind)):
        model = make(mode)
        for part in (model.vision_encoder, model.language_model):
            part.set_attn_implementation(attention)
        model.config.regroup = "strips"  # several tiles of which some are padding: the resampler has a mask
        spread(model, ParallelConfig(recompute=recompute), "bfloat16", torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16):
            found.append((step(model, micro=8), gradients(model)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[1][1][name], gradient) for name, gradient in found[0][1].items())


def test_selective_keeps_no_scores():
    """Not even in bfloat16 on a CPU, where attention is written out."""
    encoder = SiglipVisionModel(SiglipVisionConfig(**SMALL, num_hidden_layers=2, image_size=224, patch_size=14))
    for block in blocks_of(encoder):
        compute_again(block, "selective")
    with torch.autocast("cpu", torch.bfloat16):
        features = encode(encoder, torch.randn(2, 3, 224, 224))
    kept = [tuple(thing.shape) for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    assert features.requires_grad
    assert (2 * 256, 64) in kept  # what the first half of a feed-forward layer gives, of all patches
    assert not [shape for shape in kept if shape[-2:] == (256, 256)]


def test_what_selective_keeps_has_the_names_that_torch_has():
    """Attention of documents on GPUs among them, whose operation is known once its module is imported."""
    importlib.import_module("torch.nn.attention.varlen")
    for name in parallel._KEPT:
        namespace, operation = name.split("::")
        assert getattr(getattr(torch.ops, namespace), operation).default.name() == name


def test_a_reference_keeps_its_weights_where_blocks_are_computed_again():
    model = make("all")
    spread(model, ParallelConfig(recompute=dict.fromkeys(MODES["all"], "full")), "float32", torch.device("cpu"))
    batch, reference = pack(make_examples(PICTURES), 0), model.frozen_reference()
    inputs = {**batch.inputs(), "targets": batch.labels[None]}
    before = reference(**inputs).loss
    with torch.no_grad():
        for block in blocks_of(model.language_model):
            for parameter in block.parameters():
                parameter.mul_(2)
    assert torch.equal(reference(**inputs).loss, before)
    assert not torch.equal(model(**inputs).loss, before)


def test_blocks_are_those_that_repeat():
    model = make_toy_model("llama")
    names = [
        [type(block).__name__ for block in blocks_of(part)]
        for part in (model.vision_encoder, model.vision_tokenizer, model.language_model)
    ]
    assert names == [["SiglipEncoderLayer"] * 2, ["PerceiverLayer"] * 2, ["LlamaDecoderLayer"] * 2]


def test_less_is_kept_for_the_backward_pass():
    kept = {}
    for kind in ("none", "full"):
        model = make("paper")
        for block in blocks_of(model.language_model):
            compute_again(block, kind)
        sizes = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        batch = pack(make_examples(PICTURES), 0)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            NextTokenConfig().build(model)(model, batch)
        kept[kind] = sum(sizes.values())
    assert kept["full"] < 0.6 * kept["none"]


# ------------------------------------------------------------------ with several processes


def share(folder, mode, config, micro, machine):
    """What one process does: its part of the step, and all gradients put together into a file."""
    os.environ["LOCAL_WORLD_SIZE"] = str(machine)
    rank, world = dist.get_rank(), dist.get_world_size()
    model = make(mode)
    spread(model, config, "float32", torch.device("cpu"))
    loss = torch.tensor(step(model, micro, rank, world), dtype=torch.float64)
    dist.all_reduce(loss)
    norm = gradient_norm([parameter for parameter in model.parameters() if parameter.requires_grad])
    found = gradients(model)
    if rank == 0:
        torch.save((loss.item(), found, norm.item()), folder / "found.pt")


SPREADS = [
    (2, "fsdp", {}, 1, 2),
    (2, "ddp", {}, 2, 2),
    (4, "hsdp", {"language": "full", "resampler": "selective", "vision": "full"}, 1, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("world", "strategy", "again", "micro", "machine"), SPREADS)
def test_processes_add_up(alone, tmp_path, mode, world, strategy, again, micro, machine):
    if mode not in ("paper", "all") and world == 4:
        pytest.skip("two processes show it")
    on_ranks(world, share, tmp_path, mode, ParallelConfig(strategy=strategy, recompute=again), micro, machine)
    loss, found, norm = torch.load(tmp_path / "found.pt")
    assert_same((loss, found), alone[mode])
    lengths = torch.stack([gradient.norm() for gradient in alone[mode][1].values()])
    assert norm == pytest.approx(torch.linalg.vector_norm(lengths).item(), rel=1e-6)


@pytest.mark.slow
def test_states_in_the_cpus_memory_teach_the_same(alone, tmp_path):
    on_ranks(2, share, tmp_path, "paper", ParallelConfig(strategy="fsdp", offload=True), 2, 2)
    assert_same(torch.load(tmp_path / "found.pt")[:2], alone["paper"])


def share_compiled(folder, config):
    """As `share`, but blocks are only traced and not translated into machine code, which would take minutes."""
    compile_block = torch.nn.Module.compile
    torch.nn.Module.compile = lambda module: compile_block(module, backend="aot_eager")
    share(folder, "paper", config, 2, 2)
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    if dist.get_rank() == 0:
        (folder / "graphs").write_text(str(counted))


@pytest.mark.slow
def test_compiled_blocks_teach_the_same(alone, tmp_path):
    on_ranks(2, share_compiled, tmp_path, ParallelConfig(strategy="fsdp", compile=True))
    assert_same(torch.load(tmp_path / "found.pt")[:2], alone["paper"])
    assert int((tmp_path / "graphs").read_text()) >= 2  # a block of the resampler and one of the language model


def share_rounded(folder):
    rank, world = dist.get_rank(), dist.get_world_size()
    model = make("paper")
    model.to_compute_dtype(torch.bfloat16)
    spread(model, ParallelConfig(strategy="fsdp"), "bfloat16", torch.device("cpu"))
    loss = torch.tensor(step(model, 2, rank, world), dtype=torch.float64)
    dist.all_reduce(loss)
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    kinds |= {parameter.grad.dtype for parameter in model.parameters() if parameter.requires_grad}
    found = gradients(model)
    if rank == 0:
        torch.save((loss.item(), found, kinds), folder / "found.pt")


@pytest.mark.slow
def test_bfloat16_rounds_what_is_computed_and_not_what_learns(alone, tmp_path):
    on_ranks(2, share_rounded, tmp_path)
    loss, found, kinds = torch.load(tmp_path / "found.pt")
    assert kinds == {torch.float32}
    expected_loss, expected = alone["paper"]
    # 8 bits of significand are 2^-9 = 0.002 a rounding; some tens of them stand between a pixel and the loss
    assert loss == pytest.approx(expected_loss, rel=0.01)
    assert loss != pytest.approx(expected_loss, rel=1e-6)
    whole = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in expected.values()]))
    apart = torch.linalg.vector_norm(torch.stack([(found[name] - expected[name]).norm() for name in expected]))
    assert apart < 0.05 * whole


def show_mesh(folder, config, machine):
    os.environ["LOCAL_WORLD_SIZE"] = str(machine)
    model = make("paper")
    spread(model, config, "float32", torch.device("cpu"))
    weight = model.language_model.get_input_embeddings().weight
    shape = (tuple(weight.device_mesh.shape), tuple(weight.to_local().shape), tuple(weight.shape))
    frozen = type(next(model.vision_encoder.parameters())).__name__
    if dist.get_rank() == 0:
        torch.save((shape, frozen), folder / "mesh.pt")


@pytest.mark.slow
def test_states_are_split_along_a_row(tmp_path):
    # 288 rows of the table: all of them on every process, a quarter each, or halves on two machines of two.
    for strategy, mesh, rows in (("ddp", (4, 1), 288), ("fsdp", (1, 4), 72), ("hsdp", (2, 2), 144)):
        on_ranks(4, show_mesh, tmp_path, ParallelConfig(strategy=strategy), 2)
        (shape, frozen) = torch.load(tmp_path / "mesh.pt")
        assert shape == (mesh, (rows, 32), (288, 32))
        assert frozen == "Parameter"  # the encoder is whole everywhere


def mixed_steps(folder, steps):
    """Steps whose documents have pictures or not by chance, on every process differently."""
    rank = dist.get_rank()
    model = make("paper")
    spread(model, ParallelConfig(), "float32", torch.device("cpu"))
    objective = NextTokenConfig().build(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for number in range(steps):
        choice = torch.Generator().manual_seed(1000 * number + rank)
        for last in (False, True):
            pictures = [[PLAIN] * int(torch.randint(0, 3, (), generator=choice)) for _ in range(2)]
            with adding_up(model, last=last):
                objective(model, pack(make_examples(pictures, length=16, seed=number), 0)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    (folder / f"done-{rank}").write_text(str(steps))


@pytest.mark.slow
def test_processes_with_and_without_pictures_never_wait_for_each_other(tmp_path):
    on_ranks(2, mixed_steps, tmp_path, 15)
    assert [path.read_text() for path in sorted(tmp_path.glob("done-*"))] == ["15", "15"]


def test_settings_that_contradict_each_other():
    with pytest.raises(ConfigError, match="offload"):
        ParallelConfig(strategy="ddp", offload=True)
    assert not Mesh(replicas=4, shards=1).splits


# ---- what only GPUs ask for; none is here ----


def test_what_stays_on_the_cpu_is_not_shown_to_fsdp():
    """Its own hook, which sends tensors to the GPU, runs before every other one that is there."""
    module, sent, arrived = torch.nn.Identity(), {}, {}
    module.forward = lambda **inputs: arrived.update(inputs)
    module.register_forward_pre_hook(lambda _, __, kwargs: sent.update(kwargs), prepend=True, with_kwargs=True)
    parallel.hold_back(module, parallel.STAYING)
    given = {name: torch.zeros(2) for name in (*parallel.STAYING, "input_ids", "pixel_values")} | {"branches": None}
    module(**given)
    assert {name for name, value in sent.items() if isinstance(value, torch.Tensor)} == {"input_ids", "pixel_values"}
    assert arrived.keys() == given.keys()
    assert all(arrived[name] is given[name] for name in given)


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_who_fails_on_a_gpu_waits_for_nobody(gpu, fails, monkeypatch):
    left = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append(True))
    with pytest.raises(MemoryError) if fails else contextlib.nullcontext(), parallel.processes() as device:
        assert device == torch.device("cuda:1" if gpu else "cpu")
        if fails:
            raise MemoryError
    assert bool(left) != (gpu and fails)


def test_a_model_computes_where_it_was_spread_to():
    model = make("paper")
    assert model.device == torch.device("cpu")
    model.computes_on = torch.device("cuda", 3)
    assert model.device == torch.device("cuda:3")
