"""Damaged tables: whatever the bytes, the only error is the project's own."""

import contextlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from test_data import PIXELS

from rmn_hub.data.sources import load_faces
from rmn_hub.errors import InputError


def whole_parquet():
    buffer, image = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(image, "png")
    features = {"info": {"features": {"label": {"names": ["angry", "happy", "sad"], "_type": "ClassLabel"}}}}
    columns = {
        "image": [{"bytes": image.getvalue(), "path": f"{row}.png"} for row in range(12)],
        "label": [0, 1, 2] * 4,
        "ferplus_votes": np.eye(12, 10).tolist(),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)}), buffer)
    return buffer.getvalue()


def whole_csv():
    rows = [f"{row % 7},{PIXELS},{usage}" for row, usage in enumerate(["Training", "PublicTest", "PrivateTest"] * 4)]
    return "\n".join(["emotion,pixels,Usage", *rows]).encode()


def damaged(rng, whole):
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(0, len(data)))
        length = int(rng.choice([1, 1, 4, 40]))
        kind = rng.integers(0, 4)
        if kind == 0:
            data[place : place + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        elif len(data) > 100:
            data[place : place + length] = bytes(length)
    return bytes(data)


def test_damaged_tables(tmp_path):
    rng = np.random.default_rng(0)
    read = failed = 0
    for name, whole in (("a.parquet", whole_parquet()), ("fer2013.csv", whole_csv())):
        (tmp_path / name).write_bytes(whole)
        assert len(load_faces(tmp_path / name, "all", 12)) == 12
        for _ in range(250):
            (tmp_path / name).write_bytes(damaged(rng, whole))
            failed += 1
            with contextlib.suppress(InputError):
                load_faces(tmp_path / name, "all", 12)
                read, failed = read + 1, failed - 1
    assert failed > 50
    assert read > 10
