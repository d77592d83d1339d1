"""The about tab: how masking works, what was measured, limits and privacy."""

import hashlib
import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from rmn_hub import EXPRESSIONS
from rmn_hub.drawing.palette import color_of

from . import render
from .service import Service

TITLES = {"public_test": "FER2013 PublicTest", "private_test": "FER2013 PrivateTest"}


def build(service: Service, faces: Any) -> None:
    """Adds the tab's text. `faces` is a result with attention maps, for the picture of how masking works."""
    gr.HTML(
        '<div class="rmn-about">'
        + how_it_works(faces)
        + measured(service.checkpoint)
        + LIMITS
        + PRIVACY
        + API
        + "</div>",
        elem_id="about",
        js_on_load=ADDRESS_JS,
        apply_default_css=False,
    )


def how_it_works(faces: Any) -> str:
    """One picture (made of the first face of the result) and five sentences."""
    return f"""<section class="rmn-card rmn-wide"><h2>How masking works</h2>{_picture(faces)}
<p>The network is a residual network of four stages, and each stage turns the picture of a face into features: many
small pictures of what it found where. After each stage a small network of its own, shaped like a U, looks at these
features and draws a <em>mask</em>: a number between 0 and 1 for every place of every feature. The features are then
multiplied by 1 + mask, so that what matters becomes stronger and nothing is lost. The next stage sees the masked
features, and after the fourth one they are added up to seven probabilities. The attention maps of this page show, for
each stage, where its mask strengthened the features most.</p>
<p class="rmn-muted">Luan Pham, The Huynh Vu and Tuan Anh Tran: “Facial Expression Recognition Using Residual Masking
Network”, ICPR 2020.</p></section>"""


def _picture(result: Any) -> str:
    if not result or result[0].attention is None or not result[0].attention.maps:
        return ""
    face = result[0]
    attention = face.attention
    crop = render.tile(attention.crop)

    def figure(url: str, caption: str, small: str = "") -> str:
        return (
            f'<figure><div class="rmn-tile" style="--heat:url({url})"></div>'
            f"<figcaption>{caption}<small>{small}</small></figcaption></figure>"
        )

    parts = [figure(render.data_url(crop), "Face", "cut out")]
    for stage, values in enumerate(attention.maps):
        parts.append('<span class="rmn-sign">→</span>')
        parts.append(
            f'<figure><div class="rmn-tile rmn-crop" style="--crop:url({render.data_url(crop)});'
            f'--heat:url({render.heat(values, crop)})"></div><figcaption>Stage {stage + 1}'
            f"<small>&times; (1 + mask {stage + 1})</small></figcaption></figure>"
        )
    bars = "".join(
        f'<i style="height:{max(3, 100 * face.probabilities.get(name, 0)):.0f}%;background:{color_of(name)}"></i>'
        for name in EXPRESSIONS
    )
    parts.append('<span class="rmn-sign">→</span>')
    parts.append(
        f'<figure><div class="rmn-tile rmn-bars">{bars}</div><figcaption>{escape(face.expression)}'
        "<small>seven probabilities</small></figcaption></figure>"
    )
    return (
        '<div class="rmn-flow" role="img" aria-label="A face goes through four stages; after each its features are '
        f'multiplied by one plus a mask; at the end are seven probabilities.">{"".join(parts)}</div>'
    )


def measured(checkpoint: Path | None) -> str:
    """The results in the checkpoint's `eval.json`, when it is there and about these weights."""
    document = read_evaluation(checkpoint)
    if document is None:
        body = "<p>There are no measured results beside this checkpoint. <code>rmn-hub evaluate</code> makes them.</p>"
        return f'<section class="rmn-card rmn-wide"><h2>Measured results</h2>{body}</section>'
    rows = []
    for name, numbers in document["sets"].items():
        single, averaged = numbers["single_view"], numbers["flip_averaged"]
        rows.append(
            f'<tr><th scope="row">{escape(TITLES.get(name, name))}</th><td>{single["faces"]:,}</td>'
            f"<td>{_share(single)}</td><td>{_share(averaged)}</td>"
            f"<td>{100 * single['expected_calibration_error']:.1f}</td></tr>"
        )
    about = document["checkpoint"]
    size = (
        f"<p>{about['parameters'] / 1e6:.1f} million parameters, {about['multiply_adds'] / 1e6:.0f} million "
        f"multiply-adds for a face of {about['image_size']} &times; {about['image_size']} pixels.</p>"
        if {"parameters", "multiply_adds", "image_size"} <= set(about)
        else ""
    )
    return f"""<section class="rmn-card rmn-wide"><h2>Measured results</h2>
<div class="rmn-scroll" tabindex="0" role="group" aria-label="Table of results"><table class="rmn-table"><thead><tr>
<th scope="col">Faces of</th><th scope="col">Number</th>
<th scope="col">Right answers</th><th scope="col">… averaged with the mirror image</th>
<th scope="col">Calibration error</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>
<p class="rmn-muted">In percent, with 95% intervals, from the checkpoint's <code>eval.json</code>. This page does not
average. People agree with these labels for 65 ± 5% of the faces.</p>{size}</section>"""


def read_evaluation(checkpoint: Path | None) -> dict[str, Any] | None:
    """The checkpoint's `eval.json`, or `None` where there is none, it cannot be read, or it is about other weights."""
    if checkpoint is None:
        return None
    try:
        document = json.loads((checkpoint / "eval.json").read_text(encoding="utf-8"))
        weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
        complete = all({"single_view", "flip_averaged"} <= set(numbers) for numbers in document["sets"].values())
        return document if complete and document["checkpoint"]["sha256"] == weights else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _share(scores: dict[str, Any]) -> str:
    low, high = scores["interval"]
    return f"<b>{100 * scores['accuracy']:.1f}</b> <small>({100 * low:.1f} to {100 * high:.1f})</small>"


LIMITS = """<section class="rmn-card"><h2>What it cannot do</h2><ul>
<li>An expression is what a face shows at one moment. It is not a feeling, a character or an intention.</li>
<li>It learnt from small grey pictures that people had labelled, and these labels are often doubtful. It errs, and more
often on faces that are turned, covered, blurred or unlike those it learnt from.</li>
<li>Do not use it to decide anything about a person: not for hiring, policing, lie detection or diagnosis.</li>
<li>Photos have at most 10 MB and 24 million pixels, and at most the 50 largest faces of a photo are shown.</li>
</ul></section>"""

PRIVACY = """<section class="rmn-card"><h2>Privacy</h2><ul>
<li>Nothing is stored. Camera frames are never written to a disk. Photos that you upload are deleted after five to six
minutes, and all of them when the page's program ends.</li>
<li>Nothing is counted or analysed, there is no history, and your browser asks no other computer for anything.</li>
<li>The program opens no addresses: it sees the pictures that you give it, and nothing else.</li>
</ul></section>"""

API = """<section class="rmn-card rmn-wide"><h2>From a program</h2>
<p>The same answer as <code>rmn-hub predict --json</code>, in Python:</p>
<pre tabindex="0"><code>from gradio_client import Client, handle_file

client = Client("<span class="rmn-address">http://127.0.0.1:7860</span>")
print(client.predict(handle_file("photo.jpg"), api_name="/predict"))</code></pre>
<p>and without it (the first command prints the number of the answer, the second fetches it):</p>
<pre tabindex="0"><code>printf '{"data": [{"url": "data:image/jpeg;base64,%s", "orig_name": "photo.jpg"}]}' \\
  "$(base64 &lt; photo.jpg | tr -d '\\n')" | curl -s -d @- -H 'Content-Type: application/json' \\
  <span class="rmn-address">http://127.0.0.1:7860</span>/gradio_api/call/predict
curl -s <span class="rmn-address">http://127.0.0.1:7860</span>/gradio_api/call/predict/EVENT_ID</code></pre></section>"""

# The commands name the address under which the visitor sees the page.
ADDRESS_JS = """
const address = new URL('.', location.href).href.replace(/[/]$/, '');
for (const place of element.querySelectorAll('.rmn-address')) place.textContent = address;
"""
