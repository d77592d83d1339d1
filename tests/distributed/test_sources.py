"""Sources of a batch, local and at addresses, and the folder that it fills; without Ray."""

import io
import random
import tarfile
from collections import Counter

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmn_hub import InputError, MissingPackageError
from rmn_hub.distributed.actors import RowActor, ShardActor
from rmn_hub.distributed.fetching import MANY
from rmn_hub.distributed.output import ATTEMPTS, Output
from rmn_hub.distributed.places import Place
from rmn_hub.distributed.rows import table
from rmn_hub.distributed.sources import Shard, Stored, find_source, read_shard
from rmn_hub.distributed.summary import kind_of_failure, summarize
from rmn_hub.images import LINKED

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def empty_memory():
    MEMORY.store.clear()
    yield
    MEMORY.store.clear()


@pytest.fixture(scope="module")
def jpeg(astronaut):
    data = io.BytesIO()
    astronaut.crop((100, 0, 400, 300)).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """A function that writes files, and returns the folder's path or address."""

    def write(**files):
        for name, data in files.items():
            name = name.replace("__", "/").replace("_", ".")
            if request.param == "local":
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(data)
            else:
                MEMORY.pipe_file(f"/set/{name}", data)
        return str(tmp_path) if request.param == "local" else "memory:///set"

    return write


def parquet_of(cells, **options):
    data = io.BytesIO()
    pq.write_table(pa.table({"image": cells, "label": list(range(len(cells)))}), data, **options)
    return data.getvalue()


def tar_of(mode="w", **members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def results_of(recognizer, source, size=2):
    images = [image for shard in source.shards(size) for image in read_shard(shard)]
    return list(recognizer.stream(images, on_error="keep"))


def test_a_folder_and_a_glob_are_sorted_and_hold_images_only(place, jpeg, recognizer):
    where = place(b_jpg=jpeg, a_jpg=jpeg, more__c_jpg=jpeg[:2000], notes_txt=b"x", _hidden_jpg=jpeg)
    found = find_source(where)
    assert [name.removeprefix(where) for name in found.names] == ["/a.jpg", "/b.jpg", "/more/c.jpg"]
    assert found.left_out == {".txt": 1}
    assert [shard.images for shard in found.shards(2)] == [2, 1]
    assert find_source(f"{where}/*.jpg").names == found.names[:2]
    assert not find_source(f"{where}/*.jpg").left_out
    results = results_of(recognizer, found)
    assert [result.source for result in results] == list(found.names)
    assert [len(result) for result in results] == [1, 1, 0]
    assert [result.failed for result in results] == [False, False, True]
    assert "more/c.jpg" in results[2].message


def test_a_list_keeps_its_order_and_a_missing_file_is_a_row(place, jpeg, recognizer, tmp_path):
    where = place(b_jpg=jpeg, a_jpg=jpeg)
    names = [f"{where}/b.jpg", f"{where}/gone.jpg", f"{where}/a.jpg"]
    (tmp_path / "list.txt").write_text("\n".join([*names, "", names[0]]), encoding="utf-8")
    found = find_source(str(tmp_path / "list.txt"))
    assert list(found.names) == names
    assert [result.failed for result in results_of(recognizer, found)] == [False, True, False]


def test_rows_of_parquet_files_are_cut_into_shards(place, jpeg, recognizer):
    cells = [{"bytes": jpeg, "path": f"{row}.jpg"} for row in range(5)]
    cells[3] = {"bytes": b"no image", "path": None}
    where = place(two_parquet=parquet_of(cells[:1]), one_parquet=parquet_of(cells, row_group_size=2))
    found = find_source(where)
    assert (found.kind, found.rows, found.images) == ("parquet", (5, 1), 6)
    assert [(shard.start, shard.stop) for shard in found.shards(3)] == [(0, 3), (3, 5), (0, 1)]
    results = results_of(recognizer, found, size=3)
    names = [f"{where}/one.parquet#{row}" for row in range(5)] + [f"{where}/two.parquet#0"]
    assert [result.source for result in results] == names
    assert [result.failed for result in results] == [row == 3 for row in range(6)]


def test_a_shard_of_a_row_group_does_not_read_what_comes_after_it(tmp_path, monkeypatch):
    images = [random.Random(row).randbytes(100_000) for row in range(100)]
    data = parquet_of(images, write_batch_size=1, use_dictionary=False)
    (tmp_path / "a.parquet").write_bytes(data)
    sizes = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            sizes.append(len(data := super().read(size)))
            return data

    monkeypatch.setattr(Place, "open", lambda self: Counted(self.path))
    [first, *_, last] = find_source(str(tmp_path / "a.parquet")).shards(20)
    sizes.clear()
    assert [image.data for image in read_shard(first)] == images[:20]
    # The footer, the shard's rows, those of the batch that follows, and what is read ahead.
    assert sum(sizes) < len(data) / 2
    assert max(sizes) < len(data) / 5
    sizes.clear()
    assert [image.data for image in read_shard(last)] == images[80:]
    assert max(sizes) < len(data) / 5


def test_a_tar_is_a_shard_and_a_damaged_one_ends_with_a_row(place, jpeg, recognizer):
    whole = tar_of(**{"0_jpg": jpeg, "0_json": b"{}", "1_jpg": jpeg})
    where = place(a_tar=whole, b_tar=whole[: len(whole) // 3])
    found = find_source(where)
    assert (found.kind, found.images, len(found.shards(1))) == ("tar", None, 2)
    results = results_of(recognizer, found)
    assert [result.source for result in results[:2]] == [f"{where}/a.tar#0.jpg", f"{where}/a.tar#1.jpg"]
    assert not any(result.failed for result in results[:2])
    assert results[-1].source == f"{where}/b.tar"
    assert results[-1].failed


def test_a_batch_that_writes_into_its_source_does_not_find_its_own_files(place, jpeg):
    where = place(a_tar=tar_of(**{"0_jpg": jpeg}), faces__shard_parquet=parquet_of([{"bytes": jpeg, "path": None}]))
    assert find_source(where).kind == "parquet"
    for out in (f"{where}/faces", f"{where}/faces".replace("memory:///", "memory://")):
        assert find_source(where, out).names == (f"{where}/a.tar",)


def test_what_a_batch_has_written_into_its_source_is_not_left_out(place, jpeg):
    where = place(a_jpg=jpeg, b_tar=tar_of(), c_mp4=b"x", d_mp4=b"x", faces__shard_parquet=b"x")
    assert find_source(where, f"{where}/faces").left_out == {".mp4": 2, ".tar": 1}


@pytest.mark.parametrize(("name", "which"), [("a.jpg", ""), ("a.jpg", "*"), ("a.tar", "")])
def test_linked_folders_are_counted_as_left_out(tmp_path, name, which):
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
        (place / name).write_bytes(b"x")
    (folder / "linked").symlink_to(elsewhere)
    found = find_source(str(folder / which))
    assert (found.names, found.left_out) == ((str(folder / name),), {LINKED: 1})


def test_hidden_is_what_lies_below_the_source(place, jpeg, monkeypatch):
    where = place(**{"-data__a_jpg".replace("-", "_"): jpeg, "-data__-more__b_jpg".replace("-", "_"): jpeg})
    for source in (f"{where}/.data", f"{where}/.data/*.jpg", f"{where}/.data/**/*.jpg"):
        assert find_source(source).names == (f"{where}/.data/a.jpg",)


def test_a_list_from_an_editor_that_marks_utf_8(place, jpeg, tmp_path):
    name = f"{place(a_jpg=jpeg)}/a.jpg"
    (tmp_path / "list.txt").write_text(name, encoding="utf-8-sig")
    assert find_source(str(tmp_path / "list.txt")).names == (name,)


def test_a_name_that_is_not_utf_8_beside_a_message(recognizer, astronaut):
    data = io.BytesIO()
    frames = [astronaut.resize((64, 64)), astronaut.resize((64, 64)).rotate(90)]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:])
    image = Stored(b"caf\xe9.gif".decode("utf-8", "surrogateescape"), data.getvalue())
    [result] = recognizer.stream([image], faces_only=True)
    assert "several frames" in result.message
    [row] = table([result], recognizer.expressions).to_pylist()
    assert row["source"] == r"caf\udce9.gif"
    assert row["message"] == result.message


def test_the_digest_depends_on_names_and_order(place, jpeg):
    first = find_source(place(a_jpg=jpeg)).digest()
    assert find_source(place(a_jpg=jpeg[:99])).digest() == first
    assert find_source(place(b_jpg=jpeg)).digest() != first


@pytest.mark.parametrize("source", ["", "missing", "memory://missing", "memory://missing/*.jpg", "nothing://x/y"])
def test_a_source_that_is_not_there_is_an_input_error(source):
    with pytest.raises(InputError):
        find_source(source)


def test_a_source_of_two_kinds_or_without_a_column_of_images_is_an_input_error(tmp_path, jpeg):
    (tmp_path / "list.txt").write_text("a.jpg\nb.parquet\n")
    with pytest.raises(InputError, match="kind"):
        find_source(str(tmp_path / "list.txt"))
    pq.write_table(pa.table({"label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column"):
        find_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_suffix_of_an_address_is_that_of_its_path(scheme, tmp_path, jpeg, monkeypatch):
    where = f"{scheme}://host.invalid/set"
    names = [f"{where}/a.jpg?size=[9]&sig=x.tar", f"{where}/b.JPG#part", f"{where}/image?id=1"]
    files = {
        "t.parquet?download=true": parquet_of([{"bytes": jpeg, "path": None}]),
        "list.txt?token=a*b": "\n".join(names).encode(),
    }
    monkeypatch.setattr(Place, "open", lambda self: io.BytesIO(files[self.name.rpartition("/")[2]]))
    monkeypatch.setattr(Place, "read", lambda self: files[self.name.rpartition("/")[2]])
    for name, kind in [("t.parquet?download=true", "parquet"), ("p.tar?sig=a/b.jpg", "tar"), ("p.tgz?v=1", "tar")]:
        found = find_source(f"{where}/{name}")
        assert (found.kind, found.names) == (kind, (f"{where}/{name}",))
    assert find_source(names[0]).names == (names[0],)
    found = find_source(f"{where}/list.txt?token=a*b")
    assert (found.kind, list(found.names)) == ("images", names)


def test_a_mark_in_the_name_of_a_file_is_no_query(place, jpeg):
    where = place(**{"a_parquet#1_jpg": jpeg})
    assert find_source(where).names == (f"{where}/a.parquet#1.jpg",)


def test_an_address_whose_package_is_missing(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(MissingPackageError, match="s3fs"):
        find_source("s3://bucket/photos")


@pytest.fixture
def store(monkeypatch, jpeg):
    """A function that makes a store of images, where `fails(number, call)` may raise, and returns their addresses."""

    def make(fails, count):
        asked = Counter()

        def cat_file(self, path, **_):
            asked[path] += 1
            fails(int(path.rsplit("/", 1)[-1]), asked[path])
            return jpeg

        monkeypatch.setattr("rmn_hub.distributed.fetching.time.sleep", lambda seconds: None)
        monkeypatch.setattr(type(MEMORY), "cat_file", cat_file)
        return tuple(f"memory://set/{number}" for number in range(count))

    return make


def read(names):
    return list(read_shard(Shard(0, "images", names, images=len(names))))


def failed(images):
    """The numbers of the images without bytes."""
    return [number for number, image in enumerate(images) if isinstance(image.data, OSError)]


ERRORS = [TimeoutError("no route"), PermissionError("The provided token has expired.")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("lost", [2, 400])
def test_a_store_that_goes_makes_no_rows_that_would_be_kept(store, error, lost):
    gone = False

    def fails(number, call):
        nonlocal gone
        gone = gone or number == 100
        if gone and (number >= 100 or call > 1):
            raise error

    with pytest.raises(InputError, match=str(error)):
        read(store(fails, 100 + lost))


@pytest.mark.parametrize("error", ERRORS)
def test_a_store_that_is_gone_from_the_start_makes_no_rows(store, error):
    def fails(number, call):
        raise error

    with pytest.raises(InputError, match=str(error)):
        read(store(fails, MANY))
    # A few may be of a host that is gone for good, and a list that ends with them must come to its end.
    assert failed(read(store(fails, 1))) == [0]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("bad", [range(5, 6), range(8, 8 + 2 * MANY), range(38, 40)])
def test_images_that_are_lost_in_a_store_that_is_there_are_rows(store, error, bad):
    def fails(number, call):
        if number in bad:
            raise error

    assert failed(read(store(fails, 40))) == [number for number in bad if number < 40]


def test_addresses_in_a_parquet_file_of_a_store_that_goes(store, tmp_path):
    def fails(number, call):
        if number > 5 or call > 1:
            raise TimeoutError("no route")

    pq.write_table(pa.table({"image": store(fails, 10)}), tmp_path / "a.parquet")
    [shard] = find_source(str(tmp_path / "a.parquet")).shards(10)
    with pytest.raises(InputError, match="no route"):
        list(read_shard(shard))


@pytest.mark.parametrize("error", [ConnectionResetError("closed"), FileNotFoundError("gone"), ValueError("odd")])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_store_that_goes_while_a_tar_is_read_makes_no_row(monkeypatch, tmp_path, error, mode):
    members = {f"{number}_jpg": random.Random(number).randbytes(20_000) for number in range(10)}
    (tmp_path / "a.tar").write_bytes(tar_of(mode=mode, **members))

    class BreaksOff(io.FileIO):
        def read(self, size=-1):
            if self.tell() > 100_000:
                raise error
            return super().read(min(size, 20_000))

    monkeypatch.setattr(Place, "open", lambda self: BreaksOff(self.path))
    images = read_shard(Shard(0, "tar", (str(tmp_path / "a.tar"),)))
    with pytest.raises(InputError, match=str(error)):
        list(images)


def test_what_a_server_refuses_is_a_row(monkeypatch, recognizer):
    class Forbidden(Exception):
        status = 403

    def refuse(self, path, **_):
        raise Forbidden("not for you")

    monkeypatch.setattr(type(MEMORY), "cat_file", refuse)
    names = tuple(f"memory://set/{number}.jpg" for number in range(MANY))
    results = list(recognizer.stream(read_shard(Shard(0, "images", names, images=MANY)), on_error="keep"))
    assert len(results) == MANY
    assert all("not for you" in result.message for result in results)


@pytest.fixture(params=["local", "memory"])
def out(request, tmp_path):
    return str(tmp_path / "out") if request.param == "local" else "memory://out"


def test_a_folder_holds_whole_files_with_the_columns_of_to_records(out, recognizer, astronaut, faceless):
    output = Output(out)
    assert output.is_empty()
    assert output.document() is None
    output.prepare()
    output.begin({"shard_size": 2})
    assert output.document() == {"shard_size": 2}
    results = recognizer([astronaut, faceless.crop((0, 0, 200, 150)), b"broken"], on_error="keep")
    output.write(4, table(results, recognizer.expressions))
    output.write(1, table(results[2:], recognizer.expressions))
    assert list(output.files()) == [1, 4]
    with output.open(output.files()[1]) as first, output.open(output.files()[4]) as second:
        rows, others = pq.read_table(first), pq.read_table(second)
    assert rows.schema == others.schema
    assert others["expression"].to_pylist() == [results[0][0].expression, None, None]
    summary = summarize(out)
    assert (summary.images, summary.faces, summary.without_faces, summary.failed) == (4, 1, 1, 2)
    assert list(summary.failures.values()) == [2]
    assert summary.expressions == {results[0][0].expression: 1}


def test_a_shard_that_ends_its_process_is_not_begun_for_ever(out):
    output = Output(out)
    output.prepare()
    for _ in range(ATTEMPTS):
        output.attempt(3)
    with pytest.raises(InputError, match="shard 3"):
        output.attempt(3)
    output.attempt(2)
    output.done(2)
    output.tidy(finished=False)
    output.attempt(3)


def test_failures_of_one_kind_have_one_sentence():
    assert kind_of_failure("/a/1.jpg", "/a/1.jpg is 5 x 6 pixels: too small") == "is N x N pixels: too small"
    assert kind_of_failure("b.png", "b.png is damaged (3 bytes): copy it") == "is damaged: copy it"


def test_what_no_one_foresaw_in_a_worker_is_a_sentence(tmp_path, recognizer, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("rmn_hub.distributed.actors.table", fails)
    output = Output(str(tmp_path / "out"))
    output.prepare()
    actor = ShardActor(lambda: recognizer, faces_only=True, out=output.out)
    done = actor(pa.Table.from_pylist([Shard(4, "images", ("a.jpg",), images=1).to_dict()]))
    assert done == {"index": [4], "images": [0], "error": ["Shard 4 failed in a worker: ZeroDivisionError: by zero."]}


@pytest.mark.parametrize(
    ("batch", "name", "expected"),
    [
        ({"image": [{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]}, None, ["a.jpg", "b.jpg"]),
        ({"bytes": [b"x", b"y"], "path": ["a.jpg", "b.jpg"]}, None, ["a.jpg", "b.jpg"]),
        ({"image": [{"bytes": b"x", "path": "a.jpg"}], "id": [7]}, "id", ["7"]),
        ({"image": ["a.jpg"]}, None, ["a.jpg"]),
    ],
)
def test_rows_of_a_dataset_are_named(recognizer, batch, name, expected):
    actor = RowActor(lambda: recognizer, faces_only=True, image=None, name=name)
    assert actor(batch)["source"].to_pylist() == expected


@pytest.mark.parametrize("cell", [{"bytes": b"x", "path": None}, b"x", np.zeros((20, 20, 3), np.uint8)])
def test_images_of_a_dataset_without_a_path_need_names(recognizer, cell):
    """A number would begin again in each batch."""
    with pytest.raises(InputError, match="name=None"):
        RowActor(lambda: recognizer, faces_only=True, image=None, name=None)({"image": [cell]})
    with pytest.raises(InputError, match="name='other'"):
        RowActor(lambda: recognizer, faces_only=True, image=None, name="other")({"image": [cell]})
