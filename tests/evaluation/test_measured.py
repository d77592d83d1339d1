"""The main results of an `eval.json`: read as they were written, and safe to show whatever was edited."""

import hashlib
import json

import pytest

from rmn_hub.evaluation.measured import Robust, SetScores, read_measured


def write_evaluation(folder, document, weights=b"weights"):
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "eval.json").write_text(json.dumps(document))


def an_evaluation(**sets):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    checkpoint = {"sha256": sha256, "parameters": 4_900_000, "multiply_adds": 148_000_000, "image_size": 48}
    return {"checkpoint": checkpoint, "sets": sets}


SCORES = {"accuracy": 0.7123, "interval": [0.6971, 0.7268], "faces": 3589, "expected_calibration_error": 0.0256}
AVERAGED = {"accuracy": 0.7199, "interval": [0.7049, 0.7342], "faces": 3589, "expected_calibration_error": 0.0156}


def test_results_are_those_of_these_weights(tmp_path):
    assert read_measured(tmp_path) is read_measured(None) is None
    removals = [
        {"stage": stage, "fraction": fraction, **{way: {"mean": mean * fraction} for way, mean in means.items()}}
        for fraction in (0.1, 0.2)
        for stage, means in (
            (1, {"map": 1.7, "random": 0.7, "features": 1.4}),
            (2, {"map": 1.5, "random": 0.7, "features": 1.6}),
        )
    ]
    views = {"single_view": SCORES, "flip_averaged": AVERAGED}
    unchanged, dark = ({"accuracy": accuracy, "changed": changed} for accuracy, changed in ((0.7, 0.0), (0.6, 0.1)))
    changes = [
        {"change": "unchanged", "accuracy": 0.69, "changed": 0.0, "averaged": unchanged},
        {"change": "dark", "accuracy": 0.58, "changed": 0.2, "averaged": dark},
        {"change": "broken", "averaged": {"accuracy": "<b>"}},
    ]
    views["robustness"] = {"views": 2, "changes": changes}
    public = {**views, "faithfulness": {"faces": 3589, "removals": removals}}
    write_evaluation(tmp_path, an_evaluation(private_test=views, public_test=public))
    measured = read_measured(tmp_path)
    assert [each.name for each in measured.sets] == ["private_test", "public_test"]
    intervals = (0.6971, 0.7268), (0.7049, 0.7342)
    assert measured.sets[0] == SetScores("private_test", 3589, 0.7123, intervals[0], 0.7199, intervals[1], 0.0156)
    assert (measured.parameters, measured.multiply_adds, measured.image_size) == (4_900_000, 148_000_000, 48)
    assert measured.robustness == (Robust("unchanged", 0.7, 0.0), Robust("dark", 0.6, 0.1))
    assert measured.faithfulness.map == pytest.approx((0.3, 0.34))
    assert measured.faithfulness.random == pytest.approx((0.14, 0.14))
    write_evaluation(tmp_path, an_evaluation(private_test={"single_view": SCORES}))
    assert read_measured(tmp_path).sets == (SetScores("private_test", 3589, 0.7123, intervals[0], None, None, 0.0256),)
    write_evaluation(tmp_path, an_evaluation(private_test=views), b"other weights")
    assert read_measured(tmp_path) is None


def test_other_networks_stand_beside_it_on_the_same_faces(tmp_path):
    ours = {name: {"single_view": SCORES, "data": {"sha256": name}} for name in ("private_test", "wild", "train")}
    same = {"flip_averaged": AVERAGED, "data": {"sha256": "private_test"}}
    others = {"flip_averaged": AVERAGED, "data": {"sha256": "other faces"}}
    networks = [{"name": "fer 1.0", "sets": {"private_test": same, "wild": others}}, {"name": EVIL, "sets": EVIL}, EVIL]
    write_evaluation(tmp_path, an_evaluation(**ours))
    (tmp_path / "peers.json").write_text(json.dumps({"networks": networks}))
    assert [each.peers for each in read_measured(tmp_path).sets] == [(("fer 1.0", 0.7199),), (), ()]
    for broken in ("[" * 100_000, "no JSON", json.dumps({"networks": EVIL})):
        (tmp_path / "peers.json").write_text(broken)
        assert [each.peers for each in read_measured(tmp_path).sets] == [(), (), ()]


EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["checkpoint"].update(image_size=EVIL, parameters=EVIL, multiply_adds=[EVIL]),
        lambda document: document["checkpoint"].update(image_size=float("inf"), parameters=10**400),
        lambda document: document["sets"].update({EVIL: {"single_view": SCORES}}),
        lambda document: document["sets"]["private_test"]["single_view"].update(accuracy=EVIL),
        lambda document: document["sets"]["private_test"]["single_view"].update(interval=[EVIL, 1], faces=3.5),
        lambda document: document["sets"]["private_test"].update(flip_averaged=None, faithfulness={"removals": [EVIL]}),
        lambda document: document["sets"]["private_test"].update(robustness={"changes": [EVIL, {"change": 3}]}),
        lambda document: document["sets"].update(private_test=[EVIL]),
        lambda document: document.update(sets=EVIL),
        lambda document: document.update(checkpoint=EVIL),
    ],
)
def test_an_edited_evaluation_is_numbers_and_text_or_nothing(tmp_path, change):
    document = json.loads(json.dumps(an_evaluation(private_test={"single_view": SCORES, "flip_averaged": SCORES})))
    change(document)
    write_evaluation(tmp_path, document)
    measured = read_measured(tmp_path)
    for each in () if measured is None else (measured, *measured.sets):
        for name, value in vars(each).items():
            assert name in ("name", "sets") or value is None or isinstance(value, (int, float, tuple))
    (tmp_path / "eval.json").write_text("[" * 100_000)
    assert read_measured(tmp_path) is None
