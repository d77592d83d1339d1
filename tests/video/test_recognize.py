"""A film with known faces: identities, times, the recognizer's own numbers, tables, timeline and summary."""

import contextlib
import json
import weakref
from dataclasses import replace

import numpy as np
import pandas
import pytest
from films import RATE, head, marked, scene, write_film
from PIL import Image

from rmn_hub import EXPRESSIONS, ExpressionRecognizer, FaceExpression, InputError
from rmn_hub.video import FrameResult, Timeline, recognize
from rmn_hub.video.frames import Film
from rmn_hub.video.recognize import analyse, session_for
from rmn_hub.video.tables import CSVWriter, JSONWriter, ParquetWriter, columns_of, to_df, to_records

HEADS = {"astronaut": head("astronaut", 120), "officer": head("officer", 120)}


def story():
    """
    For each of 60 frames: who is where. The astronaut passes in front of the officer, who leaves at the end; then the
    camera cuts to a bright room.
    """
    for number in range(48):
        places = {"officer": (190 - 4 * number, 60)} if number < 40 else {}
        places["astronaut"] = (4 * number, 100)
        yield places, 90
    for number in range(12):
        yield {"officer": (20 + 2 * number, 50)}, 220


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("story") / "story.mkv"
    frames = [
        scene(*((HEADS[name], place) for name, place in places.items()), shade=shade) for places, shade in story()
    ]
    return write_film(path, frames, codec="ffv1", pixels="bgr0")


@pytest.fixture(scope="module")
def fast(tiny_checkpoint):
    """The tiny network, and a detector that looks for large faces only."""
    return ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", min_face=48)


@pytest.fixture(scope="module")
def results(film, fast):
    return list(recognize(film, fast, detect_every=2))


def who(face, places):
    """Whose head a face is: the nearest one's."""
    centre = np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2
    return min(places, key=lambda name: np.linalg.norm(centre - np.array(places[name]) - 60))


def test_identities_times_and_cuts_are_right(results):
    ids = {}
    for number, (result, (places, _)) in enumerate(zip(results, story(), strict=True)):
        assert result.index == number
        assert result.time == pytest.approx(number / RATE, abs=1e-3)
        assert result.cut == (number == 48)
        apart = len(places) == 1 or abs(places["astronaut"][0] - places["officer"][0]) > 90
        for face in result.faces if apart else ():
            ids.setdefault((who(face, places), number >= 48), set()).add(face.track_id)
    assert {key: len(value) for key, value in ids.items()} == {
        ("astronaut", False): 1,
        ("officer", False): 1,
        ("officer", True): 1,
    }
    assert len(set.union(*ids.values())) == 3


def test_first_and_last_times_are_within_a_frame(results):
    timeline = Timeline()
    for result in results:
        timeline.add(result)
    first = sorted(track.first for track in timeline.tracks)
    assert first == pytest.approx([0, 0, 48 / RATE], abs=1 / RATE)
    last = sorted(track.last for track in timeline.tracks)
    # The officer is gone from frame 40 on; before that, part of the head has left the frame.
    assert last[0] == pytest.approx(39 / RATE, abs=8 / RATE)
    assert last[1:] == pytest.approx([47 / RATE, 59 / RATE], abs=1 / RATE)


def test_without_smoothing_the_table_is_that_of_the_recognizer(film, fast, tmp_path):
    path = recognize(film, fast, smooth=0, every=7).to_csv(tmp_path / "film.csv")
    table = pandas.read_csv(path)
    with Film(film) as opened:
        frames = {frame.index: frame.image for frame in opened}
    assert sorted(set(table["frame"])) == list(range(0, 60, 7))
    for number, rows in table.groupby("frame"):
        expected = fast(frames[number])
        assert len(rows) == len(expected) > 0
        for (_, row), face in zip(rows.iterrows(), expected, strict=True):
            assert [row[name] for name in ("x0", "y0", "x1", "y1")] == pytest.approx(face.box, abs=1e-3)
            assert {name: row[name] for name in EXPRESSIONS} == pytest.approx(face.probabilities, abs=1e-3)
            assert row["face"] == face.index


def test_without_smoothing_a_film_on_its_side_is_that_of_the_recognizer(fast, tmp_path):
    frames = [scene((HEADS["astronaut"].transpose(Image.Transpose.ROTATE_90), (90 + number, 60))) for number in (0, 1)]
    path = write_film(tmp_path / "film.mkv", frames, codec="ffv1", pixels="bgr0")
    for result, frame in zip(recognize(path, fast, smooth=0, images=True), frames, strict=True):
        expected = fast(frame)
        assert result.turned == expected.turned == 90
        assert [face.box for face in result] == [face.box for face in expected] != []
        assert result[0].probabilities == pytest.approx(expected[0].probabilities, abs=1e-5)
        assert result[0].track_id == 1


def test_every_start_and_end(film, fast):
    results = list(recognize(film, fast, start=0.4, end=0.8, every=4))
    assert [result.index for result in results] == [10, 14, 18]
    assert [result.image for result in results] == [None] * 3
    (first,) = fast.video(film, end=0.04, images=True)
    assert first.plot().size == first.image.size == (320, 240)
    with pytest.raises(InputError, match="every=0"):
        recognize(film, fast, every=0)
    with pytest.raises(InputError, match="smooth"):
        recognize(film, fast, smooth=-1)
    with pytest.raises(InputError, match="nowhere"):
        recognize("nowhere.mp4", fast)


@pytest.mark.parametrize(
    ("rate", "every", "searched", "confirmed"),
    [(25, 1, 5, 3), (25, 2, 2, 2), (60, 1, 12, 3), (240, 1, 12, 3), (5, 1, 1, 1)],
)
def test_searches_and_confirmations_go_by_time(film, fast, rate, every, searched, confirmed):
    with Film(film) as opened:
        opened.rate = rate
        tracker = session_for(opened, fast, every=every).tracker
        assert (tracker.detect_every, tracker.confirm) == (searched, confirmed)
        tracker = session_for(opened, fast, every=every, smooth=0).tracker
        assert (tracker.detect_every, tracker.confirm) == (1, 1)


def test_frames_far_apart_keep_their_identities(fast, tmp_path):
    frames = [scene((HEADS["astronaut"], (2 * number, 80)), size=(480, 240)) for number in range(150)]
    path = write_film(tmp_path / "film.mp4", frames)
    results = list(recognize(path, fast, every=20))
    assert [[face.track_id for face in result] for result in results] == [[1]] * 8


def test_results_carry_no_frame_and_a_film_can_be_closed(film, fast):
    results = recognize(film, fast)
    first = next(results)
    assert first.image is None
    results.close()
    assert list(results) == []


@pytest.mark.parametrize(("every", "settings"), [(1, {}), (100, {}), (50, {"detect_every": 3})])
def test_memory_does_not_hold_the_film(fast, tmp_path, monkeypatch, every, settings):
    path = write_film(tmp_path / "film.mp4", (marked(number, (96, 72)) for number in range(110)))
    frames, held, most = Film.__iter__, weakref.WeakSet(), [0]

    def counted(film):
        for frame in frames(film):
            held.add(frame)
            most.append(len(held))
            yield frame

    monkeypatch.setattr(Film, "__iter__", counted)
    assert len(list(recognize(path, fast, every=every, **settings))) == -(-110 // every)
    if not settings:
        with Film(path) as film:
            assert sum(1 for _ in analyse(film, session_for(film, fast, every=every), every=every)) == 110
    assert 1 < max(most) < 40


def test_tables_agree(results, tmp_path):
    for writer, name in ((CSVWriter, "a.csv"), (ParquetWriter, "a.parquet"), (JSONWriter, "a.jsonl")):
        with writer(tmp_path / name) as table:
            for result in results:
                table.write(result)
    frame = to_df(results)
    columns = ["source", "frame", "time", "track", "face", "x0", "y0", "x1", "y1", "score", "expression", "probability"]
    assert list(frame)[: len(columns)] == columns
    assert list(frame)[len(columns) + 1 :][:7] == list(EXPRESSIONS)
    assert len(frame) == sum(map(len, results))
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "a.csv"), frame, check_dtype=False)
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "a.parquet"), frame, check_dtype=False)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(60))
    assert [face["track_id"] for line in lines for face in line["faces"]] == list(frame["track"])
    assert results[5].to_df()["frame"].tolist() == [5] * len(results[5])
    for every_image in (False, True):
        for result in (results[5], FrameResult(source="film.mp4", width=9, height=9, index=3, time=0.5)):
            result.to_csv(tmp_path / "frame.csv", every_image=every_image)
            expected = result.to_df(every_image=every_image)
            written = pandas.read_csv(tmp_path / "frame.csv")
            assert list(written) == list(expected)
            assert written[["frame", "time"]].values.tolist() == expected[["frame", "time"]].values.tolist()


def test_a_frame_is_scaled_with_its_faces(results):
    scaled = results[5].scaled(2 * results[5].width, results[5].height)
    for faces, moved in ((results[5], scaled), (results[5].raw, scaled.raw)):
        assert len(faces) == len(moved) > 0
        for face, other in zip(faces, moved):
            x0, y0, x1, y1 = face.box
            assert other.box == pytest.approx((2 * x0, y0, 2 * x1, y1))
    assert (scaled.index, scaled.time) == (results[5].index, results[5].time)


def test_tables_without_faces_have_their_columns(tmp_path):
    for writer, read in ((CSVWriter, pandas.read_csv), (ParquetWriter, pandas.read_parquet)):
        with writer(tmp_path / "empty"):
            pass
        assert list(read(tmp_path / "empty")) == list(to_df([]))
    assert {"frame", "time", "track", *EXPRESSIONS} <= set(to_df([]))


def test_a_table_has_the_columns_of_its_expressions():
    empty = FrameResult(source="film.mp4", width=9, height=9)
    face = FaceExpression(box=(0, 0, 9, 9), expression="a", probability=1.0, probabilities={"a": 1.0, "b": 0.0})
    shown = replace(empty, faces=(replace(face, index=1, track_id=1),), index=1)
    for table in (to_df([empty], ("a", "b"), every_image=True), to_df([empty, shown], every_image=True)):
        assert list(table) == [*columns_of(("a", "b")), "message"]
    assert table["frame"].tolist() == [0, 1]


def test_a_table_appears_whole_or_not_at_all(tmp_path, results):
    for writer in (CSVWriter, ParquetWriter, JSONWriter):
        with pytest.raises(InputError, match="nowhere"):
            writer(tmp_path / "nowhere" / "film").__enter__()
        assert list(tmp_path.iterdir()) == []
        table = tmp_path / "film"
        table.write_text("of an earlier run")
        for result, kept in ((None, True), (results[0], False)):
            for early in (True, False):
                _break_off(writer(table), result, early)
                assert [path.name for path in tmp_path.iterdir()] == ["film"]
                assert (table.read_bytes() == b"of an earlier run") == kept
        table.unlink()


def _break_off(writer, result, early):
    with contextlib.suppress(KeyboardInterrupt), writer as table:
        if result is not None:
            table.write(result)
        table.early = early
        if not early:
            raise KeyboardInterrupt


def test_a_table_without_rows_replaces_an_older_one_when_it_is_complete(tmp_path):
    for writer in (CSVWriter, ParquetWriter, JSONWriter):
        (tmp_path / "film").write_text("of an earlier run")
        with writer(tmp_path / "film"):
            pass
        assert (tmp_path / "film").read_bytes() != b"of an earlier run"


def test_the_summary_adds_up(results, film):
    timeline = Timeline()
    with Film(film) as opened:
        for result, frame in zip(results, opened, strict=True):
            timeline.add(result, frame.image)
    table = to_df(results)
    assert [track.id for track in timeline.tracks] == sorted(set(table["track"]))
    for track in timeline.tracks:
        rows = table[table["track"] == track.id]
        assert track.frames == len(rows)
        assert sum(track.seconds.values()) == pytest.approx(len(rows) / RATE, abs=1e-6)
        for name, seconds in track.seconds.items():
            assert seconds == pytest.approx((rows["expression"] == name).sum() / RATE, abs=1e-6)
        assert track.probabilities == pytest.approx(rows[list(EXPRESSIONS)].mean().to_dict(), abs=1e-6)
        assert max(track.best.size) <= 224
        assert track.changes[0][0] == track.first
        assert json.loads(json.dumps(track.to_dict()))["track"] == track.id
    assert timeline.span == pytest.approx((0, 60 / RATE))


def test_changes_that_last_are_kept(results, film):
    first, face = results[0], results[0].faces[0]
    timeline = Timeline()
    image = next(iter(Film(film))).image
    # For a second each, but for two frames in between that are too short to count.
    shown = ["happy"] * RATE + ["fear"] * 2 + ["happy"] * RATE + ["sad"] * RATE
    for number, name in enumerate(shown):
        values = dict.fromkeys(EXPRESSIONS, 0.0) | {name: 1.0}
        seen = replace(face, expression=name, probability=1.0, probabilities=values)
        timeline.add(replace(first, faces=(seen,), time=number / RATE, index=number), image)
    [track] = timeline.tracks
    assert [name for _, name, _ in track.changes] == ["happy", "sad"]
    assert [time for time, _, _ in track.changes] == pytest.approx([0, (2 * RATE + 2) / RATE])


def test_frames_that_are_seconds_apart_are_drawn_and_end_with_the_film(results):
    timeline = Timeline()
    track = results[0].faces[0].track_id
    for number in (0, 1, 2, 5):  # there is a pause before the last one
        timeline.add(replace(results[0], time=2.0 * number, index=10 * number))
    timeline.end = 10.4
    times, values = timeline.strip(track)
    assert times == pytest.approx([0, 2, 4, 7, 10], abs=0.05)
    assert np.isnan(values).all(axis=1).tolist() == [False, False, False, True, False]
    assert timeline.span == (0, 10.4)
    [seconds] = [sum(one.seconds.values()) for one in timeline.tracks if one.id == track]
    assert seconds == pytest.approx(10.4)


def test_the_timeline_shows_a_row_for_each_track(results):
    timeline = Timeline()
    for result in results:
        timeline.add(result)
    drawn = timeline.figure(title="story.mkv")
    texts = [text.get_text() for text in drawn.texts]
    assert "story.mkv" in texts
    assert [text for text in texts if text.isdecimal()] == [str(track.id) for track in timeline.tracks]
    assert [text.get_text() for text in drawn.axes[-1].get_legend().get_texts()] == list(EXPRESSIONS)
    assert timeline.draw("dark").size == timeline.draw().size
    assert Timeline().draw().mode == "RGB"
    times, values = timeline.strip(timeline.tracks[0].id)
    rows = to_df(results)
    rows = rows[rows["track"] == timeline.tracks[0].id]
    assert len(times) == len(values) == len(rows)
    np.testing.assert_allclose(values, rows[list(EXPRESSIONS)].to_numpy(), atol=1e-9)


def test_a_timeline_of_a_long_film_stays_small(results):
    timeline = Timeline()
    for number in range(20_000):
        timeline.add(replace(results[0], time=number / RATE, index=number))
    times, values = timeline.strip(results[0][0].track_id)
    assert 1000 < len(times) <= 2048
    assert times[-1] == pytest.approx(20_000 / RATE, abs=1)
    np.testing.assert_allclose(values, [list(results[0][0].probabilities.values())] * len(times), atol=1e-9)


def test_a_film_without_faces(fast, tmp_path):
    path = write_film(tmp_path / "film.mp4", map(marked, range(4)))
    results = list(recognize(path, fast))
    assert [len(result) for result in results] == [0] * 4
    assert len(recognize(path, fast).to_df()) == 0
    assert to_records(results[0]) == []
    assert to_df(results, every_image=True)["frame"].tolist() == [0, 1, 2, 3]


def test_a_face_that_crosses_a_still_scene_is_not_a_cut(fast, tmp_path):
    frames = [scene((HEADS["astronaut"], (3 * number, 60))) for number in range(60)]
    path = write_film(tmp_path / "crossing.mkv", frames, codec="ffv1", pixels="bgr0")
    for every in (1, 20):
        results = list(recognize(path, fast, every=every))
        assert len(results) == 60 // every
        assert not any(result.cut for result in results)
        assert len({face.track_id for result in results for face in result}) == 1
