"""The command: quick where nothing is to be done, and messages instead of tracebacks."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from xgenmm import __version__, cli
from xgenmm.cli import command
from xgenmm.config import RECIPES, decode, override, read_yaml, to_yaml
from xgenmm.data.quarantine import read_lines
from xgenmm.data.source import SourceConfig
from xgenmm.engines import noised_preferences
from xgenmm.inference.load import load
from xgenmm.starter.toy import COLOURS
from xgenmm.training.lock import hold
from xgenmm.training.trainer import Trainer


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which `xgenmm train debug` ran with few steps, and the settings that made them few."""
    folder = tmp_path_factory.mktemp("trained")
    settings = [f"stages.{name}.steps=2" for name in ("pretrain", "sft", "interleaved")]
    settings += [f"stages.{name}.{key}" for name in ("dpo", "safety") for key in ("epochs=null", "steps=1")]
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert cli.main(["train", "debug", *settings]) == 0
    finally:
        os.chdir(before)
    return folder, settings


@pytest.fixture
def at_work(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return trained


def failure(capsys, *arguments):
    """Exit code and the only line that was written."""
    code = cli.main(list(arguments))
    written = capsys.readouterr()
    assert "Traceback" not in written.err
    return code, written.err.strip()


def test_help_is_quick_and_knows_no_torch():
    lines = ("import sys", "from xgenmm import cli", "try: cli.main(['--help'])", "except SystemExit: pass")
    code = "\n".join((*lines, "assert 'torch' not in sys.modules"))
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert "train" in done.stdout
    assert min(seconds) < 0.5  # of the processor, so that a busy machine does not fail it


def test_a_reader_who_has_seen_enough_is_no_mistake():
    """As in `xgenmm plan ... | head`: no message, and the code that a shell gives for it."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "xgenmm.cli", "plan", "paper/sft"]
    done = subprocess.run(command, check=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("verb", ["train", "chat", "generate"])
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([verb, "--help"])
    assert done.value.code == 0
    assert "usage: xgenmm" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"xgenmm {__version__}\n"


def test_no_verb_is_a_mistake(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([])
    assert done.value.code == 2
    assert "required: VERB" in capsys.readouterr().err


def test_idle_threads_soon_sleep_and_that_is_said_before_torch_is_imported():
    say = "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    code = f"import os, sys\nfrom xgenmm.cli import command\ncommand._prepare()\n{say}"
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "PASSIVE 1000 False\n"


def test_train_makes_weights_and_the_same_command_again_skips(at_work, capsys):
    folder, settings = at_work
    assert (folder / "runs/debug/safety/weights/model.safetensors").is_file()
    assert cli.main(["train", "debug", *settings]) == 0
    written = capsys.readouterr()
    assert written.out == "weights: runs/debug/safety/weights\n"
    assert written.err.count("is done already") == 5


@pytest.mark.usefixtures("at_work")
def test_generate_answers_about_a_picture(capsys):
    arguments = ["runs/debug/sft/weights", "Which colour?", "--image", "runs/toy/images/red-circle.png"]
    assert cli.main(["generate", *arguments, "--max-new-tokens", "4"]) == 0
    answer = capsys.readouterr().out
    assert cli.main(["generate", *arguments, "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == answer
    assert answer.endswith("\n")


@pytest.mark.usefixtures("at_work")
def test_generate_continues_plain_text(capsys):
    assert cli.main(["generate", "runs/debug/pretrain/weights", "a red", "--plain", "--max-new-tokens", "3"]) == 0
    assert len(capsys.readouterr().out.encode()) >= 1


@pytest.mark.usefixtures("at_work")
def test_chat_reads_until_the_end(capsys, monkeypatch):
    lines = iter(["Which colour?", "/image none.png"])

    def read(_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert cli.main(["chat", "runs/debug/sft/weights", "--max-new-tokens", "3"]) == 0
    assert "none.png" in capsys.readouterr().out


NOISED = ["data", "make", "noised-preferences", "runs/debug/sft/weights", "--data", "a.jsonl", "--output", "made"]


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "dbug"], 2, 'there is no recipe "dbug": neither a file nor one of ours; did you mean "debug"?'),
        (["train", "none.yaml"], 2, 'there is no recipe "none.yaml"'),
        (["train", "debug", "stages.sft.optim.lrr=1"], 2, 'unknown setting "lrr"; did you mean "lr"?'),
        (["train", "debug", "seed"], 2, '"seed" is not a setting: write it as a.b=c'),
        (["train", "debug", "stages.sft.data.instructions.path=none.json"], 2, "no file matches none.json"),
        (["chat", "none"], 1, "no weights at none: there is no such folder"),
        (["generate", "runs/debug/sft", "hi"], 1, "did you mean runs/debug/sft/weights?"),
        (["generate", "runs/toy/language", "hi"], 1, "holds a model of type 'llama'"),
        (["generate", "runs/debug/sft/weights", "hi", "--image", "none.png"], 1, "none.png"),
        (["generate", "runs/debug/sft/weights", "word " * 300], 1, "max_tokens"),
        (["generate", "runs/debug/sft/weights", "hi", "--temperature", "-1"], 2, "temperature must be 0"),
        (["generate", "runs/debug/sft/weights", "hi", "--temperature", "nan"], 2, "temperature must be 0"),
        (["generate", "runs/debug/sft/weights", "", "--plain"], 2, "nothing to continue: give a text or a picture"),
        ([*NOISED, "--noise-step", "-1"], 2, "noised-preferences.noise.step: must be at least 0, but is -1"),
        ([*NOISED, "--noise-step", "1001"], 2, "step 1001 must lie between 0 and steps, 1000"),
        ([*NOISED, "--max-new-tokens", "0"], 2, "noised-preferences.max_new_tokens: must be at least 1, but is 0"),
        ([*NOISED, "--batch-size", "-3"], 2, "noised-preferences.batch_size: must be at least 1, but is -3"),
    ],
)
def test_mistakes_are_told_in_a_line(capsys, arguments, code, message):
    found, line = failure(capsys, *arguments)
    assert found == code
    assert line.startswith("xgenmm: ")
    assert message in line
    assert "\n" not in line


def test_of_several_processes_one_tells_a_mistake_in_the_recipe(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli.main(["train", "dbug"]) == 2
    assert not capsys.readouterr().err
    assert cli.main(["chat", "none"]) == 1
    assert "no weights at none" in capsys.readouterr().err


def test_demonstrations_are_counted_in_numbers(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", "weights", "--shots", "0,x"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("argument --shots: 0,x: write numbers, as 0,4,8\n")


def test_a_loss_that_is_not_finite_is_told(at_work, capsys, monkeypatch):
    real = Trainer.accumulate

    def accumulate(self, step):
        sums = real(self, step)
        sums.losses[0] = float("nan")
        return sums

    monkeypatch.setattr(Trainer, "accumulate", accumulate)
    code, line = failure(capsys, "train", "debug", "name=other")
    assert code == 1
    assert "step 0: loss nan" in line
    assert (at_work[0] / "runs/other/pretrain/non_finite.jsonl").is_file()


def test_a_second_run_in_the_same_folder_is_refused(at_work, capsys):
    folder = at_work[0] / "runs/debug"
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        code, said = failure(capsys, "train", "debug")
    assert code == 1
    assert f"in use by process {os.getpid()} on" in said


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise KeyError("bug")

    monkeypatch.setattr("xgenmm.recipe.settings.load_recipe", broken)
    with pytest.raises(KeyError):
        cli.main(["train", "debug"])


def test_ctrl_c_saves_and_says_how_to_go_on(at_work, capsys, monkeypatch):
    real = Trainer.update

    def update(self, step, sums):
        if step.number == 1:
            os.kill(os.getpid(), 2)
        return real(self, step, sums)

    monkeypatch.setattr(Trainer, "update", update)
    code, said = failure(capsys, "train", "debug", "name=stopped")
    assert code == 130
    assert said.endswith("stopped after 2 steps and saved; the same command goes on from there")
    assert (at_work[0] / "runs/stopped/pretrain/checkpoints/step-2/manifest.json").is_file()


@pytest.mark.slow
def test_the_debug_recipe_learns_colours(tmp_path, monkeypatch):
    """The whole chain as it is shipped, asked about its training pictures: it shows that the parts fit, no more."""
    from xgenmm.inference.generate import generate
    from xgenmm.inference.sampling import GenerationConfig
    from xgenmm.types import Conversation, Picture, Turn

    monkeypatch.chdir(tmp_path)
    began = time.perf_counter()
    # Without the checks of shapes that are made in this process, which take longer than the model.
    subprocess.run([sys.executable, "-m", "xgenmm.cli", "train", "debug"], check=True)
    assert time.perf_counter() - began < 120
    model, processor = load("runs/debug/sft/weights")
    questions = []
    for colour in COLOURS:
        path = tmp_path / f"runs/toy/images/{colour}-square.png"
        parts = (Picture(source=path, name=colour), "Which colour?")
        questions.append(Conversation(id=colour, turns=(Turn(role="user", parts=parts),)))
    answers = generate(model, processor, questions, GenerationConfig(max_new_tokens=8))
    assert sum(answer == colour for answer, colour in zip(answers, COLOURS, strict=True)) >= 5


@pytest.mark.usefixtures("at_work")
def test_a_recipe_file_of_ones_own(tmp_path, capsys):
    settings = override(read_yaml(RECIPES / "debug.yaml"), ["stages.pretrain.steps=1", f"output={tmp_path}"])
    settings["stages"] = settings["stages"][:1]
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(settings))
    assert cli.main(["train", str(path)]) == 0
    assert capsys.readouterr().out == f"weights: {tmp_path}/debug/pretrain/weights\n"


def test_answers_to_noised_pictures_become_a_source(at_work, capsys, tmp_path, monkeypatch):
    """What the command prints as a source is one."""
    monkeypatch.setattr(
        noised_preferences, "continue_prompts", lambda _m, _p, prompts, _c, **_: ["mauve"] * len(prompts)
    )
    weights = at_work[0] / "runs" / "debug" / "interleaved" / "weights"
    data = ["--data", "runs/toy/preferences.jsonl", "--noise-step", "900"]
    code = cli.main(["data", "make", "noised-preferences", str(weights), *data, "--output", str(tmp_path / "made")])
    assert code == 0
    source = decode(SourceConfig, yaml.safe_load(capsys.readouterr().out.split("as a source: ")[1]))
    rows = read_lines(tmp_path / "made" / "preferences.jsonl")
    assert len(rows) == len(read_lines(Path("runs/toy/preferences.jsonl")))
    assert (source.path, source.adapter) == (str(tmp_path / "made" / "preferences.jsonl"), "preference")
    assert source.images is not None
    assert all((Path(source.images) / row["image"][0]).is_file() for row in rows)


def test_data_index_of_a_recipe_and_of_files(tmp_path, monkeypatch, capsys, toy_folder):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "index", "debug"]) == 0
    assert "pairs: 48 records in 1 files: 48 usable, 0 quarantined" in capsys.readouterr().out
    assert cli.main(["data", "index", str(toy_folder / "instructions.json"), "--folder", "here"]) == 0
    said = capsys.readouterr().out
    assert "lengths are in bytes" in said
    assert "instructions: 16 records" in said
    assert list((tmp_path / "here").rglob("instructions.json-*.parquet"))
    assert cli.main(["data", "index", str(tmp_path / "nothing.tar")]) == 2
    assert cli.main(["data", "index", "debug", "--weights", "w"]) == 2


def test_settings_may_stand_behind_options(capsys):
    options = command._parsed(["data", "check", "debug", "seed=1", "--steps", "3", "batch.size=2"])
    assert (options.recipe, options.settings, options.steps) == ("debug", ["seed=1", "batch.size=2"], 3)
    for verb in (["data", "check", "debug"], ["data", "scan", "somewhere", "--output", "report.jsonl"]):
        for rest in (["--steps=3", "--unknown", "seed=1"], ["--schema=x", "seed=1"]):
            with pytest.raises(SystemExit) as stopped:
                command._parsed([*verb, *rest])
            assert stopped.value.code == 2
            assert "unrecognized arguments" in capsys.readouterr().err
