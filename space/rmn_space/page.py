"""The whole page: tabs, look, limits; and how it starts and stops."""

import contextlib
import functools
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from rmn_hub import InputError

from . import about, live, photo, render, tool, video
from .folder import PrivateFolder
from .guard import Guard
from .safety import FILE_AGE, MAX_BYTES, SESSION_AGE, RateLimit
from .service import Service
from .sweeping import Sweeper, drop
from .turns import WAITING, share_turns

log = logging.getLogger(__name__)

# Seconds between two looks at what is to be forgotten.
SWEEP = 15
HERE = Path(__file__).resolve().parent
TITLE = "Residual Masking Network: expressions, and where the network looked"
TITLE_WITHOUT_MASKS = "Expressions of faces"

# System fonts: nothing is fetched. Greys and one blue, dark enough for WCAG AA on white and light enough on black.
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Consolas", "DejaVu Sans Mono", "monospace")

HEADER = """<header class="rmn-header"><h1>What does a face show, and where did the network look?</h1>
<p>The Residual Masking Network predicts the probability of {count} expressions, and its four masks show where they
strengthened features.</p></header>"""
HEADER_WITHOUT_MASKS = """<header class="rmn-header"><h1>What does a face show?</h1>
<p>The network predicts the probability of {count} expressions.</p></header>"""
# Arrow keys go from tab to tab, as WAI-ARIA has it.
HEADER_JS = """
const steps = {ArrowRight: 1, ArrowLeft: -1};
document.addEventListener('keydown', event => {
  const tab = event.target.closest?.('[role=tab]');
  if (!tab || !steps[event.key]) return;
  const tabs = [...tab.parentElement.querySelectorAll('[role=tab]')];
  const next = tabs.at((tabs.indexOf(tab) + steps[event.key]) % tabs.length);
  next.click();
  next.focus();
  event.preventDefault();
});
// A camera that is allowed when its player is gone already would stay on, and so would one that another replaces.
const devices = navigator.mediaDevices;
const ask = devices?.getUserMedia.bind(devices);
const streams = new Set();
if (devices) devices.getUserMedia = async constraints => {
  const given = await ask(constraints);
  streams.add(given);
  setTimeout(() => {
    const shown = [...document.querySelectorAll('video')].map(video => video.srcObject);
    for (const stream of streams) {
      if (shown.includes(stream)) continue;
      for (const track of stream.getTracks()) track.stop();
      streams.delete(stream);
    }
  });
  return given;
};
"""


def theme() -> gr.themes.Base:
    """One calm design in light and dark."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.sky,
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_md,
        font=FONTS,
        font_mono=MONOSPACE,
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0f141a",
        body_text_color="#1b2530",
        body_text_color_dark="#e6ebf0",
        body_text_color_subdued="#55606c",
        body_text_color_subdued_dark="#a7b3bf",
        block_background_fill="#ffffff",
        block_background_fill_dark="#18202a",
        block_border_color="#dfe4ea",
        block_border_color_dark="#2b3643",
        block_label_text_color="#3b4753",
        block_label_text_color_dark="#c3cdd7",
        block_label_background_fill="#ffffff",
        block_label_background_fill_dark="#18202a",
        block_info_text_color="#55606c",
        block_info_text_color_dark="#a7b3bf",
        block_title_text_color="#1b2530",
        block_title_text_color_dark="#e6ebf0",
        border_color_primary="#dfe4ea",
        border_color_primary_dark="#2b3643",
        input_background_fill="#ffffff",
        input_background_fill_dark="#101720",
        color_accent="#0b6aa2",
        slider_color="#0b6aa2",
        slider_color_dark="#56b4e9",
        link_text_color="#0b5f92",
        link_text_color_dark="#7cc4ee",
        button_primary_background_fill="#0b5f92",
        button_primary_background_fill_hover="#084c75",
        button_primary_background_fill_dark="#0b6aa2",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#eef1f5",
        button_secondary_background_fill_dark="#232e3a",
        button_secondary_text_color="#1b2530",
        button_secondary_text_color_dark="#e6ebf0",
        checkbox_background_color_selected="#0b6aa2",
        checkbox_background_color_selected_dark="#0b6aa2",
        shadow_drop="none",
        shadow_drop_lg="none",
    )


def build(service: Service, rate: RateLimit, mcp: bool = False) -> gr.Blocks:
    """
    Return the page.

    Args:
        service: recognizer and limits.
        rate: how many photos a visitor may send.
        mcp: whether language models are offered a tool, over MCP.
    """

    def forget(request: gr.Request) -> None:
        """Forget the session of a visitor who has closed the page."""
        if request.session_hash:
            drop(page.state_holder, request.session_hash)

    first_sight, example = photo.welcome(service)
    title, header = (TITLE, HEADER) if service.has_masks else (TITLE_WITHOUT_MASKS, HEADER_WITHOUT_MASKS)
    header = header.format(count=render.in_words(len(service.recognizer.expressions)))
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(60, FILE_AGE)) as page:
        # Columns are there before what is in them: with their heights reserved, nothing moves while Gradio mounts.
        with gr.Column(elem_id="head"):
            gr.HTML(header, js_on_load=HEADER_JS, apply_default_css=False)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Photo", id="photo"):
                photo.build(service, rate, first_sight)
            with gr.Tab("Live", id="live"):
                live.build(service)
            with gr.Tab("Video", id="video"):
                video.build(service, rate)
            with gr.Tab("About", id="about"):
                about.build(service, example, mcp)
        if mcp:
            tool.build(service, rate)
        page.unload(forget)
    return page


def serve(
    service: Service,
    folder: PrivateFolder,
    host: str,
    port: int | None,
    share: bool,
    open_browser: bool,
    mcp: bool = False,
) -> None:
    """
    Start the page, and return when the process receives a signal to stop (SIGTERM, SIGINT); then nothing of it is left.

    Args:
        service: recognizer and limits.
        folder: where uploads lie.
        host: address to listen on.
        port: port to listen on; gradio's next free one from 7860 when `None`.
        share: whether to ask gradio for a public address.
        open_browser: whether to open the page in the user's browser.
        mcp: whether to offer a tool to language models, over MCP.

    Raises:
        InputError: the port is taken.
    """
    rate = RateLimit()
    page = build(service, rate, mcp)
    stop = threading.Event()
    _stop_at_signals(stop)
    try:
        page.queue(default_concurrency_limit=2, max_size=WAITING, api_open=False)
        share_turns(page)
        try:
            _, local, public = page.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                share=share,
                inbrowser=open_browser,
                prevent_thread_lock=True,
                quiet=True,
                theme=theme(),
                css_paths=[HERE / "page.css"],
                head='<meta name="color-scheme" content="light dark">',
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                show_error=False,
                max_file_size=MAX_BYTES,
                state_session_capacity=200,
                ssr_mode=False,
                pwa=False,
                mcp_server=mcp,
                app_kwargs={
                    "middleware": [Middleware(Guard, rate=rate, hosts=names_of(host, share), tools=mcp)],
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                },
            )
        except OSError as error:
            raise InputError(f"the page cannot be opened at {host}: {' '.join(str(error).split())}") from error
        if page.mcp_error:
            raise InputError(f"the tool for language models cannot be offered: {page.mcp_error}")
        # Gradio makes this folder for a mode that is off here.
        with contextlib.suppress(OSError):
            (folder.uploads / "vibe_edit_history").rmdir()
        print(f"Open {public or local} in a browser. Ctrl-C ends the page, and nothing stays.", flush=True)
        sweeper = Sweeper(page, SESSION_AGE - 2 * SWEEP)
        while not stop.wait(SWEEP):
            _forget(functools.partial(folder.sweep, FILE_AGE + 30))
            _forget(sweeper.sweep)
    finally:
        # Cameras that were running leave tasks behind, which asyncio would complain about.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        page.close(verbose=False)
        service.close()
        folder.remove()


def _stop_at_signals(stop: threading.Event) -> None:
    """Set the event at a signal to stop, except at one that whoever started the page has it ignore, as nohup does."""
    # In another thread than the main one (of a notebook, for example) a caller has the signals.
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and (name == "SIGTERM" or signal.getsignal(number) != signal.SIG_IGN):
            signal.signal(number, lambda *_: stop.set())


def _forget(sweep: Callable[[], None]) -> None:
    """Call what forgets. When it fails, the page stays; the log gets no text of the error, which may hold a name."""
    try:
        sweep()
    except Exception as error:
        log.error("%s while forgetting: %s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


def names_of(host: str, share: bool) -> set[str] | None:
    """
    Return the names under which a page may be asked that this computer alone can reach, or `None` for any name: one
    that others reach has names that only they know.
    """
    local = {"127.0.0.1", "localhost", "::1"}
    return local | {host} if host in local and not share and "SPACE_ID" not in os.environ else None
