"""Training rows that show what the model will be measured on.

What is protected: the test split of the dataset itself, and files that the user names, such as
benchmarks. A training row must not

- ask nearly a protected question: the same content words up to a threshold (Jaccard), or most of
  its word 8-grams (a share of 0.7, after Chowdhery et al. 2022, PaLM, appendix C);
- rest on a passage that shares a word 13-gram with a protected text (Brown et al. 2020, GPT-3,
  appendix C). As there, a 13-gram that many protected texts have is boilerplate, and ignored.

Case, punctuation and white space do not count. Only hashes of the n-grams are kept: some 90 bytes
for each word that is protected; a check of a question and a passage takes half a millisecond.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.corpus.deduplication import split_words
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.dataset.protected_files import read_protected
from pipeline_lib.raft.gates.duplicates import AskedBefore

STEP = "decontamination"
"""The step of the funnel."""
PASSAGE_WORDS = 13
QUESTION_WORDS = 8
MIN_QUESTION_SHARE = 0.7
"""Of a question's 8-grams, those that protected questions must have for it to be one of them."""
COMMON_FROM = 11
"""A 13-gram in so many protected texts is boilerplate."""
_MAX_QUESTION_WORDS = 60
"""A protected text that is longer is no question, whatever its field is called."""


class Decontaminator:
    """What training must not see, and whether a row does.

    Its answers depend on what is protected, not on the order in which it was.

    Args:
        near_duplicate_threshold: Jaccard similarity of content words from which two questions are
            the same.
    """

    def __init__(self, near_duplicate_threshold: float = 0.8) -> None:
        self._asked = AskedBefore(near_duplicate_threshold)
        self._questions = _Grams(math.inf)
        self._passages = _Grams(COMMON_FROM)
        self._sources: list[str] = []
        self.sha256 = ""
        """Of the contents of the files, whatever they are called; empty without files."""

    @classmethod
    def load(
        cls, paths: Sequence[str | Path], near_duplicate_threshold: float = 0.8
    ) -> Decontaminator:
        """Protect the questions and passages of files: JSONL, JSON, CSV, TSV or text.

        Raises:
            InputError: a file cannot be read as what its name says.
        """
        made = cls(near_duplicate_threshold)
        files = [Path(path).expanduser() for path in paths]
        for path in files:
            for text in read_protected(path):
                made._protect(text.source, text.question, text.passage)
        if files:
            digests = sorted({sha256_file(path) for path in files})
            made.sha256 = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return made

    def protect(self, question: str, passages: Iterable[str], source: str = "test split") -> None:
        """Keep a question, and the texts that answer it, out of training.

        Args:
            question: of a test row.
            passages: what proves its answer.
            source: what a rejection says that a training row is too close to.
        """
        self._protect(source, question, "")
        for passage in passages:
            self._protect(source, "", passage)

    def check(self, question: str, passages: Sequence[str]) -> Rejection | None:
        """Why a training row with this question about these oracle passages must not be.

        Reasons: `question_of_evaluation`, `passage_of_evaluation`; the text says of what.
        """
        same = self._asked.find(question)
        if same is not None:
            return Rejection(STEP, "question_of_evaluation", same)
        return self._check_wording(question) or self.check_passages(passages)

    def check_passages(self, passages: Iterable[str]) -> Rejection | None:
        """The same for the passages alone: what cannot be trained on need not be asked about."""
        for passage in passages:
            for gram in self._passages.known(split_words(passage), PASSAGE_WORDS):
                source = self._passages.find(gram)
                if source is not None:
                    text = f"{self._sources[source]}: {gram}"
                    return Rejection(STEP, "passage_of_evaluation", text)
        return None

    def _check_wording(self, question: str) -> Rejection | None:
        words = split_words(question)
        grams = list(_grams(words, _question_size(words)))
        found = [source for gram in grams if (source := self._questions.find(gram)) is not None]
        if not grams or len(found) < MIN_QUESTION_SHARE * len(grams):
            return None
        return Rejection(STEP, "question_of_evaluation", self._sources[found[0]])

    def _protect(self, source: str, question: str, passage: str) -> None:
        if not self._sources or self._sources[-1] != source:
            self._sources.append(source)
        number = len(self._sources) - 1
        words = split_words(question)
        if 0 < len(words) <= _MAX_QUESTION_WORDS:
            self._asked.extend([question])
            self._questions.add(words, _question_size(words), number)
        self._passages.add(split_words(passage), PASSAGE_WORDS, number)


class Uncontaminated:
    """Training questions that are not about what is measured on.

    Args:
        decontaminator: what is protected; looked at anew with every call.
    """

    step = STEP

    def __init__(self, decontaminator: Decontaminator) -> None:
        self._decontaminator = decontaminator

    def check(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `Gate`."""
        return [self._check(candidate) for candidate in candidates]

    def _check(self, candidate: Candidate) -> Rejection | None:
        if candidate.topic.split != "train":
            return None
        passages = [chunk.text for chunk in candidate.topic.chunks]
        return self._decontaminator.check(candidate.question, passages)


class _Grams:
    """Hashes of n-grams: where each came first, and how often again.

    Args:
        common_from: an n-gram in so many different texts counts as in none.
    """

    def __init__(self, common_from: float) -> None:
        self._common_from = common_from
        self._texts: set[int] = set()
        self._words: set[str] = set()
        self._source: dict[int, int] = {}
        self._repeats: Counter[int] = Counter()
        """Only of those that came again, which are few."""

    def add(self, words: Sequence[str], size: int, source: int) -> None:
        """Remember the n-grams of a text.

        One that comes again, as a benchmark's passages do with each of their questions, says
        nothing new.
        """
        whole = _hash(" ".join(words))
        if whole in self._texts:
            return
        self._texts.add(whole)
        self._words.update(words)
        for key in {_hash(gram) for gram in _grams(words, size)}:
            if key in self._source:
                self._repeats[key] += 1
            else:
                self._source[key] = source

    def known(self, words: Sequence[str], size: int) -> Iterator[str]:
        """The n-grams of a text that may be found: those without a word that is in no text here.

        In a text about something else such a word is never far away, and spares the hashing.
        """
        run = 0
        for end, word in enumerate(words, start=1):
            run = run + 1 if word in self._words else 0
            if run >= size:
                yield " ".join(words[end - size : end])

    def find(self, gram: str) -> int | None:
        """The source that has it; `None` for none, and for what too many texts have."""
        key = _hash(gram)
        if self._repeats.get(key, 0) + 1 >= self._common_from:
            return None
        return self._source.get(key)


def _question_size(words: Sequence[str]) -> int:
    """8-grams; of a shorter question, the whole."""
    return min(QUESTION_WORDS, len(words))


def _grams(words: Sequence[str], size: int) -> Iterator[str]:
    if size:
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])


def _hash(gram: str) -> int:
    return int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")
