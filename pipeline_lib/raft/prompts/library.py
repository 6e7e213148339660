"""Prompt templates: files with a block `system` and a block `user`, in sandboxed Jinja2.

Templates come with the package; a file of the same name in the user's folder replaces one, and
further files add kinds (`ask-<kind>.jinja`) and styles (`style-<style>.jinja`) of questions. All of
them are checked when the library is opened: that they compile, use no unknown variable, and show
what they must. The hash of their texts goes into a dataset's fingerprint.

Values are data. They arrive rendered and escaped by `pipeline_lib.raft.rendering`, are never
evaluated, and cannot reach Python through the sandbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.errors import ConfigError

BUNDLED_TEMPLATES = Path(__file__).parent / "templates"
_BLOCKS = ("system", "user")
_SUFFIX = ".jinja"
_MAX_TEMPLATE_BYTES = 64 * 1024
_VERSION_LENGTH = 16


@dataclass(frozen=True)
class TemplateSpec:
    """What a template is given."""

    variables: frozenset[str]
    """All that it may use."""
    required: frozenset[str]
    """What its blocks must show."""


def _spec(required: str, optional: str = "") -> TemplateSpec:
    shown = frozenset(required.split())
    return TemplateSpec(shown | frozenset(optional.split()), shown)


SPECS: Mapping[str, TemplateSpec] = {
    "ask-": _spec("documents", "num_questions style_instruction"),
    "style-": _spec(""),
    "answer": _spec("documents question"),
    "answer-known": _spec("documents question known_answer"),
    "agree": _spec("documents question"),
    "closed-book": _spec("question"),
    "judge": _spec("documents question answer"),
    "judge-distractor": _spec("documents question answer"),
    "contradict": _spec("documents question answer"),
}
"""Templates by name; a name that ends in `-` stands for all that start with it."""


class PromptLibrary:
    """The templates of one run. Open it by `PromptLibrary.load`."""

    def __init__(self, environment: ImmutableSandboxedEnvironment, texts: Mapping[str, str]):
        self._environment = environment
        self._texts = dict(sorted(texts.items()))
        self._templates: dict[str, Template] = {}

    @classmethod
    def load(cls, folder: Path | None = None) -> PromptLibrary:
        """Read and check all templates.

        Args:
            folder: the user's own; they win over the bundled ones.

        Raises:
            ConfigError: a template cannot be read, does not compile, has a name that nothing
                asks for, uses an unknown variable, or does not show what it must.
        """
        if folder is not None and not folder.is_dir():
            raise ConfigError(
                f"The prompts folder {folder} is not there",
                hint="prompts_path is read on the machine where the synthesis runs.",
            )
        folders = [folder, BUNDLED_TEMPLATES] if folder is not None else [BUNDLED_TEMPLATES]
        environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(folders),
            undefined=StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        texts: dict[str, str] = {}
        for place in reversed(folders):
            for path in sorted(place.glob(f"*{_SUFFIX}")):
                texts[path.name.removesuffix(_SUFFIX)] = _read(path)
        library = cls(environment, texts)
        for name in texts:
            library._check(name)
        return library

    @property
    def version(self) -> str:
        """Hash of all templates' texts."""
        return hashlib.sha256(canonical_json(self._texts)).hexdigest()[:_VERSION_LENGTH]

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix` in the templates that start with it: the kinds after `ask-`."""
        return [name.removeprefix(prefix) for name in self._texts if name.startswith(prefix)]

    def messages(self, name: str, **values: str | int) -> list[dict[str, str]]:
        """The chat messages of a template; blocks that render to nothing are left out.

        Args:
            name: of the template, without suffix.
            **values: rendered documents, escaped texts, numbers.

        Raises:
            ConfigError: there is no such template, or it cannot be rendered.
        """
        rendered = [(block, self._render(name, block, values)) for block in _BLOCKS]
        return [{"role": role, "content": text} for role, text in rendered if text]

    def text(self, name: str, **values: str | int) -> str:
        """The block `user` of a template alone, for parts of other prompts."""
        return self._render(name, "user", values)

    def _render(self, name: str, block: str, values: Mapping[str, Any]) -> str:
        template = self._template(name)
        if block not in template.blocks:
            return ""
        try:
            return "".join(template.blocks[block](template.new_context(dict(values)))).strip()
        except (TemplateError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"The prompt template {name}{_SUFFIX} cannot be rendered: {error}",
                hint=f"It may use {_listed(_spec_of(name).variables)}.",
            ) from error

    def _template(self, name: str) -> Template:
        if name not in self._templates:
            if name not in self._texts:
                raise ConfigError(
                    f"There is no prompt template {name}{_SUFFIX}",
                    hint=f"There are: {', '.join(self._texts)}. Yours go into prompts_path.",
                )
            try:
                self._templates[name] = self._environment.get_template(name + _SUFFIX)
            except TemplateError as error:
                raise ConfigError(
                    f"The prompt template {name}{_SUFFIX} does not compile: {error}",
                    hint="It is a Jinja2 template with a block 'system' and a block 'user'.",
                ) from error
        return self._templates[name]

    def _check(self, name: str) -> None:
        """Render with marks in place of values, and look for the marks."""
        if name.startswith("_"):  # macros for other templates
            return
        spec = _spec_of(name)
        template = self._template(name)
        if "user" not in template.blocks:
            raise ConfigError(
                f"The prompt template {name}{_SUFFIX} has no block 'user'",
                hint="Write {% block user %} … {% endblock %}.",
            )
        marks = {variable: f"[{variable}]" for variable in spec.variables}
        shown = "".join(message["content"] for message in self.messages(name, **marks))
        missing = [variable for variable in spec.required if marks[variable] not in shown]
        if missing:
            raise ConfigError(
                f"The prompt template {name}{_SUFFIX} does not show {_listed(missing)}",
                hint="Write {{ " + sorted(missing)[0] + " }} in its block 'user'.",
            )


def _spec_of(name: str) -> TemplateSpec:
    spec = SPECS.get(name)
    families = [each for each in SPECS if each.endswith("-") and name.startswith(each)]
    if spec is None and families and len(name) > len(families[0]):
        spec = SPECS[families[0]]
    if spec is None:
        raise ConfigError(
            f"No step of the synthesis uses a prompt template {name}{_SUFFIX}",
            hint=f"Names are: {', '.join(SPECS)} (with what you like after a dash).",
        )
    return spec


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise ConfigError(f"The prompt template {path} is larger than {_MAX_TEMPLATE_BYTES} B")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The prompt template {path} cannot be read: {error}") from error


def _listed(names: frozenset[str] | list[str]) -> str:
    return ", ".join(sorted(names)) or "no variable"
