from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.gates.language import WantedLanguage
from pipeline_lib.raft.gates.personal_data import NoPersonalData
from pipeline_lib.raft.gates.toxicity import NoToxicWords, ToxicWords

Make = Callable[..., Candidate]
GERMAN = "Wann schließt die Bibliothek am Samstag ihre Türen für die Besucher?"


def test_a_question_in_another_language_is_dropped_and_a_short_one_passes(
    make_candidate: Make,
) -> None:
    gate = WantedLanguage("question", ["en"])
    questions = ["When does the library close its doors on Saturdays?", GERMAN, "Wann?"]
    results = gate.check([make_candidate(question) for question in questions])
    assert [r and f"{r.step}.{r.reason}" for r in results] == [None, "language.language_de", None]


def test_the_language_of_an_answer_is_that_of_its_own_words_not_of_its_quotes(
    make_candidate: Make,
) -> None:
    gate = WantedLanguage("answer", ["en"])
    english = make_candidate(
        texts=[GERMAN], quotes=[GERMAN], reasoning="The document asks when the library closes."
    )
    german = make_candidate(reasoning="Der Text fragt, wann die Bibliothek am Samstag schließt")
    results = gate.check([english, german])
    assert [r and f"{r.step}.{r.reason}" for r in results] == [None, "answer.language_de"]


def test_personal_data_and_secrets_are_found_and_not_shown(make_candidate: Make) -> None:
    gate = NoPersonalData("question")
    clean, mail, key = gate.check(
        [
            make_candidate(),
            make_candidate("Who reads anna.smith@example.org at noon?"),
            make_candidate("What does AKIAIOSFODNN7EXAMPLE open?"),
        ]
    )
    assert clean is None
    assert mail is not None
    assert (mail.reason, mail.text) == ("has_email", "Who reads [EMAIL] at noon?")
    assert key is not None
    assert (key.reason, key.text) == ("has_aws_key", "What does [AWS_KEY] open?")


def test_personal_data_in_an_answers_quote_counts_too(make_candidate: Make) -> None:
    text = "Write to anna.smith@example.org for the key of the library."
    (rejection,) = NoPersonalData("answer").check([make_candidate(texts=[text], quotes=[text])])
    assert rejection is not None
    assert (rejection.step, rejection.reason) == ("answer", "has_email")
    assert "anna" not in rejection.text


def test_listed_words_are_found_as_whole_words_in_any_case() -> None:
    toxic = ToxicWords(["darn", "bad egg", "  "])
    assert toxic.find("Oh DARN, the library!") == "darn"
    assert toxic.find("He is a bad,  Egg.") == "bad egg"
    assert toxic.find("Darning socks; a bad eggplant") is None
    assert toxic.find("") is None


def test_the_bundled_list_leaves_scholarly_words_alone() -> None:
    toxic = ToxicWords.load()
    honest = (
        "Scunthorpe, the cock crows, the ass and the bitch are animals; sex, rape and suicide are "
        "matters of medicine and law; homosexual, retardation, nigrum, Dick van Dyke, analysis"
    )
    assert toxic.find(honest) is None
    assert toxic.find("What the fuck is a library?") == "fuck"


def test_the_users_words_come_on_top_and_change_the_hash(tmp_path: Path) -> None:
    bundled = ToxicWords.load()
    assert ToxicWords.load(tmp_path).sha256 == bundled.sha256
    (tmp_path / "toxic.txt").write_text("# ours\nGrumpf  # a sound\n", encoding="utf-8")
    both = ToxicWords.load(tmp_path)
    assert both.find("grumpf!") == "grumpf"
    assert both.find("ours") is None
    assert both.find("a sound") is None
    assert both.find("bullshit") == "bullshit"
    assert both.sha256 != bundled.sha256


def test_an_unreadable_list_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "toxic.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"toxic\.txt cannot be read"):
        ToxicWords.load(tmp_path)


def test_toxic_words_are_looked_for_in_questions_and_answers(make_candidate: Make) -> None:
    toxic = ToxicWords(["darn"])
    (question,) = NoToxicWords("question", toxic).check([make_candidate("Why the darn library?")])
    (answer,) = NoToxicWords("answer", toxic).check([make_candidate(answer="At darn noon")])
    assert question is not None
    assert (question.step, question.reason, question.text) == ("toxicity", "toxic_word", "darn")
    assert answer is not None
    assert answer.step == "answer"
