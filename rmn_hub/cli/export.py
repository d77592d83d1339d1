"""`rmn-hub export`: a checkpoint as an ONNX file, for programs without torch, or as a page for browsers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .shared import PUBLISH, examples, fail, failing_on_bad_input, main, no_stdout, printable

if TYPE_CHECKING:
    import numpy as np

    from ..export.browser import PageReport
    from ..export.onnx import Form
    from ..hub.checkpoint import LoadedCheckpoint


@main.command(
    rich_help_panel=PUBLISH,
    epilog=examples(
        "rmn-hub export runs/mine/best",
        "rmn-hub export runs/mine/best --int8 --data fer2013.csv",
        "rmn-hub export runs/mine/best page/ --browser",
    ),
)
def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            callback=no_stdout,
            help="ONNX file, or its folder; the folder onnx/ of the checkpoint when not given. With --browser, the "
            "page's folder.",
        ),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Numbers of 16 bits: half the size, for GPUs.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Whole numbers of 8 bits, calibrated on half of --data: a quarter the size.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Labelled faces to compare with torch on; the Space's examples when not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "public_test",
    faces: Annotated[int, typer.Option(min=64, help="Most faces of --data.")] = 1000,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write the file even if it loses more than one point of accuracy.")
    ] = False,
    browser: Annotated[
        bool,
        typer.Option(
            "--browser", help="Write a static page instead, which recognizes expressions in the visitor's own browser."
        ),
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(help="With --browser: folder of onnxruntime-web's files; npm downloads them when not given."),
    ] = None,
) -> None:
    """Write a checkpoint as an ONNX file with logits and attention maps, and compare it with torch on real faces."""
    if browser and (fp16 or int8 or allow_loss):
        fail("--browser and --fp16, --int8, --allow-loss exclude each other: the page chooses by its size")
    if runtime is not None and not browser:
        fail("--runtime belongs to --browser")
    if browser and out is None:
        fail("OUT must be given with --browser: the folder of the page")
    if fp16 and int8:
        fail("--fp16 and --int8 exclude each other: run the command twice")
    if int8 and data is None:
        fail("--data must be given with --int8: its labelled faces calibrate the file and measure its loss")
    with failing_on_bad_input("export"):
        from ..export.onnx import FILES
        from ..export.onnx import export as run
        from ..hub import checkpoint as checkpoints

        loaded = checkpoints.load(checkpoint, rmn_only=True)
        form: Form = "fp16" if fp16 else "int8" if int8 else "fp32"
        if out is None:
            if not Path(checkpoint).is_dir():
                fail(f"OUT must be given for {checkpoint}: the cache of the Hub must not be changed")
            out = Path(checkpoint) / "onnx"
        pixel_values, labels = _example_faces(loaded) if data is None else _labelled_faces(loaded, data, split, faces)
        if browser:
            from .browser import build

            _print_page(out, build(loaded, out, runtime, pixel_values))
            return
        report = run(
            loaded.model,
            out if out.suffix == ".onnx" else out / FILES[form],
            pixel_values,
            weights_hash=checkpoints.weights_hash(loaded.folder),
            labels=labels,
            form=form,
            allow_loss=allow_loss,
        )
    typer.echo(printable(f"wrote {report.path}: {report.megabytes:.1f} MB"))
    typer.echo(
        f"probabilities differ from torch's by {report.difference:.1g} at most; "
        f"{report.agreement:.1%} of the faces have the same expression"
    )
    if report.accuracy is not None and report.torch_accuracy is not None:
        typer.echo(f"accuracy {report.accuracy:.1%}, in torch {report.torch_accuracy:.1%}")


def _print_page(out: Path, report: "PageReport") -> None:
    """Print where a page lies, how its weights are stored, and how much a browser loads before the first result."""
    from ..export.weights import BITS

    typer.echo(printable(f"wrote {out}: any server of files can hand it out"))
    typer.echo(f"a browser loads {report.megabytes:.1f} MB before the first result, once")
    typer.echo(
        f"weights are stored in {BITS[report.stored]}, which moves a probability by {report.difference:.1g} at most"
    )


def _labelled_faces(loaded: "LoadedCheckpoint", data: Path, split: str, most: int) -> tuple["np.ndarray", "np.ndarray"]:
    """Return pixel values and labels of a sample of a split, always the same one."""
    import numpy as np

    from ..data.sources import load_faces

    found = load_faces(data, split, loaded.model.config.image_size)
    chosen = np.random.default_rng(0).permutation(len(found.labels))[:most]
    crops = list(found.images[chosen])
    return np.asarray(loaded.processor(crops, return_tensors="np")["pixel_values"]), np.asarray(found.labels)[chosen]


def _example_faces(loaded: "LoadedCheckpoint") -> tuple["np.ndarray", None]:
    """Return pixel values of the faces in the Space's example images."""
    import numpy as np

    from ..detection.detector import crop_face
    from ..detection.mtcnn import MTCNNDetector
    from ..images import load_image
    from ..packages import page_part

    images = [load_image(path).image for path in sorted(page_part("examples").glob("*.jpg"))]
    detector = MTCNNDetector()
    crops = [
        crop_face(image, face.box, detector.margin)
        for image, faces in zip(images, detector.detect(images))
        for face in faces
    ]
    return np.asarray(loaded.processor(crops, return_tensors="np")["pixel_values"]), None
