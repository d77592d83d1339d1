"""The video tab, and `/video`: one short film in, its faces over time out; a view of `rmn_hub.video`."""

import base64
import contextlib
import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePath
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

from rmn_hub import FrameResult, InputError, annotate
from rmn_hub.video.frames import Film, Frame
from rmn_hub.video.recognize import analyse, session_for
from rmn_hub.video.sources import SUFFIXES
from rmn_hub.video.tables import CSVWriter
from rmn_hub.video.timeline import LEFT, RIGHT, Timeline
from rmn_hub.video.writing import FilmWriter

from . import render
from .decoding import VISITOR_LEFT
from .photo import EXAMPLES_FOLDER, EXAMPLES_JS, allows, example_button, script
from .requests import not_a_tool, visitor_stays
from .safety import GONE, MAX_BYTES, NOT_UPLOADED, TOO_FAST, TOO_LARGE, UNEXPECTED, RateLimit
from .service import Service
from .turns import FILM, FILM_SECONDS

log = logging.getLogger(__name__)

# Of a film that is longer, this much is looked at.
MAX_SECONDS = 30
# Most pixels of a frame: cameras film in 4K.
MAX_FRAME_PIXELS = 10_000_000
# Frames a second that are classified; those in between show the faces of the last one.
CLASSIFIED = 12
# Long side of the film that is shown, in pixels.
SHOWN = 960
MAX_FACES = 12
DESCRIPTION = (
    "Follow the faces of a film and classify their expressions, as rmn-hub video --json does. The film is an uploaded "
    f"file (handle_file of gradio_client does it) of at most 10 MB, of which {MAX_SECONDS} seconds are looked at, "
    f"{CLASSIFIED} frames a second. The result has source; tracks, for each face track (its number), first and last "
    "(seconds), frames, expression, seconds (of each expression), probabilities (their means), best_time and best_box; "
    "and frames, each with source, frame (its number), time, cut, width, height and faces, which are those of /predict "
    "with track_id and raw_probabilities (without smoothing). Nothing is kept."
)
EXAMPLE = EXAMPLES_FOLDER / "film.mp4"  # made of the two portraits
# Called with the seconds done, and of how many.
Report = Callable[[float, float], object]
# Called with a frame and its result, or that of a frame before it.
Take = Callable[[Frame, FrameResult], object]


@dataclass(frozen=True)
class Upload:
    """
    What a visitor sent, unopened.

    Args:
        name: the file's name without its folders.
        path: where it lies, or `None` when there is a problem.
        problem: why it cannot be used, as a sentence for the visitor, or `None`.
    """

    name: str
    path: Path | None = None
    problem: str | None = None


class FilmInput(gr.File):
    """The file component of gradio, which takes nothing but what was uploaded to this server's private folder."""

    is_template = True

    # What gradio calls preprocess may return anything that the page's own functions take.
    def preprocess(self, payload: Any) -> Upload | None:  # type: ignore[override]
        """Return the upload."""
        if not isinstance(payload, FileData) or not payload.path:
            return None
        name = PurePath((payload.orig_name or payload.path).replace("\\", "/")).name or "film"
        path = Path(payload.path).resolve()
        if not path.is_relative_to(Path(get_upload_folder()).resolve()):
            return Upload(name, problem=NOT_UPLOADED)
        if not path.is_file():
            return Upload(name, problem=GONE)
        if path.stat().st_size > MAX_BYTES:
            return Upload(name, problem=TOO_LARGE)
        return Upload(name, path)


def build(service: Service, rate: RateLimit) -> None:
    """Add the tab's components and events to the page that is being built."""

    def show_film(
        upload: Upload | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str | dict[str, Any]:
        """Return the film's result as HTML, unless the visitor has gone or wants another one."""
        if upload is None:
            return START
        if not allows(rate, request):
            return render.message("One moment", TOO_FAST, kind="error")
        stays = visitor_stays()
        html = html_of(
            service,
            upload,
            lambda done, total: progress(min(1.0, done / max(total, 0.01)), f"{done:.0f} of {total:.0f} seconds"),
        )
        return html if stays() else gr.skip()

    @not_a_tool
    def video(upload: Upload | None, request: gr.Request) -> dict[str, Any]:
        """Return the result of `/video`: see `DESCRIPTION`."""
        if not allows(rate, request):
            raise gr.Error(TOO_FAST, print_exception=False)
        if upload is None:
            raise gr.Error("There is no film in this request. Please send one.", print_exception=False)
        frames: list[dict[str, Any]] = []
        try:
            with opened(upload) as opened_film:
                timeline, _ = follow(
                    service,
                    opened_film,
                    upload.name,
                    lambda *_: None,
                    lambda _, result: frames.append(result.to_dict()),
                )
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {
            "source": upload.name,
            "tracks": [track.to_dict() for track in timeline.tracks],
            "frames": frames,
        }

    def show_example_film(request: gr.Request, progress: gr.Progress = gr.Progress()) -> str | dict[str, Any]:  # noqa: B008
        """Return the result of the example."""
        return show_film(Upload(EXAMPLE.name, EXAMPLE), request, progress)

    with gr.Row(elem_classes="rmn-give", equal_height=False):
        with gr.Column(elem_classes="rmn-input", min_width=260):
            film = FilmInput(
                label="Your film",
                show_label=False,
                file_types=sorted(SUFFIXES),
                height=124,
                elem_id="film",
            )
        with gr.Column(elem_classes="rmn-try", min_width=260):
            example = gr.HTML(
                example_film(),
                elem_id="example-film",
                js_on_load=EXAMPLES_JS.replace("#result", "#film-result"),
                apply_default_css=False,
                padding=False,
            )
            gr.HTML(PROMISE, apply_default_css=False, padding=False)
    shown = gr.HTML(
        START, elem_id="film-result", js_on_load=script("say") + RESULT_JS, apply_default_css=False, padding=False
    )
    # One film at a time: it takes both cores for as long as it lasts. Clear, or another film, ends the visitor's own.
    shared: dict[str, Any] = {"concurrency_id": FILM, "concurrency_limit": 1}
    seen: dict[str, Any] = {
        "show_progress": "full",
        "api_visibility": "private",
        "trigger_mode": "multiple",
        **shared,
    }
    film.change(show_film, film, shown, **seen)
    example.click(show_example_film, None, shown, show_progress_on=shown, **seen)
    with gr.Row(visible=False):
        api_film = FilmInput(label="film")
        api_faces = gr.JSON(label="faces")
        gr.Button("video").click(video, api_film, api_faces, api_name="video", api_description=DESCRIPTION, **shared)


def example_film() -> str:
    """Return a button with the first image of the example."""
    with Film(EXAMPLE) as film:
        first = next(iter(film)).image
    return f'<div class="rmn-examples">{example_button(EXAMPLE.name, "Example film", first)}</div>'


def follow(
    service: Service, film: Film, name: str, report: Report, take: Take, between: bool = False
) -> tuple[Timeline, str | None]:
    """
    Follow the faces of a film.

    Args:
        service: the recognizer.
        film: the film, opened; it is closed in the end.
        name: what the visitor calls it.
        report: called with the seconds done, and of how many.
        take: called with each frame that is classified, and its result.
        between: whether `take` is also called with the frames between these, and the result of the last one.

    Returns:
        The film's timeline, and a sentence about what was left out, or `None`.

    Raises:
        InputError: no frame can be decoded.
    """
    timeline = Timeline()
    stays = visitor_stays()
    ends, note = time.monotonic() + FILM_SECONDS, None
    with film, service.cores.shared(between=2):
        film.name = name
        every = max(1, round((film.rate or 25.0) / CLASSIFIED))
        session = session_for(film, service.live_recognizer, every=every, max_faces=MAX_FACES)
        result: FrameResult | None = None
        for frame, new in analyse(film, session, every=every):
            if new is not None:
                timeline.add(new, frame.image)
                result = new
            if result is not None and (between or new is not None):
                take(frame, result)
            if not stays():
                raise InputError(VISITOR_LEFT)
            report(min(frame.time, MAX_SECONDS), film.duration or MAX_SECONDS)
            if time.monotonic() > ends:
                note = f"This film takes too long: only its first {frame.time:.1f} seconds were read."
                break
    if film.cut:
        note = f"Only the first {MAX_SECONDS} seconds were read."
    return timeline, " ".join(sentence for sentence in (note, film.message) if sentence) or None


@contextlib.contextmanager
def opened(upload: Upload, sound: bool = False) -> Iterator[Film]:
    """
    Yield the film of an upload. Errors of the block name the upload, not the place where it lies.

    Raises:
        InputError: the film cannot be used; the message is a sentence for the visitor.
    """
    if upload.path is None:
        raise InputError(upload.problem or UNEXPECTED)
    try:
        with Film(upload.path, end=MAX_SECONDS, sound=sound, max_pixels=MAX_FRAME_PIXELS) as film:
            yield film
    except InputError as error:
        raise InputError(str(error).replace(str(upload.path), upload.name)) from error


def html_of(service: Service, upload: Upload, report: Report) -> str:
    """Return the HTML for a film, whatever is wrong with it."""
    try:
        # The files lie in the private folder, and are gone when they are read.
        with tempfile.TemporaryDirectory() as folder, opened(upload, sound=True) as film:
            drawn, table = Path(folder) / "film.mp4", Path(folder) / "film.csv"
            with FilmWriter(drawn, film) as writer, CSVWriter(table, service.live_recognizer.expressions) as rows:

                def take(frame: Frame, result: FrameResult) -> None:
                    image = render.limited(frame.image, SHOWN)
                    writer.write(annotate(image, result.scaled(*image.size), enlarge=False, numbers=True), frame.time)
                    if frame.index == result.index:
                        rows.write(result)

                timeline, note = follow(service, film, upload.name, report, take, between=True)
            return result_html(upload.name, timeline, drawn.read_bytes(), table.read_bytes(), note)
    except InputError as error:
        return render.message("This did not work", str(error), kind="error")
    except Exception:
        log.exception("a film could not be followed")
        return render.message("This did not work", UNEXPECTED, kind="error")


def result_html(name: str, timeline: Timeline, film: bytes, table: bytes, note: str | None) -> str:
    """Return everything about one film: the player, the timeline below it, a row for each face, and the downloads."""
    stem = escape(PurePath(name).stem)
    drawn = io.BytesIO()
    timeline.draw().save(drawn, "PNG")
    film_url, table_url = _data_url("video/mp4", film), _data_url("text/csv", table)
    image_url = _data_url("image/png", drawn.getvalue())
    begin, end = timeline.span
    count = len(timeline.tracks)
    faces = "no face" if not count else "1 face" if count == 1 else f"{count} faces"
    note = f'<p class="rmn-note">{escape(note)}</p>' if note else ""
    rows = "".join(
        f'<tr><th scope="row">{track.id}</th><td>{track.first:.1f} s</td><td>{track.last:.1f} s</td>'
        f"<td>{escape(_shares(track.seconds))}</td></tr>"
        for track in timeline.tracks
    )
    listed = (
        '<table class="rmn-tracks"><thead><tr><th scope="col">Face</th><th scope="col">From</th><th scope="col">To</th>'
        f'<th scope="col">Most probable expression</th></tr></thead><tbody>{rows}</tbody></table>'
    )
    return f"""<section class="rmn-result rmn-film" aria-label="Result"
  data-say="Your film with {faces} is ready.">{note}
<div class="rmn-card">
<video controls playsinline preload="auto" src="{film_url}" aria-label="Your film with {faces}"></video>
<div class="rmn-scroll" tabindex="0" role="group" aria-label="Timeline"><div class="rmn-strip" data-begin="{begin}"
  data-end="{end}" data-left="{LEFT}" data-right="{RIGHT}" title="Click to go to a moment"><img src="{image_url}"
  alt="The probabilities of {faces} over time; the table below has the seconds of each expression"><i></i></div></div>
{listed if count else ""}
<div class="rmn-downloads"><span class="rmn-muted">Save</span>
<a class="rmn-button" download="{stem}-expressions.mp4" href="{film_url}">Annotated film</a>
<a class="rmn-button" download="{stem}-expressions.csv" href="{table_url}">Table</a>
<a class="rmn-button" download="{stem}-timeline.png" href="{image_url}">Timeline</a></div>
</div></section>"""


def _shares(seconds: dict[str, float]) -> str:
    longest = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value:.1f} s" for name, value in longest if value >= 0.05)


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


START = render.message(
    "Who shows what when",
    "Add a short film: its faces are followed, and a timeline shows the expressions of each. Click the timeline to go "
    "to a moment.",
)
PROMISE = (
    f'<p class="rmn-muted rmn-small-text">At most 10 MB; of a film longer than {MAX_SECONDS} seconds, the first '
    f"{MAX_SECONDS} are read. It takes about as long as the film lasts. Nothing is kept: your film is deleted after "
    "five to six minutes and never leaves the computer that runs this page.</p>"
)
# The line on the timeline follows the player, and a click on the timeline moves the player.
RESULT_JS = """
const parts = () => [element.querySelector('video'), element.querySelector('.rmn-strip')];
const numbers = strip => ['begin', 'end', 'left', 'right'].map(name => Number(strip.dataset[name]));
element.addEventListener('click', event => {
  const [video, strip] = parts();
  if (!strip?.contains(event.target)) return;
  const [begin, end, left, right] = numbers(strip);
  const box = strip.getBoundingClientRect();
  const share = ((event.clientX - box.left) / box.width - left) / (right - left);
  video.currentTime = begin + Math.min(1, Math.max(0, share)) * (end - begin);
});
const follow = () => {
  const [video, strip] = parts();
  if (!strip) return;
  const [begin, end, left, right] = numbers(strip);
  const share = Math.min(1, (video.currentTime - begin) / Math.max(end - begin, 1e-3));
  const place = left + share * (right - left), frame = strip.parentElement;
  strip.querySelector('i').style.left = `${100 * place}%`;
  // On a narrow page the timeline is wider than its frame, which follows the film.
  const x = place * strip.clientWidth - frame.scrollLeft;
  if (x < 0 || x > frame.clientWidth) frame.scrollLeft += x - frame.clientWidth / 4;
};
for (const name of ['timeupdate', 'seeked', 'loadeddata']) element.addEventListener(name, follow, true);
"""
