"""A sensitivity scan of LeNet-5: points of top-1 lost by the share of one weight that is kept."""

from __future__ import annotations

from common import realdata
from common.kept import ONNXOPT
from common.pages import markdown
from onnxopt.studies.sensitivity import Scan, scan
from tables import Table


def scanned(model: str) -> Scan:
    """The scan, on the first 2,000 test images."""
    data = realdata.TASKS[model].batches("test", 2000, labelled=True)
    return scan(realdata.path_of(model), data, metric="top1", samples=2000)


def render(found: Scan) -> str:
    """One row for each weight."""
    rows = [
        [weight.path, "x".join(map(str, weight.shape)), *(f"{point.drop:.2f}" for point in weight.points)]
        for weight in found.weights
    ]
    return markdown(["weight", "shape", *map(str, found.settings)], "ll" + "r" * len(found.settings), rows)


TABLES = (
    Table("sensitivity", "docs/classical.md", 2, lambda scope: ONNXOPT.once(scanned, "lenet5"), render, ("lenet5",)),
)
