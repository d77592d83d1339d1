"""The start of the command line: nothing heavy is imported, and nothing around a command ends in a traceback."""

import json
import os
import re
import signal
import sys

import pytest
from cli_helpers import files_of, run, start

from rmn_hub.cli import main
from rmn_hub.cli.shared import in_options

HEAVY = {"facenet_pytorch", "gradio", "matplotlib", "numpy", "onnxruntime", "pandas", "PIL", "safetensors", "scipy"} | {
    *("sklearn", "torch", "torchvision", "transformers", "yaml"),
}
COMMANDS = [command.name or command.callback.__name__ for command in main.registered_commands]


def ended(process, stdin=None):
    stdout, stderr = process.communicate(stdin, timeout=120)
    return process.returncode, (stdout or b"").decode(), (stderr or b"").decode()


def test_help_and_version_import_nothing_heavy():
    code = """
import contextlib, io, json, sys
from rmn_hub.cli import main
pages = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
        main(words)
    pages[" ".join(words)] = page.getvalue()
print(json.dumps([pages, sorted(sys.modules)]))
"""
    pages = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    status, stdout, stderr = ended(start(json.dumps(pages), python=("-c", code)))
    assert (status, stderr) == (0, "")
    shown, modules = json.loads(stdout)
    assert all(shown[" ".join(page)] for page in pages)
    assert not HEAVY & {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_panel_and_an_example_that_it_understands(command):
    [info] = [info for info in main.registered_commands if command in (info.name, info.callback.__name__)]
    assert info.rich_help_panel in ("Use", "Train", "Publish")
    # The first sentence is an order: "Find", not "Finds".
    assert not re.match(r"\w+s\b", info.callback.__doc__.strip())
    page = run(command, "--help").stdout
    lines = [line.split("rmn-hub ", 1)[1].split() for line in info.epilog.splitlines() if "rmn-hub " in line]
    lines += [line.split("-m rmn_hub ", 1)[1].split() for line in info.epilog.splitlines() if "-m rmn_hub " in line]
    assert lines
    for words in lines:
        assert words[0] == command
        for option in re.findall(r"--[a-z-]+", " ".join(words)):
            assert option in page


def test_the_help_of_a_command():
    page = run("demo", "--help", COLUMNS="100", TERM="dumb").stdout
    words = " ".join(re.sub(r"[^\x20-\x7e]|<\w+>", " ", page).split())
    for part in (
        "demo [OPTIONS] Serve the page: photos and camera, with probability charts and attention maps. Ctrl-C ends it.",
        "--checkpoint Folder or Hub id; the bundled one when not given.",
        "--host Address to listen on; 127.0.0.1 if not given, 0.0.0.0 lets other computers in.",
        "Examples rmn-hub demo",
    ):
        assert part in words


def test_shell_completion_is_offered():
    assert "--install-completion" in run("--help").stdout


def test_without_arguments_it_shows_its_help_and_version():
    assert "predict" in run().output
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("rmn-hub ")


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("predict", "--help")])
def test_a_full_disk_is_one_sentence(words):
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
        status, _, stderr = ended(start(*words, stdout=full))
    assert status == 1
    assert stderr == "rmn-hub: the output cannot be written: No space left on device\n"


def test_a_reader_that_went_away_is_no_error_to_report():
    reading, writing = os.pipe()
    os.close(reading)
    status, _, stderr = ended(start("--help", stdout=writing))
    os.close(writing)
    assert (status, stderr) == (1, "")


@pytest.mark.parametrize("words", ["--help", "predict face.png --faces-only --json", "predict - <&-"])
def test_closed_streams(crops, tmp_path, words):
    crops[0].save(tmp_path / "face.png")
    script = f'exec "$0" -m rmn_hub {words} >&-'
    status, _, stderr = ended(start("-c", script, sys.executable, python=(), executable="/bin/sh", cwd=tmp_path))
    assert status == (2 if words.endswith("<&-") else 0)
    assert "Traceback" not in stderr


@pytest.mark.parametrize("interrupt", ["signal.SIGINT", "signal.SIGTERM", "signal.SIGHUP"])
def test_a_stop_while_it_starts(interrupt):
    # The command line is stopped by itself, in the middle of its imports.
    code = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
class Stop:
    def find_spec(self, name, path, target=None):
        if name == "rmn_hub.cli.predict":
            os.kill(os.getpid(), {interrupt})
sys.meta_path.insert(0, Stop())
runpy.run_module("rmn_hub", run_name="__main__")
"""
    status, _, stderr = ended(start(python=("-c", code)))
    assert (status, stderr) == (128 + eval(interrupt, {"signal": signal}), "")


def test_a_hangup_that_is_ignored_stays_so():
    """As `nohup` has it."""
    code = """
import os, runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
class Hangup:
    def find_spec(self, name, path, target=None):
        if name == "rmn_hub.cli.predict":
            os.kill(os.getpid(), signal.SIGHUP)
sys.meta_path.insert(0, Hangup())
sys.argv = ["rmn-hub", "--version"]
runpy.run_module("rmn_hub", run_name="__main__")
"""
    status, stdout, stderr = ended(start(python=("-c", code)))
    assert (status, stdout[:8], stderr) == (0, "rmn-hub ", "")


@pytest.mark.parametrize("interrupt", ["signal.SIGINT", "signal.SIGTERM"])
def test_a_stop_that_comes_while_a_destructor_runs(interrupt):
    code = f"""
import os, runpy, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
class Stopped:
    def __del__(self):
        os.kill(os.getpid(), {interrupt})
        time.sleep(0.01)  # the handler runs here, and Python ignores what it raises
class Stop:
    def find_spec(self, name, path, target=None):
        if name == "rmn_hub.cli.predict":
            Stopped()
            time.sleep(100)
sys.meta_path.insert(0, Stop())
runpy.run_module("rmn_hub", run_name="__main__")
"""
    status, _, stderr = ended(start(python=("-c", code)))
    assert (status, stderr) == (128 + eval(interrupt, {"signal": signal}), "")


@pytest.mark.parametrize("words", ["", "import ray; ray = None"])
def test_a_process_with_ray_ends_before_destructors_run(tmp_path, words):
    # Ray's compiled threads may abort the process once destructors run. What is to be done at the exit is done.
    (tmp_path / "ray.py").touch()
    code = f"""
import atexit, runpy, sys
sys.path.insert(0, {str(tmp_path)!r})
class Compiled:
    def __del__(self):
        print("destructor", file=sys.__stderr__)
sys.modules["compiled"] = Compiled()
atexit.register(print, "exit function")
{words}
sys.argv = ["rmn-hub", "predict"]
runpy.run_module("rmn_hub", run_name="__main__")
"""
    status, stdout, stderr = ended(start(python=("-c", code)))
    assert (status, stdout.splitlines()[-1], "destructor" in stderr) == (2, "exit function", not words)


def test_sentences_of_the_library_name_options():
    for sentence, expected in (
        ("min_face=3 must be at least 12", "--min-face 3 must be at least 12"),
        ("device='toaster' must be cpu", "--device toaster must be cpu"),
        (
            "look for smaller ones (min_face) or not (faces_only).",
            "look for smaller ones (--min-face) or not (--faces-only).",
        ),
        ("the device has a margin", "the device has a margin"),
        ("/tmp/min_face/a.jpg is empty", "/tmp/min_face/a.jpg is empty"),
        ("id2label=3 is odd", "id2label=3 is odd"),
        ("max_faces.gif has several frames", "max_faces.gif has several frames"),
        ("min_face-1.png is empty", "min_face-1.png is empty"),
        ("look for smaller ones (min_face=20).", "look for smaller ones (--min-face 20)."),
    ):
        assert in_options(sentence) == expected


@pytest.mark.parametrize("words", [(), ("--open",), ("--mcp",)])
def test_the_page_is_opened_when_asked_for(monkeypatch, words):
    from rmn_space import start

    given = []
    monkeypatch.setattr(start, "main", lambda *arguments: given.append(arguments))
    assert run("demo", "--port", 7999, *words).exit_code == 0
    assert given == [(None, None, 7999, False, "--open" in words, "--mcp" in words)]


def test_the_page_is_of_one_checkpoint(monkeypatch):
    from rmn_space import start

    given = []
    monkeypatch.setattr(start, "main", lambda *arguments: given.append(arguments))
    assert run("demo", "--checkpoint", "a").exit_code == 0
    several = run("demo", "--checkpoint", "a", "--checkpoint", "b")
    assert (several.exit_code, "--checkpoint" in several.stderr) == (2, True)
    assert [checkpoint for checkpoint, *_ in given] == ["a"]


@pytest.mark.parametrize(
    "words",
    [
        *(f"predict a.jpg {option} -" for option in ("--annotate", "--attention")),
        *(f"video a.mp4 {option} -" for option in ("--output", "--parquet", "--timeline", "--summary")),
        *(f"{command} --data . --output -" for command in ("cross-validate a", "members a", "train", "teach a")),
        *("distill a --data . --output -", "compare --data . --output -", "evaluate a --data . --figures -"),
        *("batch . -", "convert a.pth -", "card a --out -", "export a -"),
    ],
)
def test_an_output_that_does_not_go_to_stdout_is_not_called_so(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is stdout" in result.stderr
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        *("predict --csv a.jpg b.jpg c.jpg", "predict --csv a.MP4 b.jpg", "video --json a.mp4 b.mp4"),
        *(f"video {option} a.{suffix} b.mp4" for option in ("--csv", "--parquet") for suffix in ("mp4", "gif")),
        *("evaluate --json a.png --data .", "members a --data . --output a.jpg", "teach a --data . --output a.jpg"),
        *("card a --out a.jpg", "video a.mp4 --summary a.mp4"),
    ],
)
def test_an_output_that_is_no_image_overwrites_no_image_or_film(tmp_path, monkeypatch, words):
    """What a shell makes of `--csv *.jpg`."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "c.jpg", "a.MP4", "a.mp4", "b.mp4", "a.gif", "a.png"):
        (tmp_path / name).write_text("kept")
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must not be the name of an image or a film" in result.stderr or "must be a folder" in result.stderr
    assert {path.read_text() for path in tmp_path.iterdir()} == {"kept"}


@pytest.mark.parametrize(
    "words", ["evaluate a --json notes/a.json", "evaluate a --figures notes", "members a b --output notes/a.md"]
)
def test_an_output_that_cannot_be_written_is_noticed_before_the_work(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("kept")
    result = run(*words.split(), "--data", ".")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words.split()[-1] in result.stderr
    assert (tmp_path / "notes").read_text() == "kept"


@pytest.mark.parametrize("words", ["predict a.jpg --checkpoint a", "predict a.jpg", "video a.mp4", "convert a.jpg out"])
def test_a_revision_of_what_is_not_on_the_hub_is_refused(crops, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("a.jpg", "a.mp4"):
        crops[0].save(tmp_path / name, "JPEG")
    result = run(*words.split(), "--revision", "nonsense")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--revision nonsense must come with a Hub id" in result.stderr
    assert files_of(tmp_path) == ["a.jpg", "a.mp4"]


def test_without_optional_packages_every_command_names_what_it_lacks(crops, tmp_path):
    crops[0].save(tmp_path / "face.png")
    commands = [
        *(f"predict face.png {words}" for words in ("--attention maps", "--engine torch", "--device cuda")),
        *("predict face.png --format parquet", "video face.png", "batch . out", "demo", "evaluate a --data ."),
        *("evaluate --peer fer --data .", "cross-validate a --data . --output out", "members a b --data ."),
        *("calibrate a --data .", "benchmark", "benchmark --image face.png", "convert a.pth out"),
        *("convert a.pth out --trunk", "card a", "publish a b/c", "publish a b/c --space cpu", "export a"),
        *("publish a b/c --space static", "export a out --browser", "train --data .", "teach a --data ."),
        *("distill a --data .", "compare --data ."),
    ]
    code = """
import json, sys
from typer.testing import CliRunner
from rmn_hub.cli import main
sys.modules |= dict.fromkeys(sys.argv[2:])
results = [CliRunner().invoke(main, words.split()) for words in json.loads(sys.argv[1])]
print(json.dumps([(result.exit_code, result.stdout, result.stderr) for result in results]))
"""
    others = ["torch", "transformers", "safetensors", "matplotlib", "scipy", "sklearn", "jinja2", "av", "pandas"]
    words = (json.dumps(commands), *others, "pyarrow", "gradio", "ray", "onnx", "facenet_pytorch", "accelerate")
    status, stdout, stderr = ended(start(*words, python=("-c", code), cwd=tmp_path))
    assert (status, stderr) == (0, "")
    for command, (code, shown, sentence) in zip(commands, json.loads(stdout)):
        assert (command, code, shown) == (command, 2, "")
        assert re.fullmatch(r"rmn-hub: .* needs? \S+: install it with `pip install .*`.*\n", sentence), command
    assert files_of(tmp_path) == ["face.png"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("matplotlib", "predict face.png --faces-only --csv faces.csv --attention maps"),
        ("sklearn", "evaluate checkpoint --data ."),
        ("scipy", "calibrate checkpoint --data ."),
        ("matplotlib", "train --data . --output out"),
    ],
)
def test_a_package_that_is_needed_in_the_end_is_missing_before_the_work(crops, tmp_path, monkeypatch, module, words):
    crops[0].save(tmp_path / "face.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"needs {module}: install it" in result.stderr
    assert files_of(tmp_path) == ["face.png"]
