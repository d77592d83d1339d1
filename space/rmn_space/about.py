"""The about tab: what was measured, how masking works, limits, privacy, and the way in for programs."""

from collections.abc import Sequence
from html import escape

import gradio as gr

from rmn_hub import ImageResult
from rmn_hub.drawing.palette import color_of, percent
from rmn_hub.evaluation.measured import Measured, SetScores
from rmn_hub.hub.records import FER2013, is_fer2013, title

from . import render
from .service import Service

# Right in percent, as the paper reports it.
PAPER = {"private_test": 74.14}
FER2013_NOTE = """ The paper's network is larger and starts from ImageNet. People agree with 65 ± 5% of FER2013's
labels."""
PEERS_NOTE = " Other networks on the same faces are scored by <code>rmn-hub evaluate --peer</code>."


def build(service: Service, faces: ImageResult, mcp: bool = False) -> None:
    """
    Add the tab's text.

    Args:
        service: the recognizer, whose results are shown.
        faces: a result with attention maps, for the figure of how masking works.
        mcp: whether language models are offered a tool.
    """
    masks = how_it_works(faces) if service.has_masks else ""
    parts = (
        measured(service.results, service.address),
        masks,
        LIMITS,
        PRIVACY,
        API.replace("TOOL", TOOL if mcp else ""),
    )
    gr.HTML(
        f'<div class="rmn-about">{"".join(parts)}</div>',
        elem_id="about",
        js_on_load=ADDRESS_JS,
        apply_default_css=False,
    )


def how_it_works(faces: ImageResult) -> str:
    """Return one figure, made of the first face of the result, and a few sentences."""
    return f"""<section class="rmn-card rmn-wide"><h2>How masking works</h2>{_figure(faces)}
<p>In each of four stages a small U-shaped network predicts a <em>mask</em> between 0 and 1 for the features. The next
stage sees {render.FORMULA}: some become up to twice as strong, none is lost.</p>
<p class="rmn-muted">Pham, Vu and Tran, ICPR 2020, doi:10.1109/ICPR48806.2021.9411919</p></section>"""


def _figure(result: ImageResult) -> str:
    if not result.faces or result[0].attention is None or not result[0].attention.maps:
        return ""
    face, attention = result[0], result[0].attention
    count = render.in_words(len(face.probabilities))
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
        f'<i style="height:{max(3, 100 * share):.0f}%;background:{color_of(name)}"></i>'
        for name, share in face.probabilities.items()
    )
    parts.append(
        f'<figure><div class="rmn-tile rmn-bars">{bars}</div><figcaption>{escape(face.expression)} '
        f"{escape(percent(face.probability))}<small>{count} probabilities</small></figcaption></figure>"
    )
    return (
        '<div class="rmn-flow" role="img" aria-label="A face goes through four stages; after each its features are '
        f'multiplied by one plus a mask; at the end are {count} probabilities.">'
        + '<span class="rmn-sign">→</span>'.join(parts)
        + "</div>"
    )


def measured(results: Measured | None, address: str | None = None) -> str:
    """
    Return the table of results, PrivateTest first, with the numbers of others beside them.

    Args:
        results: the results in the checkpoint's folder.
        address: of its page on the Hub where it has no folder.
    """
    if results is None:
        body = "There are no measured results of this checkpoint. <code>rmn-hub evaluate</code> makes them."
        if address is not None:
            link = f'<a href="{escape(address)}" rel="noreferrer">its page on the Hub</a>'
            body = f"What was measured of this checkpoint stands on {link}."
        return f'<section class="rmn-card rmn-wide"><h2>Measured results</h2><p>{body}</p></section>'
    order = list(FER2013)
    sets = sorted(results.sets, key=lambda each: order.index(each.name) if _is_fer2013(each) else len(order))
    peers = tuple(dict.fromkeys(name for each in sets for name, _ in each.peers))
    rows = "".join(_row(each, peers) for each in sets)
    notes = (FER2013_NOTE if any(map(_is_fer2013, sets)) else "") + (PEERS_NOTE if peers else "")
    size = (
        f"{results.parameters / 1e6:.1f} million parameters, {results.multiply_adds / 1e6:.0f} million multiply-adds."
        if results.parameters and results.multiply_adds
        else ""
    )
    faithful = f"<p>{faithfulness(results)}</p>" if faithfulness(results) else ""
    heads = ("Right, in %", "Paper", *map(escape, peers), "One view", "Calibration error", "Faces")
    return f"""<section class="rmn-card rmn-wide"><h2>Measured results</h2>
{_table("Table of results", ("Faces of", *heads), rows)}
<div class="rmn-pair"><p class="rmn-muted">Two views (face and mirror image), 95% intervals.{notes}
{size}</p>{faithful}</div>{robustness(results)}</section>"""


def robustness(results: Measured) -> str:
    """Return what changes of the image do, folded up; empty where that was not measured."""
    if not results.robustness:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(each.change)}</th><td>{100 * each.accuracy:.1f}</td>'
        f"<td>{100 * each.changed:.1f}</td></tr>"
        for each in results.robustness
    )
    table = _table("Table of changes", ("The face is", "Right, in %", "Changed, in %"), rows)
    return f"<details><summary>Worse photos</summary>{table}</details>"


def _table(label: str, heads: Sequence[str], rows: str) -> str:
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="rmn-scroll" tabindex="0" role="group" aria-label="{label}"><table class="rmn-table"><thead>'
        f"<tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


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
        f"Hiding the {found.fraction:.0%} of a face that a map ranks highest costs {drops['map']} points of "
        f"probability; random places cost {drops['random']}, those with the strongest features before the mask "
        f"{drops['features']} ({found.faces:,} faces)."
    )


def _row(scores: SetScores, peers: Sequence[str]) -> str:
    name, found = title(scores.name, scores.faces), dict(scores.peers)
    paper = PAPER.get(scores.name) if _is_fer2013(scores) else None
    cells: Sequence[str] = (
        "" if scores.averaged is None else _share(scores.averaged, scores.averaged_interval),
        "" if paper is None else f"{paper:.1f}",
        *(f"{100 * found[peer]:.1f}" if peer in found else "" for peer in peers),
        _share(scores.accuracy, scores.interval, "span"),
        "" if scores.calibration_error is None else f"{100 * scores.calibration_error:.1f}",
        f"{scores.faces:,}",
    )
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _is_fer2013(scores: SetScores) -> bool:
    return is_fer2013(scores.name, scores.faces)


def _share(accuracy: float, interval: tuple[float, float] | None, tag: str = "b") -> str:
    between = "" if interval is None else f" <small>({100 * interval[0]:.1f} to {100 * interval[1]:.1f})</small>"
    return f"<{tag}>{100 * accuracy:.1f}</{tag}>{between}"


LIMITS = """<section class="rmn-card"><h2>What it cannot do</h2><ul>
<li>An expression is what a face shows at one moment, not a feeling or a character.</li>
<li>It errs, more often on turned, covered or blurred faces.</li>
<li>Judge nobody by it: no hiring, policing, lie detection or diagnosis.</li>
</ul></section>"""

PRIVACY = """<section class="rmn-card"><h2>Privacy</h2><ul>
<li>Photos and films are deleted after five to six minutes; camera frames are never written.</li>
<li>Nothing is counted, and your browser asks no other computer.</li>
</ul></section>"""

API = """<section class="rmn-card rmn-wide"><h2>From a program</h2>
<p>The result of <code>rmn-hub predict --json</code>; <code>/video</code> takes a film.</p>
<pre tabindex="0"><code>from gradio_client import Client, handle_file

client = Client("<span class="rmn-address">http://127.0.0.1:7860</span>")
print(client.predict(handle_file("photo.jpg"), api_name="/predict"))</code></pre>
<p>With curl, in two steps:</p>
<pre tabindex="0"><code>printf '{"data": [{"url": "data:image/jpeg;base64,%s", "orig_name": "photo.jpg"}]}' \\
  "$(base64 &lt; photo.jpg | tr -d '\\n')" | curl -s -d @- -H 'Content-Type: application/json' \\
  <span class="rmn-address">http://127.0.0.1:7860</span>/gradio_api/call/predict
curl -s <span class="rmn-address">http://127.0.0.1:7860</span>/gradio_api/call/predict/EVENT_ID</code></pre>
TOOL</section>"""

TOOL = """<p>Language models find the tool <code>predict</code> over MCP:</p>
<pre tabindex="0"><code><span class="rmn-address">http://127.0.0.1:7860</span>/gradio_api/mcp</code></pre>"""

# The commands name the address under which the visitor sees the page.
ADDRESS_JS = """
const address = new URL('.', location.href).href.replace(/[/]$/, '');
for (const place of element.querySelectorAll('.rmn-address')) place.textContent = address;
"""
