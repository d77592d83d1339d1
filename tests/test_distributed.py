"""Batches on a Ray cluster of two nodes with a core each, which is started once."""

import io
import shutil
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from file_server import serving

from rmn_hub import InputError
from rmn_hub.distributed import recognize, recognize_batch, summarize
from rmn_hub.tables import to_records

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rmn-hub[cluster]'")
STORE = 100_000_000


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, each of which has room for one actor: they share one machine, and nothing else."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": STORE}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        nodes.add_node(**node)
        nodes.wait_for_nodes()
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory, astronaut, faceless):
    """Six small images, one without faces and one damaged, and something else."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(4):
        astronaut.crop((100, 0, 400 - 10 * number, 300)).save(folder / f"{number}.jpg", quality=95)
    faceless.crop((0, 0, 200, 150)).save(folder / "4.png")
    (folder / "5.jpg").write_bytes((folder / "0.jpg").read_bytes()[:3000])
    (folder / "notes.txt").write_text("not an image")
    return folder


def rows_of(out):
    """The rows of a batch in the order of the shards."""
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def assert_same_rows(found, expected):
    assert len(found) == len(expected)
    for row, other in zip(found, expected):
        numbers = {name for name, value in other.items() if isinstance(value, float)}
        assert {name: row[name] for name in other if name not in numbers} == {
            name: value for name, value in other.items() if name not in numbers
        }
        for name in numbers:
            assert row[name] == pytest.approx(other[name], abs=1e-4)


@pytest.fixture(scope="module")
def expected(images, bundled):
    """The rows that `rmn-hub predict` has of the images."""
    paths = sorted(path for path in images.iterdir() if path.suffix != ".txt")
    return to_records(bundled.stream(paths, on_error="keep"), every_image=True)


@pytest.fixture(scope="module")
def finished(cluster, images, tmp_path_factory):
    """A finished batch of three shards, and the calls of its progress."""
    out = tmp_path_factory.mktemp("finished") / "out"
    calls = []
    summary = recognize_batch(images, out, shard_size=2, progress=lambda *values: calls.append(values))
    return out, summary, calls


def test_rows_are_those_of_predict(finished, expected):
    out, summary, calls = finished
    assert_same_rows(rows_of(out), expected)
    assert (summary.images, summary.faces, summary.without_faces, summary.failed) == (6, 4, 1, 1)
    assert sum(summary.expressions.values()) == 4
    assert calls[0] == ("images", 0, 6)
    assert sorted(calls[1:]) == [("images", 2, 6)] * 3


def test_a_second_start_does_what_is_missing_and_nothing_else(finished, images, expected, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    (out / "shard-000001.parquet").unlink()
    (out / ".shard-000001-0123456789ab.parquet").write_bytes(b"half-written")
    kept = {path.name: path.stat().st_ino for path in out.glob("shard-*.parquet")}
    assert summarize(str(out)).images == 4
    calls = []
    recognize_batch(images, out, progress=lambda *values: calls.append(values))
    assert calls == [("images", 4, 6), ("images", 2, 6)]
    assert_same_rows(rows_of(out), expected)
    assert kept.items() <= {path.name: path.stat().st_ino for path in out.iterdir()}.items()
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["_run.json", *(f"shard-00000{number}.parquet" for number in range(3))]
    )


def test_a_start_with_other_settings_is_refused(finished, images, tiny_checkpoint, tmp_path):
    out, _, _ = finished
    for settings, named in [
        ({"min_face": 80}, "min_face"),
        ({"faces_only": True}, "faces_only"),
        ({"upright": False}, "upright"),
        ({"shard_size": 3}, "shard_size"),
        ({"checkpoint": tiny_checkpoint}, "checkpoint"),
    ]:
        with pytest.raises(InputError, match=named):
            recognize_batch(images, out, **settings)
    with pytest.raises(InputError, match="source"):
        recognize_batch(images / "0.jpg", out)
    with pytest.raises(InputError, match="empty"):
        recognize_batch(images, images)
    with pytest.raises(InputError, match="threshold"):
        recognize_batch(images, tmp_path / "out", threshold=2)
    with pytest.raises(InputError, match="workers"):
        recognize_batch(images, tmp_path / "out", workers=3)
    assert summarize(str(out)).images == 6


def test_two_nodes_share_the_work_on_addresses(cluster, images, expected, tmp_path):
    both = threading.Barrier(2)

    def hold(name):
        if name in ("0.jpg", "4.png"):  # the first of both shards: none is handed out before both are wanted
            both.wait(timeout=120)

    with serving(images, hold) as where:
        names = ["0.jpg", "gone.jpg", "1.jpg", "4.png", "5.jpg"]
        (tmp_path / "list.txt").write_text("".join(f"{where}/{name}\n" for name in names))
        assert [node["Resources"]["CPU"] for node in ray.nodes()] == [1, 1]
        recognize_batch(tmp_path / "list.txt", tmp_path / "out", shard_size=3, workers=2)
    found = {row["source"].rpartition("/")[2]: row for row in rows_of(tmp_path / "out")}
    assert list(found) == names
    assert found["gone.jpg"]["width"] == 0
    assert found["5.jpg"]["width"] == 0
    assert "5.jpg" in found["5.jpg"]["message"]
    for row in expected[:2]:
        assert found[row["source"].rpartition("/")[2]]["probability"] == pytest.approx(row["probability"], abs=1e-4)


def test_a_shard_that_cannot_be_read_ends_the_batch_with_a_sentence(cluster, images, tmp_path):
    import pyarrow as pa

    data = (images / "0.jpg").read_bytes()
    source = tmp_path / "set.parquet"
    pq.write_table(pa.table({"image": [data]}), source)
    with pytest.raises(InputError, match=r"set\.parquet"):
        recognize_batch(source, tmp_path / "out", progress=lambda *_: source.write_bytes(b"replaced"))
    pq.write_table(pa.table({"image": [data]}), source)
    assert recognize_batch(source, tmp_path / "out").faces == 1


def test_a_dataset_of_ray_becomes_rows(cluster, images, expected, astronaut):
    files = ray.data.read_binary_files(str(images), include_paths=True, file_extensions=["jpg", "png"])
    rows = sorted(recognize(files, workers=1).take_all(), key=lambda row: row["source"])
    assert_same_rows([{**row, "message": row["message"]} for row in rows], expected)


def test_arrays_and_names_of_ones_own(cluster, astronaut):
    pixels = np.asarray(astronaut.crop((100, 0, 400, 300)))
    data = io.BytesIO()
    astronaut.crop((100, 0, 400, 300)).save(data, "PNG")
    rows = [{"photo": pixels, "id": "array"}]
    [row] = recognize(ray.data.from_items(rows), image="photo", name="id", workers=1).take_all()
    assert (row["source"], row["face"], row["width"]) == ("array", 1, 300)
    with pytest.raises(InputError, match="threshold"):
        recognize(ray.data.from_items(rows), threshold=7)
