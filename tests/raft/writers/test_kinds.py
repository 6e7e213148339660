"""Mixes of kinds and styles, and what a writer must be able to write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.writers import make_writer, writer_prompt_version
from pipeline_lib.raft.writers.chat import ChatWriter
from pipeline_lib.raft.writers.extractive import ExtractiveWriter
from pipeline_lib.raft.writers.kinds import kind_shares, ranked_by_share, style_shares

PROMPTS = PromptLibrary.load()


def config(writer: str = "chat", **questions: object) -> SynthesizeConfig:
    return SynthesizeConfig.model_validate({"teacher": {"writer": writer}, "questions": questions})


def test_the_teacher_decides_how_it_is_asked(metered) -> None:
    for name, expected in (("auto", ExtractiveWriter), ("chat", ChatWriter)):
        writer = make_writer(config(name), metered(), {}, PROMPTS)
        assert isinstance(writer, expected)
        assert writer.prompt_version == writer_prompt_version(config(name), PROMPTS)


def test_only_a_chat_writers_version_depends_on_the_templates(tmp_path: Path) -> None:
    (tmp_path / "style-rude.jinja").write_text("{% block user %}Be rude.{% endblock %}")
    rude = PromptLibrary.load(tmp_path)
    assert writer_prompt_version(config(), rude) != writer_prompt_version(config(), PROMPTS)
    extractive = config("extractive")
    assert writer_prompt_version(extractive, rude) == writer_prompt_version(extractive, PROMPTS)


def test_the_default_mix_suits_the_writer() -> None:
    assert kind_shares(config("extractive")) == {"factual": 1.0}
    assert kind_shares(config()) == pytest.approx(
        {"comparison": 0.1, "factual": 0.45, "how_why": 0.25, "multi_hop": 0.1, "unanswerable": 0.1}
    )
    assert style_shares(config()) == {"plain": 1.0}


def test_a_configured_mix_replaces_the_default() -> None:
    mixed = config(kinds={"how_why": 3, "factual": 1, "comparison": 0}, styles={"keyword": 2})
    assert kind_shares(mixed) == {"factual": 0.25, "how_why": 0.75}
    assert style_shares(mixed) == {"keyword": 1.0}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (config(kinds={"riddle": 1}), "kind 'riddle'; there are: comparison, factual, how_why"),
        (config(kinds={"user": 1}), "kind 'user'"),
        (config(styles={"rude": 1}), "style 'rude'; there are: conversational, formal, keyword"),
        (config("extractive", kinds={"how_why": 1}), "kind 'how_why'; there are: factual\n"),
        (config("extractive", styles={"formal": 1}), "style 'formal'; there are: plain\n"),
    ],
)
def test_what_the_writer_lacks_is_said_at_the_start(
    metered, wanted: SynthesizeConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_writer(wanted, metered(), {}, PROMPTS)
    with pytest.raises(ConfigError, match=message):
        writer_prompt_version(wanted, PROMPTS)


def test_a_share_of_zero_asks_for_nothing(metered) -> None:
    wanted = config(kinds={"factual": 1, "riddle": 0})
    assert isinstance(make_writer(wanted, metered(), {}, PROMPTS), ChatWriter)


def test_a_template_of_the_users_own_adds_a_kind(tmp_path: Path, metered) -> None:
    (tmp_path / "ask-riddle.jinja").write_text("{% block user %}{{ documents }}{% endblock %}")
    prompts = PromptLibrary.load(tmp_path)
    assert make_writer(config(kinds={"riddle": 1}), metered(), {}, prompts)


def test_names_come_first_as_often_as_their_share_says() -> None:
    """5,000 draws: three standard deviations of a share of 0.2 are 0.017."""
    shares = {"a": 0.2, "b": 0.3, "c": 0.5}
    first = Counter(ranked_by_share(shares, 7, number)[0] for number in range(5000))
    for name, share in shares.items():
        assert first[name] / 5000 == pytest.approx(share, abs=0.022)


def test_every_name_is_ranked_once_and_always_the_same() -> None:
    shares = {"a": 0.2, "b": 0.3, "c": 0.5}
    assert sorted(ranked_by_share(shares, 1)) == ["a", "b", "c"]
    assert ranked_by_share(dict(reversed(shares.items())), 1) == ranked_by_share(shares, 1)


def test_a_further_name_moves_none_of_the_others() -> None:
    for number in range(50):
        before = ranked_by_share({"a": 1, "b": 2}, number)
        after = ranked_by_share({"a": 1, "b": 2, "c": 1}, number)
        assert [name for name in after if name != "c"] == before
