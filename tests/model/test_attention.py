"""All ways to compute attention in a packed row give what one dense mask gives, and so do their gradients."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM

from xgenmm.model import attention, gpu_attention
from xgenmm.model.attention import attend, attend_from_one, segment_attention, use_packed_attention
from xgenmm.model.blocks import BLOCK, block_attention
from xgenmm.model.gpu_attention import block_mask, document_begins, flex_attention_of, varlen_attention
from xgenmm.model.layout import Layout, Scores, layout_of
from xgenmm.model.products import small_attention

SHORT = [[7], [30], [1], [31], [29], [12]]
"""Documents by the lengths of trunk and branches."""
LONG = [[300], [40], [2 * BLOCK], [BLOCK], [BLOCK + 1]]
TREES = [[20, 5, 9], [33], [0, 4, 6], [150, 90, 200, 3, 60], [20, 140, 1], [18, 7, 7]]
ROWS = {"short": (SHORT, 0), "long": (LONG, 0), "trees": (TREES, 0), "padded": (SHORT + TREES[:4], 9)}


def make_layout(documents: list[list[int]], padding: int = 0) -> Layout:
    owners, branches = [], []
    for number, parts in enumerate(documents):
        owners += [number] * sum(parts)
        branches += [branch for branch, length in enumerate(parts) for _ in range(length)]
    return layout_of(torch.tensor(owners + [-1] * padding), torch.tensor(branches + [0] * padding))


def make_inputs(
    length: int,
    dtype: torch.dtype = torch.float32,
    heads: int = 6,
    shared: int = 3,
    widths: tuple[int, int] = (16, 8),
) -> list[Tensor]:
    """Queries, keys and values; `widths` are those of the first two and of the third."""
    generator = torch.Generator().manual_seed(0)
    sizes = (heads, widths[0]), (heads // shared, widths[0]), (heads // shared, widths[1])
    return [torch.randn(length, *size, generator=generator).to(dtype).requires_grad_() for size in sizes]


def dense(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """With a mask of all pairs, written down from its definition, in float64."""
    q, k, v = (x.double() for x in (query, key, value))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    visible = torch.zeros(layout.length, layout.length, dtype=torch.bool)
    for segment in layout.segments:
        # every path through a document is a plain text of its own
        trunk = list(range(segment.start, segment.start + segment.trunk))
        begin = segment.start + segment.trunk
        for length in segment.branches or (0,):
            path = torch.tensor([*trunk, *range(begin, begin + length)])
            order = torch.arange(len(path))
            seen = order[:, None] >= order
            if window is not None:
                seen &= order[:, None] - order < window
            visible[path[:, None], path] = seen
            begin += length
    scores = torch.einsum("qhd,khd->hqk", q, k) / 4
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    chances = scores.masked_fill(~visible, float("-inf")).softmax(-1).nan_to_num(0)
    return torch.einsum("hqk,khd->qhd", chances, v)


def gradients(output: Tensor, inputs: list[Tensor], layout: Layout) -> list[Tensor]:
    """With respect to all inputs; what padding gives counts for nothing."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights[layout.tokens :] = 0
    return list(torch.autograd.grad((output * weights).sum(), inputs))


@pytest.mark.parametrize("options", [{}, {"window": 10}, {"window": 140}, {"softcap": 0.7}])
@pytest.mark.parametrize("row", ROWS)
def test_blocks_are_the_dense_mask(row: str, options: dict[str, float]):
    layout = make_layout(*ROWS[row])
    inputs = make_inputs(layout.length)
    output, expected = (
        block_attention(*inputs, layout, Scores(scale=1 / 4, **options)),
        dense(*inputs, layout, **options),
    )
    torch.testing.assert_close(output, expected.float(), rtol=0, atol=2e-6)
    for found, wanted in zip(gradients(output, inputs, layout), gradients(expected, inputs, layout), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 10])
@pytest.mark.parametrize("row", ROWS)
def test_segments_are_the_dense_mask(row: str, window: int | None):
    layout = make_layout(*ROWS[row])
    inputs = make_inputs(layout.length)
    output = segment_attention(*inputs, layout, Scores(scale=1 / 4, window=window))
    expected = dense(*inputs, layout, window)
    torch.testing.assert_close(output, expected.float(), rtol=0, atol=2e-6)
    for found, wanted in zip(gradients(output, inputs, layout), gradients(expected, inputs, layout), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("options", [{}, {"window": 10}, {"softcap": 0.7}])
@pytest.mark.parametrize("row", ROWS)
def test_flex_attention_is_the_dense_mask(row: str, options: dict[str, float], monkeypatch):
    # There is no fast backward pass on a CPU, so torch refuses; the one that computes all scores is there.
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    layout = make_layout(*ROWS[row])
    inputs = make_inputs(layout.length)
    output = flex_attention_of(*inputs, layout, Scores(scale=1 / 4, **options))
    expected = dense(*inputs, layout, **options)
    torch.testing.assert_close(output[: layout.tokens], expected[: layout.tokens].float(), rtol=0, atol=2e-6)
    for found, wanted in zip(gradients(output, inputs, layout), gradients(expected, inputs, layout), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def varlen_as_documented(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begins: Tensor,
    key_begins: Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What torch's documentation says that `varlen_attn` computes, which needs a GPU: (left, right) neighbours of a
    token are seen beside itself, -1 stands for all.
    """
    assert begins.dtype == key_begins.dtype == torch.int32
    assert enable_gqa or query.shape[1] == key.shape[1]
    left, right = (len(query) if size < 0 else size for size in window_size)
    outputs = []
    for start, stop in zip(begins.tolist(), begins.tolist()[1:], strict=False):
        assert stop - start <= longest == longest_key
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        seen = (distance <= left) & (-distance <= right)
        own = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(own.transpose(0, 1))
    assert begins[-1] == len(query)
    return torch.cat(outputs)


@pytest.mark.parametrize("shared", [1, 3])
@pytest.mark.parametrize("window", [None, 1, 10])
@pytest.mark.parametrize("row", [(SHORT, 0), (LONG, 0), (SHORT, 9)])
def test_what_varlen_is_asked_for_is_the_dense_mask(row, window: int | None, shared: int, monkeypatch):
    monkeypatch.setattr(gpu_attention, "varlen_attn", varlen_as_documented)
    layout = make_layout(*row)
    inputs = make_inputs(layout.length, shared=shared)
    output = varlen_attention(*inputs, layout, Scores(scale=1 / 4, window=window))
    expected = dense(*inputs, layout, window)
    torch.testing.assert_close(output[: layout.tokens], expected[: layout.tokens].float(), rtol=0, atol=2e-6)
    for found, wanted in zip(gradients(output, inputs, layout), gradients(expected, inputs, layout), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("varlen", {}),
        ("varlen", {"window": 10}),
        ("varlen", {"dtype": torch.float16, "width": 96}),
        ("flex", {"dtype": torch.float32}),
        ("flex", {"softcap": 0.7}),
        ("flex", {"row": "trees"}),
        ("flex", {"values": 32}),
        ("flex", {"width": 60}),
        ("flex", {"width": 512}),
        ("flex", {"width": 60, "room": 101_376}),
        ("segment", {"dtype": torch.float32, "room": 101_376}),
        ("segment", {"capability": (7, 5)}),
        ("segment", {"dtype": torch.float32, "width": 8}),
        ("segment", {"row": "trees", "width": 8}),
    ],
)
def test_a_gpu_is_asked_for_what_its_kernels_can(kernel: str, options: dict, monkeypatch):
    """Tensors of a GPU that is not there: they have a type, a shape and a device, and no numbers."""
    row, width, dtype = options.get("row", "short"), options.get("width", 64), options.get("dtype", torch.bfloat16)
    layout = make_layout(*ROWS[row])
    asked = []

    def instead_of(name: str):
        def kernel(query, _key, value, *_):
            asked.append(name)
            return query.new_empty(*query.shape[:2], value.shape[-1])

        monkeypatch.setattr(attention, name, kernel)

    for name in ("varlen_attention", "flex_attention_of", "segment_attention"):
        instead_of(name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: options.get("capability", (8, 0)))
    gpu = SimpleNamespace(shared_memory_per_block_optin=options.get("room", 166_912))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    with FakeTensorMode():
        inputs = [
            torch.empty(layout.length, heads, size, dtype=dtype, device="cuda")
            for heads, size in ((6, width), (2, width), (2, options.get("values", width)))
        ]
        settings = {name: options[name] for name in ("window", "softcap") if name in options}
        attend(*inputs, layout, **settings)
    assert [name.split("_")[0] for name in asked] == [kernel]


def test_flex_attention_skips_blocks_of_other_documents():
    layout = make_layout([[256], [256], [256]])
    mask = block_mask(layout, None, torch.device("cpu"))
    # three documents of two blocks of 128: of each, the first block sees one and the second two
    assert mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum() == 3 * (1 + 2)


def test_begins_of_documents():
    begins, longest = document_begins(make_layout([[7], [30], [1]], padding=2), torch.device("cpu"))
    assert begins.tolist() == [0, 7, 37, 38, 40]
    assert longest == 30


@pytest.mark.parametrize("options", [{}, {"window": 10}, {"softcap": 0.7}])
def test_documents_may_be_given_by_where_they_end(options: dict[str, float]):
    layout = make_layout(SHORT, padding=3)
    inputs = make_inputs(layout.length)
    ends = torch.tensor([0, 7, 37, 38, 69, 98, 110], dtype=torch.int32)
    assert torch.equal(attend(*inputs, ends, **options), attend(*inputs, layout, **options))


@pytest.mark.parametrize("row", ["short", "long", "trees"])
def test_bfloat16_is_rounded_and_nothing_worse(row: str):
    """Scores that are rounded to 8 bits move attention by less than 2^-8 of their size each."""
    layout = make_layout(*ROWS[row])
    inputs = make_inputs(layout.length, torch.bfloat16)
    output, expected = attend(*inputs, layout), dense(*inputs, layout)
    pairs = [(output, expected), *zip(*(gradients(x, inputs, layout) for x in (output, expected)), strict=True)]
    for found, wanted in pairs:
        assert found.dtype == torch.bfloat16
        assert (found.double() - wanted.double()).norm() / wanted.double().norm() < 2**-7


def test_autocast_is_followed_and_does_not_reach_inside():
    layout = make_layout(LONG + TREES)
    inputs = make_inputs(layout.length)
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        output = attend(*inputs, layout)
    expected = attend(*rounded, layout)
    assert torch.equal(output, expected)
    for found, wanted in zip(gradients(output, inputs, layout), gradients(expected, rounded, layout), strict=True):
        assert torch.equal(found, wanted.float())


def test_a_joint_projection_is_not_kept_for_its_values():
    layout = make_layout(SHORT)
    joint = torch.randn(layout.length, 6, 3 * 16, requires_grad=True).mul(1)
    query, key, value = (
        part * 1 if turned else part for part, turned in zip(joint.split(16, -1), (1, 1, 0), strict=True)
    )
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add(x.untyped_storage().nbytes()) or x, lambda x: x):
        output = attend(query, key, value, layout)
    assert query.nbytes in kept
    assert joint.nbytes not in kept
    expected = attend(query, key, value.detach().clone().requires_grad_(), layout)
    assert torch.equal(output, expected)


def test_dropout_drops_and_keeps_the_mean():
    layout = make_layout(SHORT)
    inputs = [tensor.detach() for tensor in make_inputs(layout.length)]
    torch.manual_seed(0)
    drawn = torch.stack([attend(*inputs, layout, dropout=0.3) for _ in range(400)])
    assert drawn.std(dim=0).max() > 0.1
    torch.testing.assert_close(drawn.mean(dim=0), attend(*inputs, layout), rtol=0, atol=0.25)
    with pytest.raises(ValueError, match="no dropout together with a soft cap"):
        attend(*inputs, layout, dropout=0.3, softcap=1.0)


def test_a_cache_in_bfloat16_is_read_that_way(monkeypatch):
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    exact, ids = copy.deepcopy(model), torch.arange(40).reshape(2, 20)
    model.bfloat16()
    use_packed_attention(model)
    calls, own = [], attention.attend_from_one
    monkeypatch.setattr(attention, "attend_from_one", lambda *a, **k: calls.append(1) or own(*a, **k))
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :5] = 0
    with torch.no_grad():
        cache = model(ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True).past_key_values
        assert not calls
        found = model(ids[:, -1:], attention_mask=mask, past_key_values=cache).logits[:, -1]
        wanted = exact(ids, attention_mask=mask).logits[:, -1]
    assert len(calls) == config.num_hidden_layers
    assert (found.float() - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("mask", ["none", "added", "seen"])
@pytest.mark.parametrize("key_heads", [6, 2, 1])
@pytest.mark.parametrize("autocast", [False, True])
def test_one_new_token_sees_what_torch_s_own_attention_sees(mask: str, key_heads: int, autocast: bool):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 1, 16, generator=generator)
    key, value = (torch.randn(3, key_heads, 40, 16, generator=generator) for _ in range(2))
    seen = torch.arange(40) >= torch.tensor([0, 7, 30])[:, None, None, None]
    hidden = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.bfloat16).min)
    given = {"none": None, "added": hidden, "seen": seen}[mask]
    exact = torch.nn.functional.scaled_dot_product_attention(
        *(x.bfloat16().double() for x in (query, key, value)),
        attn_mask=given if mask == "seen" else None if given is None else given.double(),
        scale=0.3,
        enable_gqa=True,
    )
    dtype = torch.float32 if autocast else torch.bfloat16
    inputs = [x.bfloat16().to(dtype) for x in (query, key, value)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attend_from_one(*inputs, given if mask != "added" else given.bfloat16(), scale=0.3)
    assert found.dtype == torch.bfloat16
    assert found.shape == (3, 1, 6, 16)
    torch.testing.assert_close(found.double(), exact.transpose(1, 2), rtol=2**-8, atol=1e-6)  # one rounding at the end


@pytest.mark.parametrize("masked", [False, True])
def test_small_attention_is_torch_s_own(masked: bool):
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 3, 7, 16), (2, 3, 20, 16), (2, 3, 20, 16)
    exact = [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    mask = None
    if masked:
        mask = torch.rand(2, 1, 1, 20, generator=generator) > 0.5
    weights = torch.randn(2, 3, 7, 16, generator=generator, dtype=torch.float64)
    results = []
    for inputs in (rounded, exact):
        output = small_attention(*inputs, mask)
        results.append([output, *torch.autograd.grad((output * weights).sum(), inputs)])
    for found, wanted in zip(*results, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.double() - wanted).norm() / wanted.norm() < 2**-6


@pytest.mark.gpu
@pytest.mark.parametrize("widths", [(16, 16), (32, 16), (16, 8)])
@pytest.mark.parametrize("row", ROWS)
def test_a_gpu_gives_what_a_cpu_gives(row: str, widths: tuple[int, int]):
    layout = make_layout(*ROWS[row])
    for dtype, tolerance in ((torch.float32, 2e-3), (torch.bfloat16, 2e-2)):
        inputs = make_inputs(layout.length, dtype, widths=widths)
        there = [tensor.detach().cuda().requires_grad_() for tensor in inputs]
        results = [
            (output, gradients(output.cpu(), x, layout)) for x in (inputs, there) for output in [attend(*x, layout)]
        ]
        for found, wanted in zip((results[1][0], *results[1][1]), (results[0][0], *results[0][1]), strict=True):
            torch.testing.assert_close(
                found.cpu()[: layout.tokens], wanted[: layout.tokens], rtol=tolerance, atol=tolerance
            )
