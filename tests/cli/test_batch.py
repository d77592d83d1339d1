"""`rmn-hub batch`: stopped in any way and started again, it has the rows of `rmn-hub predict`."""

import contextlib
import json
import signal
import time

import psutil
import pyarrow.parquet as pq
import pytest
from cli_helpers import run, start

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


def stopped(begin, number, out, *words):
    """Start a batch, end it by a signal once it has one more shard, and return its code."""
    before = len(shards_of(out))
    process = begin(*words)
    while len(shards_of(out)) == before and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    children = psutil.Process(process.pid).children(recursive=True)
    begin.family += children
    working = [child for child in children if not is_agent(child)]
    assert working
    process.send_signal(number)
    process.communicate(timeout=240)
    _, alive = psutil.wait_procs(working, timeout=240)
    assert not alive
    return process.returncode


def test_a_batch_that_was_stopped_twice_has_the_rows_of_one_run(images, tmp_path, bundled, begin, monkeypatch):
    out = tmp_path / "out"
    words = ("batch", images, out, "--workers", 1)
    assert stopped(begin, signal.SIGTERM, out, *words, "--shard-size", 1) == 128 + signal.SIGTERM
    assert stopped(begin, signal.SIGKILL, out, *words) == -signal.SIGKILL
    process = begin(*words)
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 1, stderr  # one of several images could not be read
    assert "Traceback" not in stderr.decode()
    rows = [row for path in shards_of(out) for row in pq.read_table(path).to_pylist()]
    expected = to_records(bundled.stream(sorted(images.iterdir()), on_error="keep"), every_image=True)
    assert [row["source"] for row in rows] == [row["source"] for row in expected]
    assert [row["message"] for row in rows] == [row["message"] for row in expected]
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
