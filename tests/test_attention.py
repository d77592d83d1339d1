"""Attention maps, their place over the face, and their faithfulness."""

import json

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor, nn

from rmn_hub.attention import attention_maps, attention_of_faces, normalize, overlay, place, reduce_mask
from rmn_hub.errors import InputError
from rmn_hub.evaluation.faithfulness import faithfulness
from rmn_hub.model.configuration_rmn import RMNConfig
from rmn_hub.model.modeling_rmn import RMNModel, RMNOutput
from rmn_hub.results import Attention

TINY = {
    "image_size": 32,
    "stem": "small",
    "embedding_size": 8,
    "hidden_sizes": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "mask_depths": (2, 1, 1, 1),
    "mask_ratio": 0.25,
}


def make_model(seed: int = 0, **settings: object) -> RMNModel:
    torch.manual_seed(seed)
    return RMNModel(RMNConfig(**{**TINY, **settings})).eval()


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """The astronaut's face, and the same face in three other ways."""
    face = data.astronaut()[50:180, 155:285]
    return [np.ascontiguousarray(crop) for crop in (face, face[:, ::-1], face[10:110, 10:110], face[::2, ::2])]


@pytest.fixture(scope="module")
def pixel_values(crops: list[np.ndarray]) -> Tensor:
    grey = [torch.from_numpy(crop.mean(2, dtype=np.float32) / 255)[None, None] for crop in crops]
    faces = [nn.functional.interpolate(face, (32, 32), mode="bilinear", antialias=True) for face in grey]
    return torch.cat(faces).expand(-1, 3, -1, -1)


@torch.inference_mode()
def answer(model: RMNModel, pixel_values: Tensor) -> RMNOutput:
    return model(pixel_values, output_masks=True, output_hidden_states=True)


def attention_of_outputs(outputs: RMNOutput, crops: list[np.ndarray]) -> list[Attention]:
    """What an engine does with the outputs, then `attention_of_faces`."""
    before, after = ([state.abs().mean(1).numpy() for state in outputs.hidden_states[first::2]] for first in (0, 1))
    return attention_of_faces([stage.numpy() for stage in attention_maps(outputs)], before, after, crops)


# From masks to maps


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_maps_of_a_real_face_show_something(activation: str, crops: list[np.ndarray], pixel_values: Tensor) -> None:
    model = make_model(mask_activation=activation)
    outputs = answer(model, pixel_values)
    faces = attention_of_outputs(outputs, crops)
    assert len(faces) == len(crops)
    for face in faces:
        assert [stage.shape for stage in face.maps] == [(size, size) for size in model.config.stage_sizes()]
        for stage in face.maps:
            assert stage.dtype == np.float32
            assert (stage.min(), stage.max()) == (0, 1)
            assert stage.std() > 0.1
    if activation == "softmax":  # what the maps must not be
        torch.testing.assert_close(outputs.masks[0].mean(1), torch.full((4, 16, 16), 1 / 8))
    # Another face has another map.
    assert np.abs(faces[0].maps[0] - faces[1].maps[0]).max() > 0.1


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_map_is_the_distance_that_masking_moves_the_features(activation: str, pixel_values: Tensor) -> None:
    outputs = answer(make_model(mask_activation=activation), pixel_values)
    for stage, mask in enumerate(outputs.masks):
        before, after = outputs.hidden_states[2 * stage : 2 * stage + 2]
        distance = torch.linalg.vector_norm(after - before, dim=1) / mask.shape[1] ** 0.5
        torch.testing.assert_close(reduce_mask(mask, before), distance, rtol=1e-4, atol=1e-5)


def test_a_mask_counts_only_where_it_has_features_to_act_on() -> None:
    features = torch.zeros(1, 4, 2, 2)
    features[0, 0] = 1
    mask = torch.zeros(1, 4, 2, 2)
    mask[0, 0, 0, 0] = 0.5  # acts
    mask[0, 1:, 1, 1] = 1  # would be the plain mean's maximum, but these channels are silent
    shown = normalize(reduce_mask(mask, features).numpy())[0]
    assert shown.tolist() == [[1, 0], [0, 0]]


def test_the_mask_decides_where_features_are_even() -> None:
    generator = torch.Generator().manual_seed(0)
    for mask in (
        torch.rand(1, 16, 5, 5, generator=generator),
        torch.randn(1, 16, 5, 5, generator=generator).softmax(1),
    ):
        maps = reduce_mask(mask, torch.full_like(mask, 3.0))
        torch.testing.assert_close(maps, 3 * mask.square().mean(1).sqrt())
        assert normalize(maps.numpy()).std() > 0.1


def test_flat_and_broken_maps_become_zeros() -> None:
    maps = np.random.default_rng(0).random((5, 4, 4), dtype=np.float32)
    maps[1] = 0.3
    maps[2] = 0
    maps[3, 1, 1] = np.nan
    maps[4] = 7 + 1e-6 * maps[4]  # rounding errors
    shown = normalize(maps)
    assert shown.dtype == np.float32
    assert not shown[1:].any()
    assert (shown[0].min(), shown[0].max()) == (0, 1)
    np.testing.assert_allclose(normalize(1000 * maps[:1]), shown[:1], atol=1e-5)
    assert not normalize(np.full((1, 2, 2), np.inf, np.float32)).any()


def test_half_precision_gives_the_same_maps(pixel_values: Tensor) -> None:
    outputs = answer(make_model(), pixel_values)
    half = RMNOutput(
        masks=tuple(mask.bfloat16() for mask in outputs.masks),
        hidden_states=tuple(state.bfloat16() for state in outputs.hidden_states),
    )
    for exact, rounded in zip(attention_maps(outputs), attention_maps(half)):
        assert rounded.dtype == torch.float32
        np.testing.assert_allclose(normalize(rounded.numpy()), normalize(exact.numpy()), atol=0.03)


def test_before_and_after_share_a_scale(crops: list[np.ndarray], pixel_values: Tensor) -> None:
    outputs = answer(make_model(mask_activation="sigmoid"), pixel_values)
    for index, face in enumerate(attention_of_outputs(outputs, crops)):
        assert face.crop is crops[index]
        for stage, (before, after) in enumerate(zip(face.before, face.after)):
            assert before.dtype == after.dtype == np.float32
            assert before.shape == after.shape == face.maps[stage].shape
            assert before.min() >= 0
            assert after.max() == 1
            raw_before, raw_after = (state[index].abs().mean(0) for state in outputs.hidden_states[2 * stage :][:2])
            np.testing.assert_allclose(after / after.mean(), raw_after / raw_after.mean(), rtol=1e-3)
            np.testing.assert_allclose(before.mean() / after.mean(), raw_before.mean() / raw_after.mean(), rtol=1e-3)


def test_a_face_has_the_same_maps_alone_and_in_a_batch(crops: list[np.ndarray], pixel_values: Tensor) -> None:
    model = make_model()
    together = attention_of_outputs(answer(model, pixel_values), crops)
    for index, face in enumerate(together):
        alone = attention_of_outputs(answer(model, pixel_values[index : index + 1]), crops[index : index + 1])[0]
        for name in ("maps", "before", "after"):
            for one, other in zip(getattr(face, name), getattr(alone, name)):
                np.testing.assert_allclose(one, other, atol=1e-4)
    assert together[0].maps[0].base is None  # keeps no batch in memory


def test_what_holds_no_masks_is_refused(crops: list[np.ndarray], pixel_values: Tensor) -> None:
    model = make_model()
    with torch.inference_mode():
        plain = model(pixel_values)
        unmasked = make_model(mask_depths=None)(pixel_values, output_masks=True, output_hidden_states=True)
    for outputs in (plain, unmasked):
        with pytest.raises(InputError, match="output_masks=True and output_hidden_states=True"):
            attention_maps(outputs)
    with pytest.raises(InputError, match="attention"):
        attention_of_faces((), (), (), crops)
    with pytest.raises(InputError, match="crops has 3"):
        attention_of_outputs(answer(model, pixel_values), crops[:3])


# Over the face


def test_a_cell_is_placed_where_the_network_looks() -> None:
    """The place of a cell is the middle of what its gradient sees; a plain resize would miss it by half a cell."""
    noise = torch.rand(16, 3, 96, 96, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    outputs = make_model(image_size=96)(noise, output_hidden_states=True)
    middles = torch.arange(96) + 0.5
    for stage, row in ((2, 6), (3, 3)):  # cells in the middle of the face, which see no border
        features = outputs.hidden_states[2 * stage]
        (gradient,) = torch.autograd.grad(features[:, :, row].sum(), noise, retain_graph=True)
        seen = gradient.square().sum((0, 1, 3))
        middle = float((seen * middles).sum() / seen.sum())
        line = np.zeros((features.shape[2], 1), np.float32)
        line[row] = 1
        shown = place(line, 1, 96)[:, 0]
        drawn = float(np.flatnonzero(shown == shown.max()).mean() + 0.5)
        resized = (row + 0.5) * 96 / features.shape[2]
        assert abs(drawn - middle) < 1.5
        assert abs(resized - middle) > 2.5


@pytest.mark.parametrize("cells", [1, 2, 3, 24])
@pytest.mark.parametrize("pixels", [2, 48, 301])
def test_placing_keeps_to_the_values_of_the_map(cells: int, pixels: int) -> None:
    values = np.random.default_rng(0).random((cells, cells)).astype(np.float32)
    placed = place(values, pixels, pixels + 7)
    assert placed.shape == (pixels + 7, pixels)
    assert placed.dtype == np.float32
    assert values.min() <= placed.min() <= placed.max() <= values.max()
    np.testing.assert_allclose(place(np.full((cells, cells), 0.3, np.float32), pixels, pixels), 0.3, rtol=1e-5)
    if pixels == 48:  # every cell's own value is there (24 cells lie between pixels)
        for row in range(cells if cells < 24 else 0):
            np.testing.assert_allclose(place(values, 48, 48)[row * 48 // cells, 0], values[row, 0], atol=0.02)


def test_overlay_goes_from_the_crop_to_the_map(crops: list[np.ndarray]) -> None:
    crop, attention_map = crops[0], np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_array_equal(overlay(crop, attention_map, alpha=0), crop)
    only_map = overlay(crop, attention_map, alpha=1)
    np.testing.assert_array_equal(only_map, overlay(255 - crop, attention_map, alpha=1))
    shown = overlay(crop, attention_map)
    assert shown.dtype == np.uint8
    assert shown.shape == crop.shape
    # Brighter where the map is higher, for everybody: the colours' luminance rises with the map.
    luma = overlay(np.zeros((90, 90), np.uint8), attention_map, alpha=1) @ [0.299, 0.587, 0.114]
    order = np.argsort(place(attention_map, 90, 90), axis=None)
    assert (np.diff(luma.ravel()[order]) > -2).all()
    assert luma.max() > luma.min() + 200
    assert overlay(crop[:50, :, 0], attention_map).shape == (50, crop.shape[1], 3)


def test_overlay_refuses_what_it_cannot_draw(crops: list[np.ndarray]) -> None:
    attention_map = np.zeros((3, 3), np.float32)
    with pytest.raises(InputError, match=r"alpha=1\.5"):
        overlay(crops[0], attention_map, alpha=1.5)
    with pytest.raises(InputError, match="uint8"):
        overlay(crops[0] / 255, attention_map)


# Faithfulness


class CornerModel(nn.Module):
    """
    Sees nothing but the upper left corner: the brighter it is, the surer of the first class. Its mask shows that
    corner, another one, or nothing.
    """

    def __init__(self, shows: str) -> None:
        super().__init__()
        self.shows = shows
        self.seen: list[Tensor] = []

    def forward(
        self, pixel_values: Tensor, output_masks: bool = False, output_hidden_states: bool = False
    ) -> RMNOutput:
        self.seen.append(pixel_values)
        evidence = 8 * pixel_values[:, 0, :8, :8].mean((1, 2))
        mask = torch.full((len(pixel_values), 4, 8, 8), 0.1)
        if self.shows == "evidence":
            mask[:, :, :3, :3] = 0.9
        elif self.shows == "elsewhere":
            mask[:, :, 5:, 5:] = 0.9
        features = torch.ones_like(mask)
        return RMNOutput(
            logits=torch.stack([evidence, torch.full_like(evidence, 3.0)], 1),
            masks=(mask,),
            hidden_states=(features, features * (1 + mask)),
        )


@pytest.fixture(scope="module")
def bright_corners() -> Tensor:
    faces = 0.2 * torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    faces[:, :, :8, :8] += 0.8
    return faces.expand(-1, 3, -1, -1)


def test_a_map_of_the_evidence_is_far_above_random(bright_corners: Tensor) -> None:
    answer = faithfulness(CornerModel("evidence"), bright_corners.split(16))
    assert answer.faces == 40
    assert [removal.fraction for removal in answer.removals] == [0.1, 0.2, 0.3]
    assert answer.probability > 0.97
    for removal in answer.removals:
        assert removal.map.mean > removal.random.mean + 0.25
        assert removal.map_minus_random.interval[0] > 0.2
        assert removal.map_minus_features.interval[0] > 0.2  # even features know nothing
        assert removal.map.interval[0] <= removal.map.mean <= removal.map.interval[1]
        np.testing.assert_allclose(removal.map_minus_random.mean, removal.map.mean - removal.random.mean, atol=1e-9)


def test_a_map_of_another_place_is_below_random(bright_corners: Tensor) -> None:
    (removal,) = faithfulness(CornerModel("elsewhere"), bright_corners.split(16), fractions=(0.1,)).removals
    assert removal.map.mean == pytest.approx(0, abs=1e-6)
    assert removal.map_minus_random.interval[1] < 0


def test_a_map_that_shows_nothing_is_as_good_as_random(bright_corners: Tensor) -> None:
    """Not better or worse: blocks of equal rank are not taken from the top, where this model looks."""
    for removal in faithfulness(CornerModel("nothing"), bright_corners.split(16), draws=5).removals:
        low, high = removal.map_minus_random.interval
        assert low < 0 < high


def test_removed_blocks_get_the_mean_of_their_face(bright_corners: Tensor) -> None:
    model = CornerModel("evidence")
    faithfulness(model, [bright_corners], fractions=(0.25,), draws=2, blocks=4)
    whole, *removed = model.seen
    assert len(removed) == 1 + 1 + 2  # by map, by features, twice at random
    means = whole.mean((1, 2, 3))
    for faces in removed:
        changed = (faces != whole).any(1)
        assert changed.flatten(1).float().mean(1).tolist() == pytest.approx([0.25] * 40, abs=0.01)
        for face, where, mean in zip(faces, changed, means):
            torch.testing.assert_close(face[:, where], mean.expand_as(face[:, where]))
        # Whole blocks of the grid.
        blocks = changed.unflatten(1, (4, 8)).unflatten(3, (4, 8)).float().mean((2, 4))
        assert ((blocks < 0.01) | (blocks > 0.98)).all()
    assert (removed[0] != whole).any(1)[:, :8, :8].float().mean() > 0.99
    assert not torch.equal(removed[2], removed[3])


def test_the_size_of_batches_does_not_matter(pixel_values: Tensor) -> None:
    model = make_model(mask_activation="sigmoid")
    with torch.no_grad():
        model.classifier.weight.normal_(generator=torch.Generator().manual_seed(0))
    noise = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    faces = (0.7 * pixel_values.repeat(2, 1, 1, 1) + 0.3 * noise).contiguous()
    one, other = (
        faithfulness(network, faces.split(size), fractions=(0.2,), draws=2)
        for network, size in ((model, 8), (model.for_inference(), 3))
    )
    assert [removal.stage for removal in one.removals] == [1, 2, 3, 4]
    assert one.probability == pytest.approx(other.probability, abs=1e-4)
    for name in ("map", "random", "features", "map_minus_random", "map_minus_features"):
        first, second = ([getattr(removal, name).mean for removal in each.removals] for each in (one, other))
        assert first == pytest.approx(second, abs=1e-3)
    # The seed decides about the random blocks, and about nothing else.
    again = faithfulness(model, faces.split(8), fractions=(0.2,), draws=2, seed=1)
    assert again.removals[0].random.mean != one.removals[0].random.mean


def test_faithfulness_is_ready_for_json(bright_corners: Tensor) -> None:
    values = faithfulness(CornerModel("evidence"), bright_corners.split(20), fractions=(0.1,), draws=1).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["faces"] == 40
    assert set(values["removals"][0]) == {
        *("stage", "fraction", "map", "random", "features", "map_minus_random", "map_minus_features")
    }
    low, high = values["removals"][0]["map"]["interval"]
    assert low <= values["removals"][0]["map"]["mean"] <= high


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fractions": (0.2, 1.0)}, r"fractions=\(0\.2, 1\.0\) must each be more than 0 and less than 1"),
        ({"fractions": ()}, "must each be more than 0"),
        ({"draws": 0}, "draws=0 must be at least 1"),
        ({"blocks": 33}, "at least 33 pixels wide"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, sentence: str, bright_corners: Tensor) -> None:
    with pytest.raises(ValueError, match=sentence):
        faithfulness(CornerModel("evidence"), [bright_corners], **settings)


def test_one_face_is_no_set(bright_corners: Tensor) -> None:
    with pytest.raises(ValueError, match="at least two"):
        faithfulness(CornerModel("evidence"), [bright_corners[:1]])
    with pytest.raises(ValueError, match="at least two"):
        faithfulness(CornerModel("evidence"), [])
    with pytest.raises(ValueError, match="output_masks=True"):
        faithfulness(make_model(mask_depths=None), [bright_corners])
