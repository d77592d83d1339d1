"""The tables of `benchmark`: what a checkpoint, the steps of a photo and a start cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .shared import counted

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluation.benchmark import Benchmark
    from ..evaluation.stages import Stages
    from ..evaluation.start import Start


def benchmark_table(numbers: "Benchmark") -> "Table":
    """Return the numbers as a table for a terminal."""
    from rich.table import Table

    where = f"{numbers.device}, {counted(numbers.threads, 'thread')}" if numbers.device == "cpu" else numbers.device
    millions = (
        f"{numbers.parameters / 1e6:,.1f} M parameters, {numbers.multiply_adds / 1e6:,.0f} M multiply-adds an image"
    )
    images = f"Images of {numbers.image_size} x {numbers.image_size} pixels on {where}: time of a batch, peak memory"
    rows = Table(title=f"{millions}\n{images}", title_justify="left", min_width=72)
    batch_sizes = sorted({timing.batch_size for timing in numbers.timings})
    rows.add_column("")
    for batch_size in batch_sizes:
        rows.add_column(f"batch {batch_size}", justify="right")
    for form in dict.fromkeys(timing.form for timing in numbers.timings):
        cells = {timing.batch_size: timing for timing in numbers.timings if timing.form == form}
        rows.add_row(
            form,
            *(
                f"{cells[size].milliseconds:,.1f} ms {_megabytes(cells[size].peak_memory)}" if size in cells else "-"
                for size in batch_sizes
            ),
        )
    return rows


def _megabytes(memory: float | None) -> str:
    return "memory unknown" if memory is None else f"{memory:6,.0f} MB"


def stages_table(stages: "Stages") -> "Table":
    """Return the numbers as a table for a terminal."""
    from rich.table import Table

    title = f"{stages.width} x {stages.height} pixels, {counted(stages.faces, 'face')}, {stages.engine}"
    table = Table(title=title, title_justify="left", min_width=len(title))
    for heading in ("", "time"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, milliseconds in stages.milliseconds.items():
        table.add_row(name, f"{milliseconds:,.1f} ms")
    return table


def start_table(starts: Sequence["Start"]) -> "Table":
    """Return the numbers as a table for a terminal, with the ratio to the bare program."""
    from rich.table import Table

    from ..evaluation.start import BARE

    table = Table(title="One process, from its start to its end", title_justify="left")
    for heading in ("", "CPU", "to bare", "wall", "peak memory"):
        table.add_column(heading, justify="right" if heading else "left")
    bare = next(start.cpu_seconds for start in starts if start.name == BARE)
    for start in starts:
        table.add_row(
            start.name,
            f"{start.cpu_seconds:.2f} s",
            f"{start.cpu_seconds / bare:.1f}",
            f"{start.seconds:.2f} s",
            f"{start.peak_memory:,.0f} MB",
        )
    return table
