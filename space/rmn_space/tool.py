"""The page as a tool for language models, over MCP: `rmn-hub demo --mcp`."""

import json

import gradio as gr

from .inputs import Photo, decoded
from .photo import allows
from .requests import visitor_stays
from .safety import TOO_FAST, RateLimit
from .service import Service
from .turns import PHOTO

DESCRIPTION = (
    "Find the faces of a photo and classify their expressions: {names} or {last}. "
    "Returns JSON with width, height and faces, in reading order, each with index (from 1), box [x0, y0, x1, y1] in "
    "pixels, expression, probability, probabilities and uncertain. An expression is what a face shows, not a feeling."
)


def build(service: Service, rate: RateLimit) -> None:
    """Add the tool `predict` to the page that is being built."""

    def predict(photo: str, request: gr.Request) -> str:
        """
        Return the result of a photo.

        Args:
            photo: the bytes of a JPEG, PNG, WebP, BMP, TIFF or GIF file of at most 10 MB in base64, or as a data: URL.
                Addresses and paths are not opened.
            request: who asks; gradio fills it in.
        """
        if not allows(rate, request):
            raise gr.Error(TOO_FAST, print_exception=False)
        try:
            data = decoded(photo if photo.startswith("data:") else f"data:;base64,{photo}")
            result, _ = service.recognize(Photo("photo", data), wanted=visitor_stays())
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return json.dumps(result.to_dict(), ensure_ascii=False)

    *names, last = service.recognizer.expressions
    with gr.Row(visible=False):
        photo = gr.Textbox(label="photo")
        result = gr.Textbox(label="result")
        gr.Button("tool").click(
            predict,
            photo,
            result,
            api_name="tool",
            api_description=DESCRIPTION.format(names=", ".join(names), last=last),
            concurrency_id=PHOTO,
            concurrency_limit=2,
        )
