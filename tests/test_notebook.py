"""examples/first-hour.ipynb runs from top to bottom, and is kept without what a run leaves in it."""

import json

import nbclient
import nbformat

from shipped import EXAMPLES

NOTEBOOK = EXAMPLES / "first-hour.ipynb"


def test_it_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 10
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)


def test_it_runs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = {
        cell["id"]: output["data"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    }
    assert "1651 of 1657 IPIs need no VM exit" in shown["x2apic"]["text/html"]
    assert "<table" in shown["rows"]["text/html"]
    assert "kvm holds" in shown["holds"]["text/html"]
    assert "asleep" in shown["diagnosis"]["text/plain"]
