"""The about tab: what was measured, how masking works, limits, privacy, and the way in for programs."""

from collections.abc import Sequence
from html import escape

import gradio as gr

from rmn_hub import EXPRESSIONS, ImageResult
from rmn_hub.drawing.palette import color_of, percent
from rmn_hub.evaluation.measured import Measured, SetScores

from . import render
from .service import Service

TITLES = {"public_test": "FER2013 PublicTest", "private_test": "FER2013 PrivateTest"}


def build(service: Service, faces: ImageResult) -> None:
    """Add the tab's text. `faces` is a result with attention maps, for the figure of how masking works."""
    gr.HTML(
        '<div class="rmn-about">' + measured(service.results) + how_it_works(faces) + LIMITS + PRIVACY + API + "</div>",
        elem_id="about",
        js_on_load=ADDRESS_JS,
        apply_default_css=False,
    )


def how_it_works(faces: ImageResult) -> str:
    """Return one figure, made of the first face of the result, and a few sentences."""
    return f"""<section class="rmn-card rmn-wide"><h2>How masking works</h2>{_figure(faces)}
<p>A residual network of four stages turns a face into features: many small images of what it found where. After each
stage a small network of its own, shaped like a U, looks at these features and predicts a <em>mask</em>, a number
between 0 and 1 for every place of every feature. The next stage sees {render.FORMULA}: places that the mask chooses
become up to twice as strong, and nothing is lost. After the fourth stage the features become seven probabilities. The
maps on this page show where each mask changed the features most.</p>
<p class="rmn-muted">Luan Pham, The Huynh Vu and Tuan Anh Tran: “Facial Expression Recognition Using Residual Masking
Network”, ICPR 2020, doi:10.1109/ICPR48806.2021.9411919.</p></section>"""


def _figure(result: ImageResult) -> str:
    if not result.faces or result[0].attention is None or not result[0].attention.maps:
        return ""
    face, attention = result[0], result[0].attention
    crop = render.tile(attention.crop)

    def figure(style: str, more: str, caption: str, small: str) -> str:
        return (
            f'<figure><div class="rmn-tile {more}" style="{style}"></div>'
            f"<figcaption>{caption}<small>{small}</small></figcaption></figure>"
        )

    parts = [figure(f"--heat:url({render.data_url(crop)})", "", "Face", "cut out")]
    for stage, values in enumerate(attention.maps, start=1):
        style = f"--crop:url({render.data_url(crop)});--heat:url({render.heat(values, crop)})"
        parts.append(figure(style, "rmn-crop", f"Stage {stage}", f"&times; (1 + mask {stage})"))
    bars = "".join(
        f'<i style="height:{max(3, 100 * face.probabilities.get(name, 0)):.0f}%;background:{color_of(name)}"></i>'
        for name in EXPRESSIONS
    )
    parts.append(
        f'<figure><div class="rmn-tile rmn-bars">{bars}</div><figcaption>{escape(face.expression)} '
        f"{escape(percent(face.probability))}<small>seven probabilities</small></figcaption></figure>"
    )
    return (
        '<div class="rmn-flow" role="img" aria-label="A face goes through four stages; after each its features are '
        'multiplied by one plus a mask; at the end are seven probabilities.">'
        + '<span class="rmn-sign">→</span>'.join(parts)
        + "</div>"
    )


def measured(results: Measured | None) -> str:
    """Return the table of results, PrivateTest first, with the paper's own number beside it."""
    if results is None:
        body = "<p>There are no measured results of this checkpoint. <code>rmn-hub evaluate</code> makes them.</p>"
        return f'<section class="rmn-card rmn-wide"><h2>Measured results</h2>{body}</section>'
    order = ("private_test", "public_test")
    sets = sorted(results.sets, key=lambda each: order.index(each.name) if each.name in order else len(order))
    rows = "".join(map(_row, sets))
    size = (
        f"{results.parameters / 1e6:.1f} million parameters, {results.multiply_adds / 1e6:.0f} million multiply-adds "
        f"for a face of {results.image_size} &times; {results.image_size} pixels."
        if results.parameters and results.multiply_adds and results.image_size
        else ""
    )
    faithful = f"<p><b>Do the maps show what matters?</b> {faithfulness(results)}</p>" if faithfulness(results) else ""
    return f"""<section class="rmn-card rmn-wide"><h2>Measured results</h2>
<div class="rmn-scroll" tabindex="0" role="group" aria-label="Table of results"><table class="rmn-table"><thead><tr>
<th scope="col">Faces of</th><th scope="col">Number</th>
<th scope="col">Right, in %</th><th scope="col">… averaged with the mirror image</th>
<th scope="col">Calibration error</th></tr></thead><tbody>{rows}</tbody></table></div>
<p class="rmn-muted">With 95% intervals, from the checkpoint's <code>eval.json</code>; this page does not average. The
paper's network, which is larger and starts from ImageNet weights, is right on 74.1% of PrivateTest. People agree with
these labels for 65 ± 5% of the faces. {size}</p>{faithful}</section>"""


def faithfulness(results: Measured | None) -> str:
    """Return a sentence about how faithful the attention maps are; empty where that was not measured."""
    if results is None or results.faithfulness is None:
        return ""
    found = results.faithfulness
    drops = {}
    for way, ends in (("map", found.map), ("random", found.random), ("features", found.features)):
        low, high = (f"{100 * end:.0f}" for end in ends)
        drops[way] = low if low == high else f"{low} to {high}"
    return (
        f"On {found.faces:,} faces, the {found.fraction:.0%} of a face that a map ranks highest were hidden. The "
        f"probability fell by {drops['map']} points, depending on the stage; by {drops['random']} where places were "
        f"hidden at random, and by {drops['features']} where the features are strongest even without the mask."
    )


def _row(scores: SetScores) -> str:
    name = TITLES.get(scores.name, scores.name)
    cells: Sequence[str] = (
        f"{scores.faces:,}",
        _share(scores.accuracy, scores.interval),
        "" if scores.averaged is None else _share(scores.averaged, scores.averaged_interval),
        "" if scores.calibration_error is None else f"{100 * scores.calibration_error:.1f}",
    )
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _share(accuracy: float, interval: tuple[float, float] | None) -> str:
    between = "" if interval is None else f" <small>({100 * interval[0]:.1f} to {100 * interval[1]:.1f})</small>"
    return f"<b>{100 * accuracy:.1f}</b>{between}"


LIMITS = """<section class="rmn-card"><h2>What it cannot do</h2><ul>
<li>An expression is what a face shows at one moment, not a feeling, a character or an intention.</li>
<li>The network learnt from small grey images whose labels are often doubtful. It errs, more often on faces that are
turned, covered, blurred or unlike those it learnt from.</li>
<li>Do not use it to decide anything about a person: not for hiring, policing, lie detection or diagnosis.</li>
<li>Photos have at most 10 MB and 25 million pixels (a JPEG 100 million); the 50
largest faces of a photo are shown.</li>
</ul></section>"""

PRIVACY = """<section class="rmn-card"><h2>Privacy</h2><ul>
<li>Nothing is kept. Camera frames are never written to a disk. Photos that you upload are deleted after five to six
minutes, and all of them when the page's program ends.</li>
<li>Nothing is counted or analysed, there is no history, and your browser asks no other computer for anything.</li>
<li>The program opens no addresses: it sees the photos that you give it, and nothing else.</li>
</ul></section>"""

API = """<section class="rmn-card rmn-wide"><h2>From a program</h2>
<p>The same result as <code>rmn-hub predict --json</code>, in Python:</p>
<pre tabindex="0"><code>from gradio_client import Client, handle_file

client = Client("<span class="rmn-address">http://127.0.0.1:7860</span>")
print(client.predict(handle_file("photo.jpg"), api_name="/predict"))</code></pre>
<p>and without it (the first command prints the number of the event, the second fetches its result):</p>
<pre tabindex="0"><code>printf '{"data": [{"url": "data:image/jpeg;base64,%s", "orig_name": "photo.jpg"}]}' \\
  "$(base64 &lt; photo.jpg | tr -d '\\n')" | curl -s -d @- -H 'Content-Type: application/json' \\
  <span class="rmn-address">http://127.0.0.1:7860</span>/gradio_api/call/predict
curl -s <span class="rmn-address">http://127.0.0.1:7860</span>/gradio_api/call/predict/EVENT_ID</code></pre></section>"""

# The commands name the address under which the visitor sees the page.
ADDRESS_JS = """
const address = new URL('.', location.href).href.replace(/[/]$/, '');
for (const place of element.querySelectorAll('.rmn-address')) place.textContent = address;
"""
