"""`rmn-hub batch`: stopped in any way and started again, it has the rows of `rmn-hub predict`."""

import contextlib
import json
import signal
import threading
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from cli_helpers import run, start
from file_server import serving

from rmn_hub.tables import to_records

pytest.importorskip("ray", reason="Ray is not installed: pip install 'rmn-hub[cluster]'")
COUNT = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory, astronaut):
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT - 1):
        astronaut.crop((100, 0, 400 - number, 300)).save(folder / f"{number:02}.jpg", quality=95)
    (folder / "damaged.jpg").write_bytes((folder / "00.jpg").read_bytes()[:3000])
    return folder


class Gate:
    """Lets the first `open` images of a folder through, and notes when another one is asked for."""

    def __init__(self, folder):
        self.names = sorted(path.name for path in folder.iterdir())
        self.open = 0
        self.asked, self.over = threading.Event(), threading.Event()

    def hold(self, name):
        if self.names.index(name) >= self.open:
            self.asked.set()
            self.over.wait()


@pytest.fixture
def gate(images, tmp_path):
    """A gate before a server of the images, whose addresses are in `list.txt`."""
    gate = Gate(images)
    with serving(images, gate.hold) as where:
        (tmp_path / "list.txt").write_text("".join(f"{where}/{name}\n" for name in gate.names))
        yield gate
        gate.over.set()


@pytest.fixture
def begin():
    """A function that starts a command, and its processes, which are gone in the end."""

    def begin(*words):
        process = start(*words, environment={"COLUMNS": "200"})
        begin.family.append(psutil.Process(process.pid))
        return process

    begin.family = []
    yield begin
    for process in begin.family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def shards_of(out):
    return sorted(out.glob("shard-*.parquet"))


def is_agent(process):
    """Whether a process is one of Ray's two agents, which do nothing and take a minute to see that they are alone."""
    try:
        return any("Agent" in word for word in process.cmdline())
    except psutil.Error:
        return True  # it has ended


def stopped(begin, gate, number, count, *words):
    """Start a batch, end it by a signal while it waits for the image after the first `count`, and return its code."""
    gate.open = count
    gate.asked.clear()
    process = begin(*words)
    while not gate.asked.wait(timeout=0.1):
        assert process.poll() is None, process.communicate()
    children = psutil.Process(process.pid).children(recursive=True)
    begin.family += children
    working = [child for child in children if not is_agent(child)]
    assert working
    process.send_signal(number)
    _, stderr = process.communicate(timeout=240)
    _, alive = psutil.wait_procs(working, timeout=240)
    assert not alive
    return process.returncode, stderr.decode()


def test_a_batch_that_was_stopped_twice_has_the_rows_of_one_run(images, gate, tmp_path, bundled, begin, monkeypatch):
    out = tmp_path / "out"
    words = ("batch", tmp_path / "list.txt", out, "--workers", 1)
    # One worker takes the shards in their order: what comes before the image that is held is finished or under way.
    code, stderr = stopped(begin, gate, signal.SIGTERM, 10, *words, "--shard-size", 4)
    assert (code, "Traceback" in stderr) == (128 + signal.SIGTERM, False), stderr
    first = shards_of(out)
    assert 1 <= len(first) < COUNT / 4
    code, stderr = stopped(begin, gate, signal.SIGKILL, 22, *words)
    assert code == -signal.SIGKILL, stderr
    assert len(first) < len(shards_of(out)) < COUNT / 4
    gate.open = COUNT
    process = begin(*words)
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 1, stderr  # one of several images could not be read
    assert "Traceback" not in stderr.decode()
    rows = [row for path in shards_of(out) for row in pq.read_table(path).to_pylist()]
    expected = to_records(bundled.stream(sorted(images.iterdir()), on_error="keep"), every_image=True)
    assert [row["source"].rpartition("/")[2] for row in rows] == [Path(row["source"]).name for row in expected]
    assert [bool(row["message"]) for row in rows] == [bool(row["message"]) for row in expected]
    for row, other in zip(rows, expected):
        assert row["happy"] == (other["happy"] and pytest.approx(other["happy"], abs=1e-4))
    assert sorted(path.name for path in out.iterdir()) == ["_run.json", *(path.name for path in shards_of(out))]
    assert json.loads((out / "_run.json").read_text())["images"] == COUNT
    # A finished batch is counted again, without Ray.
    monkeypatch.setattr("rmn_hub.distributed.batch.connected", None)
    again = run(*words)
    assert again.exit_code == 1
    assert again.stdout == stdout.decode()


@pytest.mark.parametrize(
    "words",
    [
        ("missing", "out"),
        (".", "out"),
        ("zzz://bucket/photos", "out"),
        ("a.jpg", "a.jpg"),
        ("a.jpg", "out", "--checkpoint", "missing/none/such"),
        ("a.jpg", "out", "--margin", "-2"),
        ("a.jpg", "out", "--engine", "none"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(words, tmp_path, monkeypatch, astronaut):
    monkeypatch.chdir(tmp_path)
    if words[0] == "a.jpg":
        astronaut.crop((100, 0, 400, 300)).save(tmp_path / "a.jpg")
    done = run("batch", *words)
    assert done.exit_code == 2
    assert done.stderr.startswith("rmn-hub: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_of_a_folder_is_reported(tmp_path, astronaut):
    folder = tmp_path / "set"
    folder.mkdir()
    astronaut.crop((100, 0, 400, 300)).save(folder / "a.jpg")
    for name in ("b.mp4", "c.mp4"):
        (folder / name).write_bytes(b"")
    # It ends before Ray is started.
    done = run("batch", folder, tmp_path / "out", "--checkpoint", "missing/none/such")
    left_out, _ = done.stderr.splitlines()
    assert "2 .mp4" in left_out
    assert "rmn-hub video" in left_out
