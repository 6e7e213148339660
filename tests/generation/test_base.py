from __future__ import annotations

import pytest

from pipeline_lib.generation.base import Prompt


def test_a_prompt_is_a_chat_or_a_plain_text_never_both_or_neither() -> None:
    with pytest.raises(ValueError, match="either"):
        Prompt()
    with pytest.raises(ValueError, match="either"):
        Prompt(messages=(("user", "hi"),), text="hi")


def test_a_chat_gives_its_messages_back() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert Prompt.chat(messages).chat_messages() == messages
    assert Prompt.plain("hi").chat_messages() == []
