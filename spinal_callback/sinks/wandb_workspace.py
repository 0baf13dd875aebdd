"""A ready W&B dashboard for the names that the callback logs: verdict numbers first, then layers, then the training."""

from __future__ import annotations

from typing import Any

from .base import installed
from .logged_values import STEP

NAME = "SPINAL"
HEADLINES = {
    "Late contraction (healthy: up)": "spinal/late_alpha",
    "Late transport, rad (healthy: down)": "spinal/late_transport",
    "Alerts so far": "spinal/alerts",
    "SPINAL score": "spinal/score",
    "Displacement, rad": "spinal/displacement",
    "Localization": "spinal/localization",
}
LAYERS = {
    "Contraction of every layer": "^spinal/alpha/layer_[0-9]+$",
    "Transport into every layer, rad": "^spinal/transport/layer_[0-9]+$",
}
PICTURES = {"Layers over steps": "spinal/heatmaps", "Depth trace, now and at the start": "spinal/depth_trace"}
TRAINING = {
    "Loss": "train/loss",
    "Reward margin": "train/rewards/margins",
    "Reward of the chosen": "train/rewards/chosen",
    "Gradient norm": "train/grad_norm",
    "Overhead: share of wall time": "spinal/overhead",
    "Steps until the next probe": "spinal/interval",
}


def workspace(entity: str, project: str) -> Any:
    """The dashboard as a `wandb_workspaces.workspaces.Workspace`; nothing is sent.

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

    def lines(names: dict[str, str]) -> list[Any]:
        return [wr.LinePlot(title=title, x=STEP, y=[name]) for title, name in names.items()]

    layers: list[Any] = [wr.LinePlot(title=title, x=STEP, metric_regex=names) for title, names in LAYERS.items()]
    layers += [wr.MediaBrowser(title=title, media_keys=[name], num_columns=1) for title, name in PICTURES.items()]
    table = wr.WeavePanelSummaryTable(table_name="spinal/layers")
    sections = [  # name, columns, rows, panels
        ("Is it healthy?", 3, 2, lines(HEADLINES)),
        ("Layers", 2, 2, layers),
        ("Training", 3, 2, lines(TRAINING)),
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


def spec(entity: str, project: str) -> dict[str, Any]:
    """What would be sent, as JSON values. Raises as `workspace` does."""
    view = workspace(entity, project)._to_model()
    return dict(view.model_dump(mode="json", by_alias=True, exclude_none=True))


def make(entity: str, project: str) -> str:
    """Makes the dashboard on W&B; its address.

    Raises:
        ValueError: as `workspace`, or W&B cannot be reached or refuses it; the message says what W&B said.
    """
    board = workspace(entity, project)
    try:
        return str(board.save().url)
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"W&B did not take the workspace for {entity}/{project}: {said} (try: wandb login)") from error
