"""A ready W&B dashboard for the names that the callback logs: headlines first, then layers, then the training."""

from __future__ import annotations

from typing import Any

from ..report.labels import CURVES, NUMBERS, Number, of_part
from .base import installed
from .logged_values import ALERTS, LAYERS, STEP

NAME = "SPINAL"
EARLIER_LAYERS = "spinal/{field}/layer_"  # names of version 0.1's first runs: they are drawn as well
IMAGES = {"Layers over steps": "spinal/heatmaps", "Depth trace, now and at the start": "spinal/depth_trace"}
TRAINING = {
    "Loss": "train/loss",
    "Reward margin": "train/rewards/margins",
    "Reward of the chosen": "train/rewards/chosen",
    "Gradient norm": "train/grad_norm",
}


def workspace(entity: str, project: str) -> Any:
    """The dashboard as a `wandb_workspaces.workspaces.Workspace`. Nothing is sent.

    Raises:
        ValueError: an empty name, or wandb-workspaces is not installed.
    """
    for what, value in (("--entity", entity), ("--project", project)):
        if not value.strip() or "/" in value:
            raise ValueError(f"{what} must be a name on W&B without a slash, got {value!r}")
    if not installed("wandb_workspaces"):
        raise ValueError("needs wandb-workspaces, which is not installed: pip install wandb-workspaces")
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def line(title: str, *names: str) -> Any:
        return wr.LinePlot(title=title, x=STEP, y=list(names))

    def part(name: str) -> list[Any]:
        return [line(_title(number), *_with_error(column)) for column, number in of_part(name).items() if number.logged]

    layers: list[Any] = [
        wr.LinePlot(title=f"{curve.title}, every layer", x=STEP, metric_regex=layer_pattern(field))
        for field, curve in CURVES.items()
    ]
    layers += [wr.MediaBrowser(title=title, media_keys=[name], num_columns=1) for title, name in IMAGES.items()]
    training = [line(title, name) for title, name in TRAINING.items()]
    table = wr.WeavePanelSummaryTable(table_name="spinal/layers")
    sections = [  # name, columns, rows, panels
        ("Is it healthy?", 3, 3, [line("Alerts so far", ALERTS), *part("late"), *part("policy")]),
        ("Answers of preference pairs", 3, 1, part("answers")),
        ("Score and its terms", 2, 2, part("score")),
        ("Layers", 2, 2, layers),
        ("Training", 3, 2, training + part("cost")),
        ("Every reading and layer", 1, 1, [table]),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(name, panels, is_open=True, layout_settings=ws.SectionLayoutSettings(columns=columns, rows=rows))
            for name, columns, rows, panels in sections
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP),
    )


def layer_pattern(field: str) -> str:
    """A pattern of the names of a curve's layers, as they are logged now and as the first runs have them."""
    return f"^({LAYERS}{field}_|{EARLIER_LAYERS.format(field=field)})[0-9]+$"


def _title(number: Number) -> str:
    return f"{number.heading}, healthy: {number.healthy}" if number.healthy else number.heading


def _with_error(column: str) -> list[str]:
    return [f"spinal/{name}" for name in (column, f"{column}_se") if name in NUMBERS]


def spec(entity: str, project: str) -> dict[str, Any]:
    """What `make` sends to W&B, as JSON values. Raises as `workspace` does."""
    view = workspace(entity, project)._to_model()
    return dict(view.model_dump(mode="json", by_alias=True, exclude_none=True))


def make(entity: str, project: str) -> str:
    """Makes the dashboard on W&B and returns its address.

    Raises:
        ValueError: as `workspace`, or W&B cannot be reached or refuses it; the message has W&B's own words.
    """
    board = workspace(entity, project)
    try:
        return str(board.save().url)
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"W&B did not take the workspace for {entity}/{project}: {said} (try: wandb login)") from error
