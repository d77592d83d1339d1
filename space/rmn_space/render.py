"""Results as HTML: pure functions, so that the page shows what the recognizer returned and nothing else."""

import base64
import io
import json
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

from rmn_hub import Attention, FaceExpression, ImageResult, annotate
from rmn_hub.attention import overlay
from rmn_hub.attention import place as place_map
from rmn_hub.drawing.palette import color_of, ink_on, long_label_of, near_expressions, percent
from rmn_hub.drawing.photo import to_srgb

# Long side of the shown photo, of the photo to download, and of a shown crop, in pixels.
SHOWN_SIZE = 1600
DOWNLOAD_SIZE = 2048
CROP_SIZE = 192
GLOW_SIZE = 48
# One of several faces that is narrower than this share of the photo is labelled with its number only.
NARROW = 0.2

# What a result's message has where there is no face, and what the page shows then.
NOTHING = "No face was found."
NO_FACE = "The detector finds no face in this photo."
HELPS = "A larger or less turned face helps{}."
SMALLER = ", and so does a smaller “Smallest face” under Settings"
# Each with the key that does the same.
ZOOM = (
    '<div class="rmn-zoom-buttons" role="group" aria-label="Zoom">'
    '<button type="button" data-zoom-by="out" aria-disabled="true" title="Smaller (-)" aria-label="Zoom out">&minus;'
    "</button>"
    '<button type="button" data-zoom-by="in" aria-disabled="false" title="Larger (+)" aria-label="Zoom in">+</button>'
    '<button type="button" data-zoom-by="fit" aria-disabled="true" title="All of the photo (0)">Fit</button></div>'
)
FORMULA = "features &times; (1 + mask)"


def result(result: ImageResult, image: Image.Image, note: str = "", measured: str = "", smaller: bool = True) -> str:
    """
    Return everything about one photo; the browser chooses which face and which stage is shown, without asking again.

    Args:
        result: the result of `image`, with attention maps.
        image: the upright photo.
        note: a line below the photo, as plain text.
        measured: a sentence about how faithful the maps are, as plain text.
        smaller: whether smaller faces could be looked for.
    """
    note = " ".join(part for part in (note, result.message or "") if part)
    if not result.faces:
        note = note.replace(NOTHING, "").strip()
        sentence = f"{NO_FACE} {HELPS.format(SMALLER if smaller else '')}"
        return message("No face found", sentence, image=_shown(image), note=note, source=result.source)
    several = len(result) > 1
    panels = "".join(_chart_panel(face, len(result)) for face in result)
    return f"""
<section class="rmn-result{" rmn-several" if several else ""}" aria-label="Result" data-say="{escape(_spoken(result))}"
  data-source="{escape(result.source)}">
  <div class="rmn-top">
    <div class="rmn-card rmn-hero">{photo(result, image)}
      <div class="rmn-under"><div class="rmn-lines">{_note(note)}{_legend(result)}</div>{ZOOM}</div>
      {_chooser(result)}</div>
    <div class="rmn-card rmn-side"><div>{panels}</div>{_downloads(result, image)}</div>
  </div>{_attention_card(result, measured)}
</section>"""


def photo(result: ImageResult, image: Image.Image) -> str:
    """Return the photo with a button over every face."""
    faces = "".join(_face_button(face, result) for face in result)
    count = "one face" if len(result) == 1 else f"{len(result)} faces"
    shape = f"aspect-ratio:{result.width}/{result.height}"
    return f"""<div class="rmn-zoom" role="group" aria-label="The photo" tabindex="-1"
  style="{shape};--ratio:{_ratio(result)}"><div class="rmn-photo" style="{shape}">
  <img src="{_shown(image)}" draggable="false" alt="The photo with {count}">{faces}</div></div>"""


def chart(face: FaceExpression, raw: Mapping[str, float] | None = None) -> str:
    """
    Return a bar for each expression in a fixed order, with their percentages, which sum to 100.0.

    Args:
        face: whose probabilities are drawn. The bars of an uncertain face are striped.
        raw: probabilities of the last frame alone, drawn as a thin mark beside the smoothed bars.
    """
    best = near_expressions(face) if face.uncertain else (face.expression,)
    rows = []
    for name, share in percentages(face.probabilities).items():
        mark = f'<i style="left:{100 * raw[name]:.1f}%"></i>' if raw else ""
        rows.append(
            f'<tr class="rmn-row{" rmn-best" if name in best else ""}"><th scope="row">{escape(name)}</th>'
            f'<td class="rmn-bar" aria-hidden="true">'
            f'<span style="width:{max(share, 0.4):.1f}%;background-color:{color_of(name)}"></span>{mark}</td>'
            f"<td>{share:.1f}%</td></tr>"
        )
    # Names of other checkpoints may be longer than ours, and those of more than 14 letters are broken.
    longest = min(14, max(map(len, face.probabilities)))
    wide = f' style="--names:{0.64 * longest:.1f}em"' if longest > 8 else ""
    return f"""<table class="rmn-chart{" rmn-unsure" if face.uncertain else ""}"{wide}>
<caption class="rmn-hidden">Probability of each expression</caption>
<colgroup><col><col><col></colgroup>
<tbody>{"".join(rows)}</tbody></table>"""


def in_words(count: int) -> str:
    """Return a number as a sentence has it: in words up to ten."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else str(count)


def heading(face: FaceExpression) -> str:
    """Return `happy 94%`, or, for an uncertain face, `angry or sad? 35%, 31%`."""
    near = near_expressions(face) if face.uncertain else (face.expression,)
    shares = ", ".join(percent(face.probabilities[name]) for name in near)
    words = " or ".join(near) + ("?" if face.uncertain else "")
    return f"{escape(words)} <span>{escape(shares)}</span>"


def message(
    title: str, sentence: str, image: str | None = None, kind: str = "info", note: str = "", source: str = ""
) -> str:
    """
    Return a state of the page without a result: empty, nothing found, or an error.

    Args:
        title: a few words.
        sentence: what happened, and what to do.
        image: a `data:` URL to show beside it.
        kind: `"info"` or `"error"`.
        note: a line below the sentence.
        source: the photo's name.
    """
    shown = f'<img src="{image}" alt="The photo">' if image else f'<span class="rmn-icon">{ICONS[kind]}</span>'
    end = "" if sentence.endswith(".") else "."
    # What is not an error is read out from a line of its own (say.js): one that comes with its text may not be.
    more = 'role="alert"' if kind == "error" else f'data-say="{escape(f"{title}. {sentence}{end}")}"'
    more += f' data-source="{escape(source)}"' if source else ""
    return f"""<section class="rmn-card rmn-message rmn-{kind}" {more}>{shown}
<div><h2>{escape(title)}</h2><p>{escape(sentence)}{end}</p>{_note(note)}</div></section>"""


def percentages(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Return percentages with one decimal that sum to exactly 100 (largest remainder), in the same order."""
    tenths = {name: value * 1000 / sum(probabilities.values()) for name, value in probabilities.items()}
    whole = {name: int(value) for name, value in tenths.items()}
    missing = 1000 - sum(whole.values())
    for name in sorted(tenths, key=lambda name: whole[name] - tenths[name])[:missing]:
        whole[name] += 1
    return {name: value / 10 for name, value in whole.items()}


def place(face: FaceExpression, width: int, height: int) -> str:
    """Return the box of a face as CSS, in shares of the image."""
    # A face at the border may reach over it.
    x0, x1 = (min(max(value, 0), width) for value in face.box[::2])
    y0, y1 = (min(max(value, 0), height) for value in face.box[1::2])
    color = color_of(face.expression)
    return (
        f"left:{100 * x0 / width:.2f}%;top:{100 * y0 / height:.2f}%;width:{100 * (x1 - x0) / width:.2f}%;"
        f"height:{100 * (y1 - y0) / height:.2f}%;--c:{color};--on:{ink_on(color)}"
    )


def data_url(image: Image.Image | np.ndarray, kind: str = "JPEG", quality: int = 88) -> str:
    """Return an image as text, for a page that keeps no file."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def limited(image: Image.Image, size: int) -> Image.Image:
    """Return the image, made smaller where its long side exceeds `size` pixels."""
    scale = size / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), reducing_gap=2.0)


def tile(crop: np.ndarray) -> np.ndarray:
    """Return a crop at the size in which tiles are shown."""
    return np.asarray(Image.fromarray(crop).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BICUBIC))


def glow(values: np.ndarray) -> str:
    """Return an attention map to lay over a moving image: its colours, the clearer the lower its value."""
    colors = overlay(np.zeros((GLOW_SIZE, GLOW_SIZE, 3), np.uint8), values, alpha=1.0)
    shares = Image.fromarray((place_map(values, GLOW_SIZE, GLOW_SIZE).clip(0, 1) * 220).astype(np.uint8))
    image = Image.fromarray(colors)
    image.putalpha(shares)
    return data_url(image, "PNG")


def heat(values: np.ndarray, crop: np.ndarray) -> str:
    """Return an attention map, or features, in the colours of `rmn_hub.attention.overlay`, without the face."""
    return data_url(overlay(crop, values, alpha=1.0), quality=80)


def _shown(image: Image.Image) -> str:
    return data_url(to_srgb(limited(image, SHOWN_SIZE)), quality=85)


def _ratio(result: ImageResult) -> str:
    return f"{result.width / result.height:.4f}"


def _note(note: str) -> str:
    return f'<p class="rmn-note">{escape(note)}</p>' if note else ""


def _spoken(result: ImageResult) -> str:
    """Return the result in words, for those who listen to the page."""
    count = "One face" if len(result) == 1 else f"{len(result)} faces"
    return f"{count}: {', '.join(long_label_of(face) for face in result)}"


def _face_button(face: FaceExpression, result: ImageResult) -> str:
    several, narrow = len(result) > 1, (face.box[2] - face.box[0]) / result.width < NARROW
    classes = ["rmn-face", *(["rmn-doubtful"] if face.uncertain else [])]
    if face.box[1] < 0.08 * result.height:
        classes.append("rmn-below")
    if (face.box[0] + face.box[2]) / 2 > 0.6 * result.width:
        classes.append("rmn-rightwards")
    doubt = "?" if face.uncertain and several else ""
    number = f"<b>{face.index}{doubt}</b>" if several else ""
    words = "" if several and narrow else f"<span>{escape(long_label_of(face))}</span>"
    return (
        f'<button type="button" class="{" ".join(classes)}" data-face="{face.index}" aria-pressed="{_pressed(face)}" '
        f'style="{place(face, result.width, result.height)}" '
        f'aria-label="Face {face.index}: {escape(long_label_of(face))}">'
        f'<span class="rmn-tag">{number}{words}</span></button>'
    )


def _chooser(result: ImageResult) -> str:
    if len(result) == 1:
        return ""
    pills = "".join(
        f'<button type="button" class="rmn-pill{" rmn-doubtful" if face.uncertain else ""}" data-face="{face.index}" '
        f'aria-pressed="{_pressed(face)}" style="--c:{color_of(face.expression)}"><b>{face.index}</b> '
        f"{escape(long_label_of(face))}</button>"
        for face in result
    )
    return f'<div class="rmn-chooser" role="group" aria-label="Choose a face">{pills}</div>'


def _legend(result: ImageResult) -> str:
    """Return what the boxes of several faces mean: a colour for each expression in the photo, dashes for doubt."""
    if len(result) == 1:
        return ""
    found = {face.expression for face in result}
    parts = [
        f'<span style="--c:{color_of(name)}">{escape(name)}</span>' for name in result[0].probabilities if name in found
    ]
    if any(face.uncertain for face in result):
        parts.append('<span class="rmn-doubtful">“?” uncertain</span>')
    return f'<p class="rmn-legend">{"".join(parts)}</p>'


def _chart_panel(face: FaceExpression, count: int) -> str:
    which = f"Face {face.index} of {count}" if count > 1 else "The face"
    doubt = ""
    if face.uncertain:
        near = "Two expressions are nearly as probable." if len(near_expressions(face)) > 1 else ""
        doubt = f'<p class="rmn-doubt">Uncertain: no expression reaches the probability set under Settings. {near}</p>'
    return f"""<div class="rmn-panel" data-panel="{face.index}"{_hidden(face)}>
<h2><small>{which} shows</small> {heading(face)}</h2>
{doubt}{chart(face)}
</div>"""


def _attention_card(result: ImageResult, measured: str) -> str:
    """Return the maps of all faces; nothing where the network has no masks."""
    panels = "".join(_attention_panel(face, face.attention) for face in result if face.attention is not None)
    if not panels:
        return ""
    link = '<button type="button" class="rmn-link" data-tab="About">All results</button>'
    return f"""
  <div class="rmn-card rmn-attention">
    <div class="rmn-head">
      <div><h2>Where the masks strengthened features</h2>
      <p class="rmn-muted">Each of the four stages ends with {FORMULA}. Its map is bright where that changed the
      features most. Choose a stage to see them before and after.</p></div>
      <label class="rmn-slider"><span>Face</span><input type="range" min="0" max="100" value="60" data-mix
        aria-label="How strongly the maps cover the face, in percent"><span>Map</span></label>
    </div>
    {panels}
    {f'<p class="rmn-muted rmn-small-text rmn-measured">{escape(measured)} {link}</p>' if measured else ""}
  </div>"""


def _attention_panel(face: FaceExpression, attention: Attention) -> str:
    if not attention.maps:
        return ""
    crop = tile(attention.crop)
    tiles = "".join(_stage_tile(stage, values, crop) for stage, values in enumerate(attention.maps, start=1))
    steps = "".join(_steps(stage, attention, crop) for stage in range(1, len(attention.maps) + 1))
    return f"""<div class="rmn-panel" data-panel="{face.index}"{_hidden(face)} style="--crop:url({data_url(crop)})">
<div class="rmn-maps"><figure><div class="rmn-tile rmn-crop" role="img" aria-label="The face as it was cut out"></div>
<figcaption>Crop<small>from the photo</small></figcaption></figure>{tiles}</div>{steps}</div>"""


def _stage_tile(stage: int, values: np.ndarray, crop: np.ndarray) -> str:
    height, width = values.shape
    return (
        f'<button type="button" class="rmn-stage" data-stage="{stage}" aria-pressed="{_first(stage)}">'
        f'<span class="rmn-tile rmn-crop" style="--heat:url({heat(values, crop)})"></span>'
        f"<span class='rmn-caption'>Stage {stage}<small>{width} &times; {height} px</small></span></button>"
    )


def _steps(stage: int, attention: Attention, crop: np.ndarray) -> str:
    images = (
        ("Features before", f"strength in stage {stage}", attention.before[stage - 1]),
        (f"Map {stage}", "change by the mask", attention.maps[stage - 1]),
        ("Features after", FORMULA, attention.after[stage - 1]),
    )
    figures = [
        f'<figure><div class="rmn-tile" role="img" aria-label="{title}, stage {stage}" '
        f'style="--heat:url({heat(values, crop)})"></div>'
        f"<figcaption>{title}<small>{caption}</small></figcaption></figure>"
        for title, caption, values in images
    ]
    sign = '<span class="rmn-sign" aria-hidden="true">→</span>'
    return (
        f'<div class="rmn-steps" data-steps="{stage}"{"" if stage == 1 else " hidden"}>{sign.join(figures)}'
        f"<p>The strength of the features that stage {stage} found, how far its mask changed them, and what the next "
        f"layers see. A mask lies between 0 and 1, so {FORMULA} makes features up to twice as strong and removes none."
        '<span class="rmn-scale"><span>least</span><i></i><span>most</span></span></p></div>'
    )


def _downloads(result: ImageResult, image: Image.Image) -> str:
    small = limited(image, DOWNLOAD_SIZE)
    drawn = data_url(annotate(small, result.scaled(*small.size)), quality=90)
    text = json.dumps(result.to_dict(), ensure_ascii=False, indent=2)
    encoded = base64.b64encode(text.encode()).decode()
    stem = escape(result.source.rsplit(".", 1)[0] or "photo", quote=True)
    return f"""<div class="rmn-downloads"><span class="rmn-muted">Save</span>
<a class="rmn-button" download="{stem}-expressions.jpg" href="{drawn}">Annotated image</a>
<a class="rmn-button" download="{stem}-expressions.json" href="data:application/json;base64,{encoded}">JSON</a></div>"""


def _pressed(face: FaceExpression) -> str:
    return _first(face.index)


def _first(number: int) -> str:
    return "true" if number == 1 else "false"


def _hidden(face: FaceExpression) -> str:
    return "" if face.index == 1 else " hidden"


ICONS: dict[str, str] = {
    "info": '<svg viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="17"/>'
    '<circle cx="18" cy="21" r="1.5"/><circle cx="30" cy="21" r="1.5"/><path d="M17 30h14"/></svg>',
    "error": '<svg viewBox="0 0 48 48" aria-hidden="true"><path d="M24 8 43 40H5Z"/><path d="M24 20v9"/>'
    '<circle cx="24" cy="34" r="1"/></svg>',
}
