"""What a checkpoint costs: the numbers that do not depend on the machine, and the form of those that do."""

import json

import pytest
import torch
from typer.testing import CliRunner

from rmn_hub import BUNDLED_CHECKPOINT, RMNConfig, RMNModel
from rmn_hub.cli.shared import main
from rmn_hub.errors import InputError
from rmn_hub.evaluation.benchmark import FORMS, benchmark, load, multiply_adds


def test_multiply_adds_are_half_of_the_floating_point_operations():
    config = RMNConfig(
        image_size=16, stem="small", embedding_size=8, hidden_sizes=(8,), depths=(1,), mask_depths=None, num_labels=2
    )
    pixels = 8 * 8
    expected = pixels * 8 * 3 * 9 + 2 * pixels * 8 * 8 * 9 + 8 * 2  # stem, two 3x3 convolutions, classifier
    model = RMNModel(config)
    assert multiply_adds(model) == expected
    assert multiply_adds(model, 32) == 4 * (expected - 16) + 16


def test_every_form_is_measured_at_every_batch_size(tiny_checkpoint):
    numbers = benchmark(load(tiny_checkpoint), batch_sizes=(1, 2), forms=("plain", "folded"), seconds=0)
    assert [(timing.form, timing.batch_size) for timing in numbers.timings] == [
        ("plain", 1),
        ("folded", 1),
        ("plain", 2),
        ("folded", 2),
    ]
    assert all(timing.milliseconds > 0 and timing.peak_memory > 1 for timing in numbers.timings)
    model = RMNModel.from_pretrained(tiny_checkpoint)
    assert numbers.parameters == model.num_parameters()
    assert (numbers.image_size, numbers.device, numbers.skipped) == (32, "cpu", None)


def test_a_form_that_cannot_be_made_is_told(tiny_checkpoint, monkeypatch):
    def compile_fails(model, **settings):
        def run(*args):
            raise RuntimeError("no compiler\nand a page of details")

        return run

    monkeypatch.setattr(torch, "compile", compile_fails)
    numbers = benchmark(load(tiny_checkpoint), batch_sizes=(1, 2), forms=FORMS, seconds=0)
    assert {timing.form for timing in numbers.timings} == {"plain", "folded"}
    assert numbers.skipped == "the compiled form could not be made: RuntimeError: no compiler"


def test_the_command_shows_them(tiny_checkpoint):
    command = ["benchmark", str(tiny_checkpoint), "--no-compiled", "--seconds", "0", "--batch-size", "3"]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    for words in ("M parameters", "M multiply-adds", "32 x 32 pixels", "batch 3", "plain", "folded", " ms", " MB"):
        assert words in shown.stdout
    numbers = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert {timing["batch_size"] for timing in numbers["timings"]} == {3}


def test_the_bundled_checkpoint_is_small_enough_to_run_everywhere():
    model = load(BUNDLED_CHECKPOINT)
    assert multiply_adds(model) < 500e6
    assert model.num_parameters() < 10e6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["./no/such/folder"], "./no/such/folder"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--batch-size", "0"], "batch-size"),
        (["--batch-size", str(10**12)], f"batches of {10**12} do not fit into memory of cpu"),
        (["--seconds", "inf"], "--seconds inf"),
    ],
)
def test_bad_input_ends_with_a_sentence(arguments, reason):
    result = CliRunner().invoke(main, ["benchmark", "--no-compiled", "--seconds", "0", *arguments])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "Traceback" not in result.output


def test_settings_out_of_range_are_refused(tiny_checkpoint):
    model = load(tiny_checkpoint)
    with pytest.raises(InputError, match="batch sizes"):
        benchmark(model, batch_sizes=())
    with pytest.raises(InputError, match="form 'fast' is unknown"):
        benchmark(model, forms=("fast",))
