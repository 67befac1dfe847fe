"""Spreads a model over processes: what is split, gathered, added up, and computed again. All by torch's `fully_shard`.

`ddp`, `fsdp` and `hsdp` are one mechanism on different rectangles of processes (`costs.sharding.Mesh`): a row of one
process splits nothing. The vision encoder and the resampler, where they do not train, are whole on every process and
never travel.
"""

import functools
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from xgenmm.costs.sharding import Mesh, ParallelConfig, Recompute, mesh_of
from xgenmm.model.vlm import PARTS, XGenMMForConditionalGeneration
from xgenmm.phases import phase
from xgenmm.training.precision import Precision, autocast
from xgenmm.training.ranks import PATIENCE

_KEPT = {
    *("aten::mm", "aten::addmm", "aten::_scaled_dot_product_flash_attention_for_cpu"),
    *("aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_efficient_attention"),
    *("aten::_scaled_dot_product_cudnn_attention", "torch_attn::_varlen_attn"),
}
"""What `selective` keeps: what linear layers and fused attention give. Products of many small matrices are attention
written out (our own on a CPU in bfloat16, transformers' `eager`): to keep them would be to keep all scores.
"""
STAYING = ("documents", "branches", "targets", "image_layouts")
"""Arguments of the model that say where things stand: what `to_device` leaves on the CPU."""


@contextmanager
def processes() -> Iterator[torch.device]:
    """Join the processes that `torchrun` has started, if it has and nobody has joined yet; gives this one's device."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ or dist.is_initialized():
        yield device
        return
    cuda = device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE, device_id=device if cuda else None
    )
    try:
        yield device
    except BaseException:
        # On GPUs leaving in order waits for the others, who may wait for what this process will never send.
        if not cuda:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def current_mesh(config: ParallelConfig) -> Mesh:
    """The rectangle of the processes that there are.

    Raises:
        ConfigError: Machines have unequally many processes.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    return mesh_of(config, world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))


def spread(
    model: XGenMMForConditionalGeneration, config: ParallelConfig, precision: Precision, device: torch.device
) -> None:
    """Put a model on its device, in its final form for training; with several processes, only a part of it.

    Args:
        model: On the CPU, with `requires_grad` set on what trains. Is changed in place; names stay as they are.
        config: How.
        precision: Of computation. With several processes, weights arrive in it; alone, autocast rounds them.
        device: This process's.
    """
    for part, kind in config.recompute.items():
        for block in blocks_of(model.get_submodule(PARTS[part])):
            compute_again(block, kind)
    if config.compile:
        for part in PARTS.values():
            for block in blocks_of(model.get_submodule(part)):
                block.compile()
    if dist.is_initialized():
        _split(model, config, precision, device)
    else:
        nn.Module.to(model, device)


def blocks_of(part: nn.Module) -> list[nn.Module]:
    """The blocks of a part: modules that transformers would not split over devices, or a resampler's layers.

    What stands for itself (embeddings, a pooling head) is no block of a stack.
    """
    kinds = set(getattr(part, "_no_split_modules", None) or ())
    stacks = [module for module in part.modules() if isinstance(module, nn.ModuleList)]
    members = [block for stack in stacks for block in stack if not kinds or type(block).__name__ in kinds]
    inner = {id(module) for block in members for module in block.modules() if module is not block}
    return [block for block in members if id(block) not in inner]


def compute_again(block: nn.Module, kind: Recompute) -> None:
    """Let a block keep less for its backward pass and compute it again instead."""
    if kind == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    method: Any = block.forward
    forward = method.__func__  # not bound to this block: a copy of it must compute with the copy's weights

    @functools.wraps(forward)
    def again(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(self, *args, **kwargs)
        return checkpoint(functools.partial(forward, self), *args, **options, **kwargs)

    block.forward = MethodType(again, block)


def computing(model: nn.Module, device: torch.device, precision: Precision) -> torch.autocast:
    """Around a forward pass: autocast, unless weights come in the format that is computed with."""
    return autocast(device, "float32" if isinstance(model, FSDPModule) else precision)


@contextmanager
def asked_in_parts(model: nn.Module) -> Iterator[None]:
    """Around calls of a model's parts, such as its table of embeddings, which otherwise are together only while all of
    it computes. Its blocks still come together one by one, so all processes must ask the same in the same order."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_reshard_after_forward(False, recurse=False)
    model.unshard()
    try:
        yield
    finally:
        model.set_reshard_after_forward(True, recurse=False)
        model.reshard()


@contextmanager
def adding_up(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Around a forward and backward pass: processes add up their gradients after a step's last pass only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_is_last_backward(last)
    yield


def _split(
    model: XGenMMForConditionalGeneration, config: ParallelConfig, precision: Precision, device: torch.device
) -> None:
    rectangle = current_mesh(config)
    mesh = init_device_mesh(device.type, (rectangle.replicas, rectangle.shards), mesh_dim_names=("replicas", "shards"))
    dtype = getattr(torch, precision)
    options: dict[str, Any] = {
        "mesh": mesh,
        # Everything is cast where it enters: pixels, features and embeddings come in the format of the weights anyway.
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=getattr(torch, config.reduce), cast_forward_inputs=False
        ),
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if config.offload else OffloadPolicy(),
    }
    parts = [model.get_submodule(name) for name in PARTS.values()]
    split = [part for part in parts if part is model.language_model or _learns(part)]
    everywhere = {parameter for part in parts if part not in split for parameter in part.parameters()}
    for part in parts:
        if part not in split:
            part.to(device)
    for part in split:
        for block in blocks_of(part):
            fully_shard(block, **options)
    # What is left: tables, latents, last norms. By default they would stay put together until a backward pass, so that
    # after a pass without one (a reference, an evaluation) whoever asks for parameters would get other ones.
    fully_shard(model, ignored_params=everywhere, reshard_after_forward=True, **options)
    _place_buffers(model, device)
    hold_back(model, STAYING)
    model.computes_on = device
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Losses are sums, so gradients are added up and not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            # A process whose rows never touch a weight sends zeros for it.
            module.set_reduce_scatter_unused_params(True, recurse=False)
            _tell_communication(module)
    model.always_looks = _learns(model.vision_tokenizer) or _learns(model.vision_encoder)


@dataclass(frozen=True)
class _Held:
    """A tensor in a wrapping that FSDP does not open."""

    tensor: Any


def hold_back(module: nn.Module, names: Collection[str]) -> None:
    """Keep arguments of a split module's forward pass where they are.

    FSDP sends all tensors that it sees to the GPU, also those whose place is the CPU, where they are read: which would
    then wait for all that the GPU still has to do.
    """

    def hold(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {name: _Held(value) if name in names else value for name, value in kwargs.items()}

    def let_go(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {name: value.tensor if isinstance(value, _Held) else value for name, value in kwargs.items()}

    module.register_forward_pre_hook(hold, prepend=True, with_kwargs=True)
    module.register_forward_pre_hook(let_go, with_kwargs=True)


def _tell_communication(module: FSDPModule) -> None:
    """Let the time that a module waits for other processes count as communication.

    torch has no place where to ask for it. On a CPU these calls send and wait; on a GPU they only make the queue wait
    for what is sent beside it, so that what hides behind computation counts for nothing.
    """
    for group in module._get_fsdp_state()._fsdp_param_groups:
        for name in ("unshard", "wait_for_unshard", "post_backward", "finalize_backward"):
            setattr(group, name, phase("communication")(getattr(group, name)))


def _learns(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _place_buffers(model: nn.Module, device: torch.device) -> None:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device), persistent=name not in module._non_persistent_buffers_set)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:  # noqa: ARG001
    return CheckpointPolicy.MUST_SAVE if operation.name() in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
