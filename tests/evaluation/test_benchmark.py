"""What a checkpoint costs: the numbers that do not depend on the machine, and the form of those that do."""

import json
import sys

import pytest
import torch
from cli_helpers import run

from rmn_hub import BUNDLED_CHECKPOINT, RMNConfig, RMNModel
from rmn_hub.cli.costs import start_table
from rmn_hub.errors import InputError
from rmn_hub.evaluation import benchmark as room
from rmn_hub.evaluation.benchmark import FORMS, benchmark, multiply_adds, take_turns
from rmn_hub.evaluation.start import BARE, FIRST_RESULT, FRONT_DOOR, Start, measure_start
from rmn_hub.hub.checkpoint import load_model


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint)


def test_multiply_adds_are_half_of_the_floating_point_operations():
    config = RMNConfig(
        image_size=16, stem="small", embedding_size=8, hidden_sizes=(8,), depths=(1,), mask_depths=None, num_labels=2
    )
    pixels = 8 * 8
    expected = pixels * 8 * 3 * 9 + 2 * pixels * 8 * 8 * 9 + 8 * 2  # stem, two 3x3 convolutions, classifier
    model = RMNModel(config)
    assert multiply_adds(model) == expected
    assert multiply_adds(model, 32) == 4 * (expected - 16) + 16


def test_calls_take_turns():
    order = []
    measured = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, seconds=0)
    assert "".join(order) == 5 * "aabb"  # once to warm up, once on the clock
    assert all(cost.milliseconds > 0 and cost.peak_memory > 1 for cost in measured.values())


def test_every_form_is_measured_at_every_batch_size(model):
    done = []
    numbers = benchmark(
        model, batch_sizes=(1, 2), forms=("plain", "folded"), seconds=0, progress=lambda *step: done.append(step)
    )
    assert sum(more for _, more, _ in done) == 2
    assert {total for _, _, total in done} == {2}
    assert [(timing.form, timing.batch_size) for timing in numbers.timings] == [
        ("plain", 1),
        ("folded", 1),
        ("plain", 2),
        ("folded", 2),
    ]
    assert all(timing.milliseconds > 0 and timing.peak_memory > 1 for timing in numbers.timings)
    assert numbers.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (numbers.image_size, numbers.device, numbers.skipped) == (32, "cpu", None)


def test_a_form_that_cannot_be_made_is_reported(model, monkeypatch):
    def compile_fails(model, **settings):
        def run(*args):
            raise RuntimeError("no compiler\nand a page of details")

        return run

    monkeypatch.setattr(torch, "compile", compile_fails)
    numbers = benchmark(model, batch_sizes=(1, 2), forms=FORMS, seconds=0)
    assert {timing.form for timing in numbers.timings} == {"plain", "folded"}
    assert numbers.skipped is not None
    assert numbers.skipped.endswith("no compiler")


def test_an_engine_takes_turns_with_the_forms(model):
    from rmn_hub.engines.torch import TorchEngine

    engine = TorchEngine(model, "cpu")
    numbers = benchmark(model, batch_sizes=(2,), forms=("folded",), engines=[engine], seconds=0)
    assert [timing.form for timing in numbers.timings] == ["folded", engine.name]


def test_the_command_shows_them(tiny_checkpoint):
    command = ["benchmark", tiny_checkpoint, "--no-compiled", "--seconds", 0, "--batch-size", 3]
    shown = run(*command)
    assert shown.exit_code == 0, shown.output
    for words in ("M parameters", "M multiply-adds", "32 x 32 pixels", "batch 3", "plain", "folded", " ms", " MB"):
        assert words in shown.stdout
    numbers = json.loads(run(*command, "--json").stdout)
    assert {timing["batch_size"] for timing in numbers["timings"]} == {3}


def test_memory_that_the_system_does_not_tell_is_unknown(tiny_checkpoint, monkeypatch):
    with monkeypatch.context() as patch:  # Windows
        patch.setattr(sys, "platform", "win32")
        patch.setitem(sys.modules, "resource", None)
        assert room._peak_memory(torch.device("cpu")) is None
    monkeypatch.setattr(room, "_peak_memory", lambda device: None)
    command = ["benchmark", tiny_checkpoint, "--no-compiled", "--seconds", 0, "--batch-size", 1, "--device", "cpu"]
    shown = run(*command)
    assert shown.exit_code == 0, shown.output
    assert "unknown" in shown.stdout
    numbers = json.loads(run(*command, "--json").stdout)
    assert {timing["peak_memory"] for timing in numbers["timings"]} == {None}


def test_the_steps_of_a_photo(tiny_checkpoint, astronaut, tmp_path):
    astronaut.save(tmp_path / "photo.png")
    command = ["benchmark", tiny_checkpoint, "--image", tmp_path / "photo.png", "--seconds", 0]
    shown = run(*command)
    assert shown.exit_code == 0, shown.output
    assert "512 x 512 pixels, 1 face, torch" in shown.stdout
    numbers = json.loads(run(*command, "--json").stdout)
    assert set(numbers["milliseconds"]) == {"decode", "detect", "crop and classify", "all"}
    assert all(milliseconds > 0 for milliseconds in numbers["milliseconds"].values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_the_gpu_is_the_default(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = run("benchmark", tiny_checkpoint, "--no-compiled", "--seconds", 0, "--batch-size", 1)
    assert result.exit_code == 2
    assert "cuda" in result.stderr


def test_the_bundled_checkpoint_is_small_enough_to_run_everywhere():
    model = load_model(BUNDLED_CHECKPOINT)
    assert multiply_adds(model) < 500e6
    assert model.num_parameters() < 10e6


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["./no/such/folder"], "./no/such/folder"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--batch-size", "0"], "batch-size"),
        (["--batch-size", str(10**12)], f"--batch-size {10**12}"),
        (["--seconds", "inf"], "--seconds inf"),
        (["--start", "--image", "nowhere.jpg"], "nowhere.jpg"),
        (["--image", __file__], "test_benchmark.py"),
    ],
)
def test_bad_input_ends_with_a_sentence(arguments, option):
    result = run("benchmark", "--no-compiled", "--seconds", 0, *arguments)
    assert result.exit_code == 2
    assert option in result.stderr
    assert "Traceback" not in result.output


def test_settings_out_of_range_are_refused(model):
    with pytest.raises(InputError, match="batch_sizes"):
        benchmark(model, batch_sizes=())
    with pytest.raises(InputError, match="forms"):
        benchmark(model, forms=("fast",))


def test_the_start_is_measured_process_by_process():
    done = []
    starts = measure_start(rounds=1, warm_up=False, progress=lambda what, more, total: done.append((more, total)))
    assert [start.name for start in starts] == [BARE, FRONT_DOOR, FIRST_RESULT]
    assert all(start.cpu_seconds > 0 and 1 < start.peak_memory < 10_000 for start in starts)
    assert done == 3 * [(1, 3)]


def test_the_start_as_a_table():
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115 (a device)
    console.print(start_table([Start(BARE, 0.2, 0.3, 40), Start(FRONT_DOOR, 0.3, 0.4, 41)]))
    text = console.export_text()
    assert " 1.5 " in text
    assert "0.30 s" in text
