"""The `raftline` command: help, errors, exit codes, and quick starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib.errors import ConfigError, StackError

COMMANDS = [
    ["up"], ["down"], ["status"], ["demo"], ["ask"], ["search"], ["show"],
    ["evaluate-retrieval"], ["models"], ["models", "fetch"], ["models", "list"],
]  # fmt: skip
RAFTLINE = [sys.executable, "-c", "from deployments.cli.main import main; main()"]

runner = CliRunner()


@pytest.fixture
def no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing was ever started."""
    for name in [name for name in os.environ if name.startswith(("RAFTLINE_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAFTLINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert f"Example: raftline {' '.join(command)}" in result.stdout


def test_the_command_alone_shows_what_there_is() -> None:
    result = runner.invoke(app, [])
    for command in COMMANDS:
        assert command[0] in result.output


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).stdout.startswith("raftline 0.")


def test_an_error_is_one_line_and_a_hint(monkeypatch: pytest.MonkeyPatch, no_stack: Path) -> None:
    def fail() -> None:
        raise StackError("prefect ended while starting", hint="Try again: raftline up")

    monkeypatch.setattr("deployments.cli.stack.start_stack", fail)
    result = runner.invoke(app, ["up"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == ("error: prefect ended while starting\nhint: Try again: raftline up\n")


@pytest.mark.parametrize("arguments", [["--debug", "up"], ["up", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, no_stack: Path, arguments: list[str]
) -> None:
    def fail() -> None:
        raise StackError("no luck") from OSError("the cause")

    monkeypatch.setattr("deployments.cli.stack.start_stack", fail)
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "OSError: the cause" in result.stderr
    assert result.stderr.rstrip().endswith("error: no luck")


def test_an_unexpected_error_names_its_type_and_advises_debug(
    monkeypatch: pytest.MonkeyPatch, no_stack: Path
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("division by [zero]")

    monkeypatch.setattr("deployments.cli.stack.start_stack", fail)
    result = runner.invoke(app, ["up"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert result.stderr.splitlines() == [
        "error: unexpected ZeroDivisionError: division by [zero]",
        "hint: Run it again with --debug to see where this comes from.",
    ]


def test_control_c_exits_130_in_one_word(monkeypatch: pytest.MonkeyPatch, no_stack: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deployments.cli.stack.start_stack", interrupt)
    result = runner.invoke(app, ["up"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_real_interrupt_exits_130(no_stack: Path) -> None:
    no_stack.mkdir()
    # Whatever runs the tests in the background may have made SIGINT ignored, which is inherited.
    command = ["env", "--default-signal=INT", *RAFTLINE, "up"]
    with (
        FileLock(no_stack / "stack.lock"),
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting,
    ):
        assert waiting.stderr is not None
        assert "Waiting for another" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert "Traceback" not in errors
    assert errors.endswith("interrupted\n")


def test_a_wrong_option_exits_2_and_points_to_help() -> None:
    result = runner.invoke(app, ["ask", "--modle", "x", "what?"])
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_without_a_stack_errors_say_how_to_start_one(no_stack: Path) -> None:
    done = subprocess.run([*RAFTLINE, "show"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint: ")
    assert "raftline up" in second


def test_status_without_a_stack_is_not_success(no_stack: Path) -> None:
    result = runner.invoke(app, ["status", "--json"])
    assert result.exit_code == 1
    states = {each["name"]: each["state"] for each in json.loads(result.stdout)}
    assert states == dict.fromkeys(["s3", "prefect", "worker-cpu", "worker-gpu"], "stopped")


def test_down_without_a_stack_is_harmless(no_stack: Path) -> None:
    result = runner.invoke(app, ["down"])
    assert (result.exit_code, result.stdout) == (0, "The stack was not up.\n")


def test_a_refused_question_names_the_field(settings) -> None:
    result = runner.invoke(app, ["ask", "a?"])
    assert result.exit_code == 1
    assert "question: String should have at least 3 characters (got 'a?')" in result.stderr


def test_a_wrong_configuration_file_names_the_field(tmp_path: Path) -> None:
    from deployments.cli.configuration import read_config_file, validated
    from pipeline_lib.config import PipelineConfig

    file = tmp_path / "run.yaml"
    file.write_text("synthesize: {num_question: 5}\nevaluate: {context_size: 0}\n")
    with pytest.raises(ConfigError) as caught:
        validated(PipelineConfig, read_config_file(file), str(file))
    assert "there is no field 'synthesize.num_question'" in caught.value.message
    assert "evaluate.context_size: Input should be greater than or equal to 1 (got 0)" in (
        caught.value.message
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.yaml", "a: [", "is not valid YAML"),
        ("run.json", "{'a': 1}", "is not valid JSON"),
        ("run.yaml", "- 1", "holds a list, not a mapping"),
    ],
)
def test_an_unreadable_configuration_file_says_why(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    from deployments.cli.configuration import read_config_file

    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_config_file(tmp_path / name)


def test_a_missing_configuration_file_says_so(tmp_path: Path) -> None:
    from deployments.cli.configuration import read_config_file

    with pytest.raises(ConfigError, match=r"run\.yaml cannot be read: No such file"):
        read_config_file(tmp_path / "run.yaml")


def test_models_lists_the_bundled_ones_with_their_licences(settings) -> None:
    result = runner.invoke(app, ["models", "list"])
    assert result.exit_code == 0
    for text in ("bundled:all-MiniLM-L6-v2", "bundled:SmolLM2-135M-Instruct", "Apache-2.0"):
        assert text in result.stdout


def test_fetching_an_unknown_model_says_which_there_are(settings) -> None:
    result = runner.invoke(app, ["models", "fetch", "GPT-7"])
    assert result.exit_code == 1
    assert "no bundled model 'GPT-7'" in result.stderr
    assert "bundled:all-MiniLM-L6-v2" in result.stderr
