"""The photo tab, and `/predict`: one photo in, all its faces out."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from rmn_hub import ImageResult, InputError

from . import render
from .about import faithfulness
from .inputs import FacesOutput, Photo, PhotoInput
from .requests import not_a_tool, visitor_stays
from .safety import MAX_BYTES, MAX_PIXELS, REDUCED_PIXELS, TOO_FAST, TOO_LARGE, UNEXPECTED, RateLimit, visitor_of
from .service import LEAST_FACE, USUAL_FACE, Service, smallest_face
from .turns import PHOTO

log = logging.getLogger(__name__)

# A wheel has the examples inside the package, a checkout or a Space beside it.
_HERE = Path(__file__).resolve().parent
EXAMPLES_FOLDER = next(folder for folder in (_HERE / "examples", _HERE.parent / "examples") if folder.is_dir())
# Side of a small image, in pixels: twice what it takes on the page.
THUMBNAIL = 168


@dataclass(frozen=True)
class Example:
    """
    One of the photos and drawings to try.

    Args:
        file: its name in the examples' folder.
        name: what its button says.
        source: the line to show below it; licences are in examples/README.md.
        part: what the button shows: left, top, right and bottom as shares of the width and the height.
    """

    file: str
    name: str
    source: str
    part: tuple[float, float, float, float]


# One for each expression. What each drawing was posed to show is its name, whatever the network predicts. The page in
# the browser has the same list, and one more.
EXAMPLES = tuple(
    Example(each["file"], each["name"], each["source"], tuple(each["part"]))
    for each in json.loads((EXAMPLES_FOLDER / "examples.json").read_text(encoding="utf-8"))
    if "only" not in each
)
FILES = [each.file for each in EXAMPLES]
INPUT_HEIGHT = 124
# Percent. On FER2013's PrivateTest the bundled network is right on 78% of the faces above it and on 41% of those below.
DEFAULT_CONFIDENCE = 50
DESCRIPTION = (
    "Find the faces of a photo and classify their expressions, as rmn-hub predict --json does. The photo is a JPEG, "
    "PNG, WebP, BMP, TIFF or GIF file of at most 10 MB and 25 million pixels: uploaded (handle_file of gradio_client "
    'does it), or in the request itself as {"url": "data:image/jpeg;base64,..."}. Addresses are not opened. The result '
    "has source, width, height and faces, in reading order, each with index (from 1), box [x0, y0, x1, y1], landmarks, "
    "score, expression, probability, probabilities and uncertain; message where there is something to say; and "
    "turned, by how many degrees clockwise, where the photo had to be turned for its faces to be found."
)


def build(service: Service, rate: RateLimit, first_sight: str) -> None:
    """Add the tab's components and events to the page that is being built. `first_sight` is the HTML to begin with."""

    def show(
        photo: Photo | None, example: str | None, min_face: int, min_confidence: float, request: gr.Request
    ) -> str | dict[str, Any]:
        """Return the result of the photo, or of the chosen example while there is none; nothing if it is too late."""
        if not allows(rate, request):
            return render.message("One moment", TOO_FAST, kind="error")
        note = ""
        if photo is None:
            photo, note = open_example(example)
        stays = visitor_stays()
        html = html_of(service, photo, min_face, min_confidence / 100, note)
        return html if stays() else gr.skip()

    @not_a_tool
    def predict_photo(photo: Photo | None, request: gr.Request) -> dict[str, Any]:
        """Return the result of `/predict`: see `DESCRIPTION`."""
        if not allows(rate, request):
            raise gr.Error(TOO_FAST, print_exception=False)
        if photo is None:
            raise gr.Error("There is no photo in this request. Please send one.", print_exception=False)
        try:
            return service.recognize(photo, wanted=visitor_stays())[0].to_dict()
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    with gr.Row(elem_id="give", elem_classes="rmn-give", equal_height=False):
        with gr.Column(elem_classes="rmn-input", min_width=260):
            photo = PhotoInput(
                label="Your photo",
                show_label=False,
                sources=["upload", "clipboard", "webcam"],
                height=INPUT_HEIGHT,
                elem_id="photo",
                placeholder="Drop or choose a photo",
                webcam_options=gr.WebcamOptions(constraints={"video": {"width": {"ideal": 1280}}}),
                buttons=[],
                alt_text="Your photo, as you gave it",
            )
            gr.HTML(CHANGE, elem_id="change", js_on_load=CHANGE_JS, apply_default_css=False, padding=False)
        with gr.Column(elem_classes="rmn-try", min_width=260):
            examples = gr.HTML(
                example_buttons(), elem_id="examples", js_on_load=EXAMPLES_JS, apply_default_css=False, padding=False
            )
            gr.HTML(PROMISE, apply_default_css=False, padding=False)
    shown = gr.HTML(
        first_sight,
        elem_id="result",
        js_on_load=script("say", "result", "zoom", "upload"),
        apply_default_css=False,
        padding=False,
    )
    with gr.Accordion("Settings", open=False, elem_id="settings"), gr.Row():
        min_face = gr.Slider(
            LEAST_FACE,
            200,
            USUAL_FACE,
            step=10,
            precision=0,
            label="Smallest face",
            info=f"In pixels. Smaller takes longer. From {USUAL_FACE} on, at least a 64th of a photo's longer side.",
        )
        min_confidence = gr.Slider(
            0,
            90,
            DEFAULT_CONFIDENCE,
            step=5,
            label="Uncertain below",
            info="Faces whose highest probability lies below this percentage are marked with “?”.",
        )
    # Kept by the browser: what a session keeps here is forgotten after a few minutes.
    example = gr.Textbox(visible=False)

    turns: dict[str, Any] = {"concurrency_id": PHOTO, "concurrency_limit": 2}
    shared: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "multiple", **turns}
    inputs = [photo, example, min_face, min_confidence]
    shown.input(lambda: render.message("This did not work", TOO_LARGE, kind="error"), None, shown, **shared)
    photo.change(show, inputs, shown, show_progress="full", **shared)
    for setting in (min_face, min_confidence):
        setting.change(show, inputs, shown, show_progress="minimal", **{**shared, "trigger_mode": "always_last"})
    # The browser itself puts the example in the photo's place, at once: whatever is asked for from then on is about it.
    examples.click(None, None, [example, photo], js=CHOSEN_JS, api_visibility="private").then(
        show, inputs, shown, show_progress="full", **shared
    )

    # The public way in: components of its own, so that its description is of one photo and one result.
    with gr.Row(visible=False):
        api_photo = PhotoInput(label="photo")
        api_faces = FacesOutput(label="faces")
        gr.Button("predict").click(
            predict_photo,
            api_photo,
            api_faces,
            api_name="predict",
            api_description=DESCRIPTION,
            **turns,
        )


def html_of(service: Service, photo: Photo, min_face: int, min_confidence: float, note: str = "") -> str:
    """Return the HTML for a photo, whatever is wrong with it."""
    try:
        result, image = service.recognize(
            photo,
            min_face=min_face,
            min_confidence=min_confidence,
            attention=True,
            between=2,
            wanted=visitor_stays(),
        )
    except InputError as error:
        return render.message("This did not work", str(error), kind="error")
    except gr.Error:  # a lent GPU that cannot be had has a sentence of its own
        raise
    except Exception:
        log.exception("a photo could not be classified")
        return render.message("This did not work", UNEXPECTED, kind="error")
    found = smallest_face(min_face, image, result.width), smallest_face(LEAST_FACE, image, result.width)
    return render.result(result, image, note, faithfulness(service.results), smaller=found[0] != found[1])


def welcome(service: Service) -> tuple[str, ImageResult]:
    """
    Return the page's first sight, the first example, as HTML and as its result. It also warms the network up, on the
    CPU where GPUs are lent: a page must listen before it can ask for one.
    """
    photo, note = open_example(FILES[0])
    result, image = service.recognize(
        photo, min_confidence=DEFAULT_CONFIDENCE / 100, attention=True, between=2, on_cpu=True
    )
    return render.result(result, image, note, faithfulness(service.results)), result


def open_example(name: str | None) -> tuple[Photo, str]:
    """Return one of `EXAMPLES` (the first for any other name) as if it had been sent, and the line to show below it."""
    name = name if name in FILES else FILES[0]
    source = next(each.source for each in EXAMPLES if each.file == name)
    return Photo(name, (EXAMPLES_FOLDER / name).read_bytes()), f"Example: {source}"


def example_buttons() -> str:
    """Return a button with a small image for each example."""
    buttons = []
    for each in EXAMPLES:
        with Image.open(EXAMPLES_FOLDER / each.file) as image:
            box = [round(share * side) for share, side in zip(each.part, 2 * image.size)]
            buttons.append(example_button(each.file, each.name, image.crop((box[0], box[1], box[2], box[3]))))
    return f'<div class="rmn-examples" role="group" aria-label="Examples">{"".join(buttons)}</div>'


def example_button(file: str, name: str, image: Image.Image) -> str:
    """Return the button of one example, with a small image."""
    small = render.data_url(render.limited(image.convert("RGB"), THUMBNAIL))
    return f'<button type="button" data-example="{file}"><img src="{small}" alt=""><span>{name}</span></button>'


def allows(rate: RateLimit, request: gr.Request) -> bool:
    """Return whether the visitor may send one more."""
    client = request.client.host if request.client else None
    return rate.allows(visitor_of(client, request.headers.get("x-forwarded-for")))


def script(*names: str) -> str:
    """Return some of the page's scripts, each in a scope of its own, with the limits that they name."""
    limits = {"MAX_BYTES": MAX_BYTES, "MAX_PIXELS": MAX_PIXELS, "REDUCED_PIXELS": REDUCED_PIXELS}
    constants = "".join(f"const {name} = {value};\n" for name, value in limits.items())
    texts = ((_HERE / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in names)
    return constants + "".join(f"{{\n{text}}}\n" for text in texts)


CHANGE = '<button type="button" class="rmn-button">Change photo</button>'
PROMISE = (
    '<p class="rmn-muted rmn-small-text">Nothing is kept: your photo is deleted after five to six minutes and never '
    "leaves the computer that runs this page. An expression is what a face shows, not a feeling.</p>"
)

# Gradio's own input stays in the page, hidden, while it shows a photo.
CHANGE_JS = """
element.addEventListener('click', event => {
  if (event.target.closest('button')) document.querySelector('#photo input[type=file]')?.click();
});
// Gradio leaves the camera of a snapshot on in another tab, and closes it with its source.
const column = element.closest('.rmn-input');
const away = () => {
  const video = column.querySelector('video');
  if (column.offsetWidth || !video?.srcObject) return;
  const close = () => {
    if (column.offsetWidth || !video.isConnected) return;
    for (const track of video.srcObject.getTracks()) track.stop();
    column.querySelector('.source-selection button').click();
  };
  video.play().then(close, close);
};
new ResizeObserver(away).observe(column);
new MutationObserver(away).observe(column, {childList: true, subtree: true});
"""

EXAMPLES_JS = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-example]');
  if (!button) return;
  element.dataset.chosen = button.dataset.example;
  trigger('click');
  if (window.innerWidth < 768) document.querySelector('#result')?.scrollIntoView({behavior: 'smooth', block: 'start'});
});
"""
CHOSEN_JS = "() => [document.querySelector('#examples [data-chosen]').dataset.chosen, null]"
