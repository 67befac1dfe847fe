"""`import xgenmm` is quick, and transformers' own Auto classes then know xGen-MM, in whatever order things come."""

import json
import subprocess
import sys

import pytest
import torch
from toy import make_processor, write_backbones

from xgenmm.model.weights import assemble, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    processor = make_processor()
    torch.manual_seed(0)
    model = assemble(write_backbones(path), processor).eval()
    save(model, processor, path / "weights")
    (path / "expected.json").write_text(json.dumps(model(input_ids=torch.arange(5)[None]).logits[0, -1].tolist()))
    return path


def run(*lines: str) -> str:
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_quick_and_loads_no_torch():
    timed = (
        "import sys, time; start = time.perf_counter()",
        "import xgenmm",
        "print(time.perf_counter() - start)",
        "heavy = {'torch', 'transformers', 'numpy', 'PIL'}",
        "print(sorted(heavy & sys.modules.keys()), xgenmm.__version__)",
    )
    seconds, rest = run(*timed).split(maxsplit=1)
    assert float(seconds) < 0.3
    assert rest.strip() == "[] 0.1.0"


USE = (
    "import json, pathlib, torch",
    "path = pathlib.Path(FOLDER)",
    "from transformers import AutoModelForImageTextToText, AutoProcessor",
    "model, report = AutoModelForImageTextToText.from_pretrained(path / 'weights', output_loading_info=True)",
    "assert not report['missing_keys'] and not report['unexpected_keys'], report",
    "expected = torch.tensor(json.loads((path / 'expected.json').read_text()))",
    "assert torch.equal(model(input_ids=torch.arange(5)[None]).logits[0, -1], expected)",
    "processor = AutoProcessor.from_pretrained(path / 'weights')",
    "print(type(model).__name__, type(processor).__name__)",
)

ORDERS = {
    "xgenmm first": ("import xgenmm",),
    "transformers first": ("from transformers import AutoProcessor, AutoModelForImageTextToText", "import xgenmm"),
    "the model itself": ("import xgenmm.model.vlm",),
    "the processor itself": ("import xgenmm.processor.processor",),
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_in_a_fresh_process(folder, order):
    assert run(*ORDERS[order], f"FOLDER = {str(folder)!r}", *USE).split() == [
        "XGenMMForConditionalGeneration",
        "XGenMMProcessor",
    ]


def test_auto_processor_alone_in_a_fresh_process(folder):
    """No AutoConfig is asked for here, the way that servers load processors; then the package's own `load`."""
    lines = (
        "import xgenmm",
        "from transformers import AutoProcessor",
        f"print(type(AutoProcessor.from_pretrained({str(folder / 'weights')!r})).__name__)",
        f"model, processor = xgenmm.load({str(folder / 'weights')!r})",
        "print(type(model).__name__, model.training)",
    )
    assert run(*lines).split() == ["XGenMMProcessor", "XGenMMForConditionalGeneration", "False"]


def test_unknown_attributes_are_refused():
    import xgenmm

    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        xgenmm.lode  # noqa: B018
