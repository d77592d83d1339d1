"""Results as HTML: pure functions, so that a page is nothing but what the recognizer answered."""

import base64
import io
import json
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

from rmn_hub import FaceExpression
from rmn_hub.attention import overlay
from rmn_hub.attention import place as place_map
from rmn_hub.drawing.palette import color_of, ink_on, label_of, percent
from rmn_hub.drawing.photo import annotate
from rmn_hub.results import Attention, ImageResult

# Long side of the shown photo, of the photo to download, and of a shown crop, in pixels.
SHOWN_SIZE = 1200
DOWNLOAD_SIZE = 2048
CROP_SIZE = 192
GLOW_SIZE = 48
# One of several faces that is narrower than this share of the photo is labelled with its number only.
NARROW = 0.2

NO_FACE = (
    "The detector sees no face in this picture. A larger or less turned face helps, and so does a smaller “Smallest "
    "face” in the settings."
)


def result(result: ImageResult, image: Image.Image, note: str = "") -> str:
    """
    Everything about one photo; which face and which stage is shown is chosen in the browser, without asking again.

    Args:
        result: the answer for `image`, with attention maps.
        image: the upright photo.
        note: a line above the photo, as plain text.
    """
    if not result.faces:
        return message("No face found", NO_FACE, picture=_shown(image))
    note = " ".join(part for part in (note, result.message or "") if part)
    panels = "".join(_chart_panel(number, face, len(result)) for number, face in enumerate(result.faces))
    attention = "".join(_attention_panel(number, face) for number, face in enumerate(result.faces))
    return f"""
<section class="rmn-result" aria-label="Result">
  {f'<p class="rmn-note">{escape(note)}</p>' if note else ""}
  <div class="rmn-top">
    <div class="rmn-card rmn-picture">{photo(result, image)}{_chooser(result)}</div>
    <div class="rmn-card">{panels}</div>
  </div>
  <div class="rmn-card rmn-attention">
    <div class="rmn-head">
      <div><h2>Where the network looked</h2>
      <p class="rmn-muted">Each of the four masks over the face: the brighter, the more that place counted.
      Choose a mask to see what it did.</p></div>
      <label class="rmn-slider"><span>Face</span><input type="range" min="0" max="100" value="60" data-mix
        aria-label="How strongly the maps cover the face, in percent"><span>Map</span></label>
    </div>
    {attention}
  </div>
  {_downloads(result, image)}
</section>"""


def photo(result: ImageResult, image: Image.Image) -> str:
    """The photo with a button over every face."""
    faces = "".join(_face_button(number, face, result) for number, face in enumerate(result.faces))
    count = "one face" if len(result) == 1 else f"{len(result)} faces"
    return f"""<div class="rmn-photo" style="aspect-ratio:{result.width}/{result.height};--ratio:{_ratio(result)}">
  <img src="{_shown(image)}" alt="Your photo with {count}">{faces}</div>"""


def chart(face: FaceExpression, raw: Mapping[str, float] | None = None) -> str:
    """
    Seven bars in a fixed order, with their numbers; the numbers sum to 100.0.

    Args:
        face: whose probabilities are drawn.
        raw: probabilities of the last frame alone, drawn as a thin mark beside the smoothed bars.
    """
    rows = []
    for name, share in percentages(face.probabilities).items():
        best = " rmn-best" if name == face.expression else ""
        mark = f'<i style="left:{100 * raw[name]:.1f}%"></i>' if raw else ""
        rows.append(
            f'<tr class="rmn-row{best}"><th scope="row">{escape(name)}</th><td class="rmn-bar" aria-hidden="true">'
            f'<span style="width:{max(share, 0.4):.1f}%;background:{color_of(name)}"></span>{mark}</td>'
            f"<td>{share:.1f}%</td></tr>"
        )
    return f"""<table class="rmn-chart"><caption class="rmn-hidden">Probability of each expression</caption>
<colgroup><col><col><col></colgroup>
<tbody>{"".join(rows)}</tbody></table>"""


def message(title: str, sentence: str, picture: str | None = None, kind: str = "info") -> str:
    """
    A state of the page without a result: empty, nothing found, or an error.

    Args:
        title: a few words.
        sentence: what happened, and what to do.
        picture: a `data:` URL to show beside it.
        kind: `"info"` or `"error"`.
    """
    shown = f'<img src="{picture}" alt="Your photo">' if picture else f'<span class="rmn-icon">{ICONS[kind]}</span>'
    role = "alert" if kind == "error" else "status"
    return f"""<section class="rmn-card rmn-message rmn-{kind}" role="{role}">{shown}
<div><h2>{escape(title)}</h2><p>{escape(sentence)}{"" if sentence.endswith(".") else "."}</p></div></section>"""


def percentages(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Percentages with one decimal that sum to exactly 100 (largest remainder), in the same order."""
    tenths = {name: value * 1000 / sum(probabilities.values()) for name, value in probabilities.items()}
    whole = {name: int(value) for name, value in tenths.items()}
    missing = 1000 - sum(whole.values())
    for name in sorted(tenths, key=lambda name: whole[name] - tenths[name])[:missing]:
        whole[name] += 1
    return {name: value / 10 for name, value in whole.items()}


def place(face: FaceExpression, width: int, height: int) -> str:
    """A face's box as CSS, in shares of the picture."""
    # A face at the border may reach over it.
    x0, x1 = (min(max(value, 0), width) for value in face.box[::2])
    y0, y1 = (min(max(value, 0), height) for value in face.box[1::2])
    color = color_of(face.expression)
    return (
        f"left:{100 * x0 / width:.2f}%;top:{100 * y0 / height:.2f}%;width:{100 * (x1 - x0) / width:.2f}%;"
        f"height:{100 * (y1 - y0) / height:.2f}%;--c:{color};--on:{ink_on(color)}"
    )


def data_url(image: Image.Image | np.ndarray, kind: str = "JPEG", quality: int = 88) -> str:
    """A picture as text, for a page that keeps no file."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def limited(image: Image.Image, size: int) -> Image.Image:
    """The picture, made smaller where its long side exceeds `size` pixels."""
    scale = size / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), reducing_gap=2.0)


def tile(crop: np.ndarray) -> np.ndarray:
    """A crop at the size in which tiles are shown."""
    return np.asarray(Image.fromarray(crop).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BICUBIC))


def glow(values: np.ndarray) -> str:
    """An attention map to lay over a moving picture: its colours, the clearer the less the place counts."""
    colors = overlay(np.zeros((GLOW_SIZE, GLOW_SIZE, 3), np.uint8), values, alpha=1.0)
    shares = Image.fromarray((place_map(values, GLOW_SIZE, GLOW_SIZE).clip(0, 1) * 220).astype(np.uint8))
    image = Image.fromarray(colors)
    image.putalpha(shares)
    return data_url(image, "PNG")


def heat(values: np.ndarray, crop: np.ndarray) -> str:
    """An attention map (or features) in the colours of `rmn_hub.attention.overlay`, without the face."""
    return data_url(overlay(crop, values, alpha=1.0), quality=80)


def _shown(image: Image.Image) -> str:
    return data_url(limited(image, SHOWN_SIZE), quality=85)


def _ratio(result: ImageResult) -> str:
    return f"{result.width / result.height:.4f}"


def _face_button(number: int, face: FaceExpression, result: ImageResult) -> str:
    share = (face.box[2] - face.box[0]) / result.width
    numbered = len(result) > 1 and share < NARROW
    classes = ["rmn-face", *(["rmn-numbered"] if numbered else []), *(["rmn-doubtful"] if face.uncertain else [])]
    if face.box[1] < 0.08 * result.height:
        classes.append("rmn-below")
    text = str(number + 1) if numbered else escape(label_of(face))
    return (
        f'<button type="button" class="{" ".join(classes)}" data-face="{number}" aria-pressed="{_pressed(number)}" '
        f'style="{place(face, result.width, result.height)}" aria-label="Face {number + 1}: {escape(label_of(face))}">'
        f'<span class="rmn-tag">{text}</span></button>'
    )


def _chooser(result: ImageResult) -> str:
    if len(result) == 1:
        return ""
    pills = "".join(
        f'<button type="button" class="rmn-pill" data-face="{number}" aria-pressed="{_pressed(number)}" '
        f'style="--c:{color_of(face.expression)}"><b>{number + 1}</b> {escape(label_of(face))}</button>'
        for number, face in enumerate(result.faces)
    )
    return f'<div class="rmn-chooser" role="group" aria-label="Choose a face">{pills}</div>'


def _chart_panel(number: int, face: FaceExpression, count: int) -> str:
    which = f"Face {number + 1} of {count}" if count > 1 else "The face"
    doubt = (
        '<p class="rmn-doubt">Uncertain: the probability lies below the confidence you asked for.</p>'
        if face.uncertain
        else ""
    )
    return f"""<div class="rmn-panel" data-panel="{number}"{_hidden(number)}>
<h2><small>{which} shows</small> {escape(face.expression)} <span>{escape(percent(face.probability))}</span></h2>
{doubt}{chart(face)}
</div>"""


def _attention_panel(number: int, face: FaceExpression) -> str:
    attention = face.attention
    if attention is None or not attention.maps:
        return f"""<div class="rmn-panel" data-panel="{number}"{_hidden(number)}>
<p class="rmn-muted">This checkpoint has no masks, so there is nothing to show here.</p></div>"""
    crop = tile(attention.crop)
    tiles = "".join(_stage_tile(stage, values, crop) for stage, values in enumerate(attention.maps))
    steps = "".join(_steps(stage, attention, crop) for stage in range(len(attention.maps)))
    return f"""<div class="rmn-panel" data-panel="{number}"{_hidden(number)} style="--crop:url({data_url(crop)})">
<div class="rmn-maps"><figure><div class="rmn-tile rmn-crop" role="img" aria-label="The face as it was cut out"></div>
<figcaption>Crop<small>from the photo</small></figcaption></figure>{tiles}</div>{steps}</div>"""


def _stage_tile(stage: int, values: np.ndarray, crop: np.ndarray) -> str:
    height, width = values.shape
    return (
        f'<button type="button" class="rmn-stage" data-stage="{stage}" aria-pressed="{_pressed(stage)}">'
        f'<span class="rmn-tile rmn-crop" style="--heat:url({heat(values, crop)})"></span>'
        f"<span class='rmn-caption'>Stage {stage + 1}<small>{width} &times; {height} px</small></span></button>"
    )


def _steps(stage: int, attention: Attention, crop: np.ndarray) -> str:
    pictures = (
        ("Features before", "what stage {n} found", attention.before[stage]),
        ("Mask {n}", "where it matters", attention.maps[stage]),
        ("Features after", "&times; (1 + mask)", attention.after[stage]),
    )
    figures = []
    for title, caption, values in pictures:
        title, caption = title.format(n=stage + 1), caption.format(n=stage + 1)
        figures.append(
            f'<figure><div class="rmn-tile" role="img" aria-label="{title}, stage {stage + 1}" '
            f'style="--heat:url({heat(values, crop)})"></div><figcaption>{title}<small>{caption}</small></figcaption>'
            "</figure>"
        )
    sign = '<span class="rmn-sign" aria-hidden="true">{}</span>'
    return (
        f'<div class="rmn-steps" data-steps="{stage}"{_hidden(stage)}>'
        f"{figures[0]}{sign.format('&times;')}{figures[1]}{sign.format('=')}{figures[2]}"
        f"<p>What stage {stage + 1} found in the face, what its mask makes of it, and what the next stage sees. The "
        "mask is between 0 and 1 at every place, and the features are multiplied by 1 + mask.</p></div>"
    )


def _downloads(result: ImageResult, image: Image.Image) -> str:
    small = limited(image, DOWNLOAD_SIZE)
    drawn = data_url(annotate(small, result.scaled(*small.size)), quality=90)
    text = json.dumps(result.to_dict(), ensure_ascii=False, indent=2)
    encoded = base64.b64encode(text.encode()).decode()
    stem = escape(result.source.rsplit(".", 1)[0] or "photo", quote=True)
    return f"""<div class="rmn-downloads">
<a class="rmn-button" download="{stem}-expressions.jpg" href="{drawn}">Annotated picture</a>
<a class="rmn-button" download="{stem}-expressions.json" href="data:application/json;base64,{encoded}">JSON</a>
<span class="rmn-muted">Both are in this page already: nothing is fetched, nothing was kept.</span></div>"""


def _pressed(number: int) -> str:
    return "true" if number == 0 else "false"


def _hidden(number: int) -> str:
    return "" if number == 0 else " hidden"


ICONS: dict[str, str] = {
    "info": '<svg viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="17"/>'
    '<circle cx="18" cy="21" r="1.5"/><circle cx="30" cy="21" r="1.5"/><path d="M17 30h14"/></svg>',
    "error": '<svg viewBox="0 0 48 48" aria-hidden="true"><path d="M24 8 43 40H5Z"/><path d="M24 20v9"/>'
    '<circle cx="24" cy="34" r="1"/></svg>',
}
