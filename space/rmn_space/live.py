"""The live tab, a view of a `Session`: the browser's own player shows the camera, the server returns boxes and bars."""

import json
import logging
import time
from collections import deque
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from rmn_hub import FaceExpression, FrameResult
from rmn_hub.attention import place
from rmn_hub.detection.detector import crop_box
from rmn_hub.drawing.palette import label_of
from rmn_hub.video import Session

from . import render
from .inputs import FRAME_SIZE, CameraInput
from .photo import DEFAULT_CONFIDENCE
from .service import Service

log = logging.getLogger(__name__)

MAX_FACES = 6
# Frames that a face which is not seen is waited for.
PATIENCE = 3
# Seconds from one frame to the next that the browser is asked to send. A slow server gets fewer: it reads the newest.
EVERY = 0.06
# Seconds of work for one visitor before the next in line gets the place, and places.
TIME_LIMIT = 30
VISITORS = 2
# What the browser is asked for.
CONSTRAINTS = {
    "video": {"width": {"ideal": FRAME_SIZE[0]}, "height": {"ideal": FRAME_SIZE[1]}, "facingMode": "user"},
    "audio": False,
}


class Visit:
    """What is remembered of one visitor's camera: boxes and probabilities of the faces in view, never an image."""

    def __init__(self, service: Service) -> None:
        self.service = service
        # A face that blinks out of one frame keeps its box: it would flicker otherwise.
        self.session = Session(
            service.live_recognizer,
            detector=service.live_detector,
            patience=PATIENCE,
            hold=1,
            max_faces=MAX_FACES,
            min_confidence=DEFAULT_CONFIDENCE / 100,
        )
        self.times: deque[float] = deque(maxlen=20)
        self.chosen: int | None = None

    def see(self, frame: Image.Image, attention: bool, now: float) -> tuple[str, str]:
        """
        Classify the faces of a frame.

        Args:
            frame: RGB.
            attention: whether to lay the attention maps over the faces.
            now: seconds, from any start.

        Returns:
            The HTML to lay over the camera's player, and that of the chart beside it.
        """
        started = time.perf_counter()
        self.times.append(now)
        with self.service.cores.shared(between=2):
            result = self.session.update(frame, now, attention=attention and self.service.has_masks)
        milliseconds = 1000 * (time.perf_counter() - started)
        return self._layer(result), self._panel(result, milliseconds)

    def _layer(self, result: FrameResult) -> str:
        boxes = []
        for face in result:
            heat = self._heat(face, result) if face.attention is not None and face.attention.maps else ""
            kinds = " rmn-below" if face.box[1] < 0.1 * result.height else ""
            kinds += " rmn-doubtful" if face.uncertain else ""
            boxes.append(
                f'{heat}<div class="rmn-live-face{kinds}" style="{render.place(face, result.width, result.height)}">'
                f'<span class="rmn-tag">{escape(label_of(face))}</span></div>'
            )
        # The time makes every layer a new one for the browser, also where nothing moves.
        return (
            f'<div class="rmn-frame" style="--ratio:{result.width / result.height:.4f}" '
            f'data-faces="{len(result)}" data-at="{self.times[-1]:.2f}">{"".join(boxes)}</div>'
        )

    def _heat(self, face: FaceExpression, frame: FrameResult) -> str:
        """Return the mean of the stages' attention maps over the place of the crop, turned back as the head leans."""
        x0, y0, x1, y1 = crop_box(face.box, self.service.live_recognizer.margin)
        assert face.attention is not None
        maps = [place(values, render.GLOW_SIZE, render.GLOW_SIZE) for values in face.attention.maps]
        return (
            f'<img class="rmn-live-heat" alt="" src="{render.glow(np.mean(maps, axis=0))}" '
            f'style="left:{100 * x0 / frame.width:.2f}%;top:{100 * y0 / frame.height:.2f}%;'
            f"width:{100 * (x1 - x0) / frame.width:.2f}%;height:{100 * (y1 - y0) / frame.height:.2f}%;"
            f'rotate:{-face.attention.turned:.1f}deg">'
        )

    def _panel(self, result: FrameResult, milliseconds: float) -> str:
        count = {0: "no face", 1: "1 face"}.get(len(result), f"{len(result)} faces")
        status = (
            f'<p class="rmn-status"><span><b>{self.rate():.0f}</b> frames/s</span>'
            f"<span><b>{milliseconds:.0f}</b> ms a frame</span><span>{count}</span></p>"
        )
        if not result.faces:
            self.chosen = None
            return waiting("No face in view", "Look into the camera, a little closer perhaps.") + status
        ids = [face.track_id for face in result]
        if self.chosen not in ids:
            # The chart stays with one face as long as it is there; it starts with the largest.
            areas = [(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]) for face in result]
            self.chosen = ids[areas.index(max(areas))]
        index = ids.index(self.chosen)
        face, raw = result[index], result.raw[index].probabilities
        who = "The face" if len(result) == 1 else "One of the faces"
        return (
            f'<div class="rmn-card rmn-live-chart"><h2><small>{who} shows</small> {render.heading(face)}</h2>'
            f"{render.chart(face, raw=raw)}"
            '<p class="rmn-muted rmn-small-text">Bars are smoothed over about half a second; the thin marks are the '
            f"last frame alone.</p></div>{status}"
        )

    def rate(self) -> float:
        """Return the frames a second over the last frames, 0 before there are two."""
        if len(self.times) < 2 or self.times[-1] <= self.times[0]:
            return 0.0
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def build(service: Service) -> None:
    """Add the tab's components and events to the page that is being built."""

    def follow(
        frame: Image.Image | None, attention: bool, visit: Visit | None
    ) -> tuple[str | dict[str, Any], str | dict[str, Any], Visit | None]:
        """Return boxes and bars for a frame. It never raises: the browser would start anew with every frame."""
        if frame is None:
            return gr.skip(), gr.skip(), visit
        try:
            visit = visit or Visit(service)
            layer, panel = visit.see(frame, attention, time.monotonic())
        except Exception:
            log.exception("a camera frame could not be classified")
            return "", waiting("One moment", "This frame could not be read; the next one follows."), None
        return layer, panel, visit

    with gr.Row(elem_classes="rmn-columns rmn-live", equal_height=False):
        with gr.Column(elem_classes="rmn-camera", min_width=300):
            with gr.Column(elem_id="live-stage", elem_classes="rmn-stage-box"):
                camera = CameraInput(
                    label="Your camera",
                    show_label=False,
                    sources=["webcam"],
                    streaming=True,
                    elem_id="live-camera",
                    buttons=[],
                    webcam_options=gr.WebcamOptions(constraints=CONSTRAINTS),
                )
                layer = gr.HTML("", elem_id="live-layer", js_on_load=LAYER_JS, apply_default_css=False, padding=False)
            with gr.Row(elem_classes="rmn-controls"):
                gr.HTML(SWITCH, elem_id="live-switch", js_on_load=SWITCH_JS, apply_default_css=False, padding=False)
                attention = gr.Checkbox(
                    False,
                    label="Show where masks strengthen features",
                    elem_id="live-attention",
                    visible=service.has_masks,
                )
        with gr.Column(elem_classes="rmn-beside", min_width=300):
            panel = gr.HTML(START, elem_id="live-panel", apply_default_css=False, padding=False)
            gr.HTML(
                '<p class="rmn-stopped" role="status">Nothing new: the camera is stopped, or it is another '
                "visitor's turn.</p>"
                '<p class="rmn-muted rmn-small-text">Frames are looked at and forgotten: none is written to a disk, '
                f"none is kept. {VISITORS} cameras run at a time; the next visitor waits until one has had its turn."
                "</p>",
                apply_default_css=False,
            )
    visit = gr.State(None)

    camera.stream(
        follow,
        [camera, attention, visit],
        [layer, panel, visit],
        stream_every=EVERY,
        time_limit=TIME_LIMIT,
        concurrency_limit=VISITORS,
        concurrency_id="live",
        show_progress="hidden",
        api_visibility="private",
    )


def waiting(title: str, sentence: str) -> str:
    """Return a state without a face."""
    return (
        f'<div class="rmn-card rmn-message rmn-info"><span class="rmn-icon">{render.ICONS["info"]}</span>'
        f"<div><h2>{escape(title)}</h2><p>{escape(sentence)}</p></div></div>"
    )


START = waiting(
    "Your camera is off",
    "Press Start camera and allow it. Boxes and bars follow your face, and nothing is kept.",
)

# One button for gradio's two (access to the camera, then recording), whose words would promise that something is kept.
# Gradio leaves the camera on when it stops to send frames, and sends them on in another tab: here the camera is closed,
# and opened again before the next start. Gradio's button is hidden, so that this script alone presses it; its menu of
# cameras is not. A camera that cannot be had, or is gone, gets a sentence.
SWITCH = (
    '<button type="button" class="rmn-button rmn-primary">Start camera</button><p class="rmn-problem" role="alert"></p>'
)
SWITCH_JS = """
const constraints = CONSTRAINTS;
const stage = document.querySelector('#live-stage');
const button = element.querySelector('button');
const inner = () => stage.querySelector('#live-camera button.capture-button');
const access = () => stage.querySelector('#live-camera [title="grant webcam access"] button');
const video = () => stage.querySelector('#live-camera video');
const isSeen = () => stage.offsetWidth > 0;
const problem = sentence => { element.querySelector('.rmn-problem').textContent = sentence; };
// The camera that runs, or ran last.
let device = null, seen = null;
let had = false, recording = false;
const look = () => {
  const waiting = recording && inner()?.querySelector('[title="spinner"]');
  const words = waiting ? 'Waiting for a turn' : recording ? 'Stop camera' : 'Start camera';
  if (button.textContent !== words) button.textContent = words;
};
const record = () => {
  recording = !recording;
  inner().click();
  look();
};
const show = async stream => {
  for (const track of video().srcObject?.getTracks() ?? []) track.stop();
  video().srcObject = stream;
  if (stream) await video().play();
};
const stop = () => {
  if (recording) record();
  show(null);
};
// The last one, or any other where that is gone.
const open = async () => {
  const last = device && {...constraints, video: {...constraints.video, deviceId: {exact: device}}};
  const isGone = error => { if (error.name !== 'OverconstrainedError') throw error; };
  const opened = last && await navigator.mediaDevices.getUserMedia(last).catch(isGone);
  return opened || navigator.mediaDevices.getUserMedia(constraints);
};
const start = async () => {
  button.disabled = true;
  try {
    // One that was chosen in the menu runs already.
    if (!video().srcObject?.active) await show(await open());
    if (isSeen()) record();
    else stop();
  } finally {
    button.disabled = false;
  }
};
button.addEventListener('click', () => {
  problem('');
  if (recording) stop();
  else if (inner()) start();
  else access()?.click();
});
new MutationObserver(() => {
  // Whoever has just allowed the camera wants to start it, unless they have gone to another tab.
  if (inner() && !had) {
    had = true;
    if (isSeen()) record();
  }
  look();
}).observe(stage, {childList: true, subtree: true});
stage.addEventListener('playing', ({target}) => {
  const stream = target.srcObject;
  if (!stream || stream === seen) return;
  seen = stream;
  device = stream.getTracks()[0].getSettings().deviceId;
  // Unplugged, or taken away: the player would send its last frame, or black ones, for ever.
  stream.getTracks()[0].addEventListener('ended', () => {
    if (video().srcObject !== stream) return;
    stop();
    problem('The camera is gone. Connect it and start again.');
  });
  if (!isSeen()) target.play().then(stop);
}, true);
// One that does not play yet is stopped once it does: to interrupt it would be an error of the page.
new ResizeObserver(() => isSeen() || (seen && video()?.srcObject === seen && stop())).observe(stage);
const sentences = {
  NotAllowedError: 'The browser does not allow the camera for this page. Allow it beside the address, then try again.',
  NotFoundError: 'This computer has no camera that the browser can see. The photo tab works without one.',
  NotReadableError: 'Another program is using the camera. Close it there, then try again.',
  OverconstrainedError: 'This camera has no image of a useful size.',
};
window.addEventListener('unhandledrejection', event => {
  const sentence = sentences[event.reason?.name];
  if (!sentence) return;
  problem(sentence);
  event.preventDefault();
});
if (!navigator.mediaDevices) problem('The browser offers its camera to pages at localhost or over https only.');
look();
""".replace("CONSTRAINTS", json.dumps(CONSTRAINTS))

# Without a new result for a while the boxes go (better none than an old one) and the chart turns grey.
LAYER_JS = """
let timer;
const panel = () => document.querySelector('#live-panel');
watch('value', () => {
  element.classList.remove('rmn-stale');
  panel()?.classList.remove('rmn-stale');
  clearTimeout(timer);
  timer = setTimeout(() => {
    element.classList.add('rmn-stale');
    panel()?.classList.add('rmn-stale');
  }, 1500);
});
"""
