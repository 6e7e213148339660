"""What importing costs, and which way imports run (the rest is import-linter's)."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import flows
import pipeline_lib


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statement`."""
    script = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_no_module_of_the_library_imports_prefect() -> None:
    """Except the ranks' own modules, all at once; heavy imports stay inside functions."""
    names = [
        module.name
        for module in pkgutil.walk_packages(pipeline_lib.__path__, "pipeline_lib.")
        if module.name not in {"pipeline_lib.training.trainer", "pipeline_lib.training.guard"}
    ]
    assert len(names) > 30
    loaded = loaded_after("\n".join(f"import {name}" for name in names))
    assert not loaded & {"prefect", "tasks", "flows", "deployments"}


def test_importing_the_flows_does_not_import_torch() -> None:
    names = [module.name for module in pkgutil.iter_modules(flows.__path__)]
    loaded = loaded_after("\n".join(f"import flows.{name}" for name in names))
    assert not loaded & {"torch", "transformers", "deepspeed", "sentence_transformers", "datasets"}


MODELS = "torch transformers sentence_transformers qdrant_client"
PARSERS = "trafilatura pypdfium2 docx pptx openpyxl markdown_it lxml py3langid"
METRICS = "evaluate datasets sacrebleu rouge_score"
UNWANTED = {
    "corpus.filters": "py3langid",
    "corpus.stage": f"{MODELS} {PARSERS} prefect tokenizers boto3 rensa",
    "retrieval.stage": f"{MODELS} prefect",
    "retrieval.search": f"{MODELS} prefect",
    "raft.stage": f"{MODELS} peft prefect",
    "training.stage": MODELS,
    "evaluation.stage": f"{MODELS} {METRICS} jinja2 prefect",
    "evaluation.promotion": f"{MODELS} {METRICS} jinja2 prefect",
    "answering": f"{MODELS} {METRICS} jinja2 prefect",
}


@pytest.mark.parametrize("module", UNWANTED)
def test_what_is_heavy_is_loaded_where_it_is_used(module: str) -> None:
    loaded = loaded_after(f"import pipeline_lib.{module}")
    assert not loaded & set(UNWANTED[module].split())


def test_starting_the_command_imports_neither_torch_nor_prefect() -> None:
    loaded = loaded_after("import deployments.cli.main")
    assert not loaded & {"torch", "transformers", "prefect", "boto3", "pydantic", "numpy"}


def test_importing_the_library_keeps_openmp_from_spinning() -> None:
    """Unless the user has decided otherwise; and torch must not be loaded before."""
    script = "import pipeline_lib, os; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": given} if given else {}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected
