"""The writer that a configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.generation.base import MeteredGenerator
from pipeline_lib.raft.candidates import Writer
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.writers.chat import ChatWriter, chat_prompt_version
from pipeline_lib.raft.writers.extractive import EXTRACTIVE_VERSION, ExtractiveWriter
from pipeline_lib.raft.writers.kinds import check_mix


def make_writer(
    config: SynthesizeConfig,
    teacher: MeteredGenerator,
    titles: Mapping[str, str],
    prompts: PromptLibrary,
) -> Writer:
    """The writer for `config.teacher`.

    Args:
        config: who writes what.
        teacher: the model; asked nothing yet.
        titles: document id to title, of the whole corpus.
        prompts: the templates of a chat teacher.

    Raises:
        ConfigError: the writer cannot write a kind or style of question that is wanted.
    """
    check_mix(config, prompts)
    if config.teacher.resolved_writer == "extractive":
        return ExtractiveWriter(config, teacher, titles)
    return ChatWriter(config, teacher, titles, prompts)


def writer_prompt_version(config: SynthesizeConfig, prompts: PromptLibrary) -> str:
    """`Writer.prompt_version` of the writer for `config`, known without a teacher.

    Raises:
        ConfigError: as `make_writer`.
    """
    check_mix(config, prompts)
    if config.teacher.resolved_writer == "extractive":
        return EXTRACTIVE_VERSION
    return chat_prompt_version(prompts)
