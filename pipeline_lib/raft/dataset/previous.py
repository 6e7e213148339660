"""What a dataset takes over from the one before it.

A row is a function of its passages, of the split of the document that it is about, and of the
recipe: prompts, teacher, seed, and the configuration that shapes rows. A row for which all of that
is as before is taken over as it is, byte for byte. Any other is retired; where its oracles still
stand (only a distractor changed, say) its question is worth asking again, which costs nothing as
every completion is kept.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest, canonical_json
from pipeline_lib.artifacts.store import LATEST, ArtifactStore
from pipeline_lib.config.synthesis import SynthesizeConfig
from pipeline_lib.corpus.schema import CHUNKS_FILE, DOCUMENTS_FILE, Corpus, read_rows
from pipeline_lib.errors import ArtifactError
from pipeline_lib.raft.dataset.splitting import SPLITS_FILE, read_splits
from pipeline_lib.raft.dataset.standing import Standing, is_edited
from pipeline_lib.raft.rows import SPLITS, RaftRow, Split, iter_rows, split_file

logger = logging.getLogger(__name__)

RECIPE_DETAIL = "recipe"
"""Field of `Manifest.details` with the recipe of the dataset's rows."""
PREVIOUS_INPUT = "previous"
"""Role of the dataset before among a dataset's inputs."""

_HOW_MANY = frozenset(
    "num_questions max_candidates_per_question min_rows budget incremental split tasks "
    "preferences".split()
)
"""Configuration that says how many rows there are, where they go, and what is made of them
afterwards; nothing of it changes a row."""
_PLACING = ("validation_fraction", "test_fraction", "near_duplicate_threshold")
"""Configuration of the split that decides where a document goes."""
_ASK_AGAIN = frozenset({"split_changed", "distractor_changed", "reviewed"})
"""Reasons to retire a row that say nothing against its question."""
_RECIPE_LENGTH = 32


def make_recipe(config: SynthesizeConfig, *, prompt_version: str, teacher_model: str) -> str:
    """Hash of all that rows are made by, beside the corpus; goes into `RECIPE_DETAIL`.

    Args:
        config: of the synthesis, seed included; of the user's questions, whether there are any.
        prompt_version: of the writer's prompts and of the format.
        teacher_model: identity of the teacher.
    """
    shaping = {name: v for name, v in config.output_config().items() if name not in _HOW_MANY}
    parts = [shaping, config.qa_path is not None, prompt_version, teacher_model]
    return hashlib.sha256(canonical_json(parts)).hexdigest()[:_RECIPE_LENGTH]


def find_base(
    artifacts: ArtifactStore, name: str, made_on: Callable[[ArtifactRef | None], ArtifactRef]
) -> ArtifactRef | None:
    """The dataset that a run is to build on: the latest, unless the run only repeats that one.

    Args:
        artifacts: where to look.
        name: of the pipeline.
        made_on: what the run's dataset would be called if it was built on the given one.

    Returns:
        `None` for the first dataset. What the latest one was itself built on, if the run built on
        that would be the latest again: so a repeated run finds its artifact instead of making
        another one on top of it.
    """
    latest = artifacts.alias("dataset", name, LATEST)
    manifest = artifacts.find(latest) if latest else None
    if manifest is None:
        return None
    base = manifest.input_refs.get(PREVIOUS_INPUT)
    return base if made_on(base) == manifest.ref else manifest.ref


@dataclass(frozen=True)
class CarriedRows:
    """The rows that are taken over, and why the others are not."""

    kept: Mapping[Split, frozenset[str]]
    """Ids of the rows taken over; only of the task `answer`, others are derived from them anew."""
    retired: Counter[str]
    """Rows that are not, by reason: `recipe_changed`, `document_deleted`, `split_changed`,
    `oracle_changed`, `distractor_changed`, `reviewed`."""
    remake: frozenset[str]
    """Ids of retired rows whose questions are as good as before: what they are about (see
    `asked_about`) should be asked about again, though it was before."""
    changed_documents: frozenset[str]
    """Documents with another text or title than before, and those that are new or gone."""
    _directory: Path

    @property
    def num_rows(self) -> int:
        """How many are taken over."""
        return sum(map(len, self.kept.values()))

    def rows(self, split: Split) -> Iterator[RaftRow]:
        """The rows taken over, in their order, a batch in memory at a time."""
        wanted = self.kept[split]
        path = self._directory / split_file(split)
        return (row for row in iter_rows(path) if row.row_id in wanted)


class PreviousDataset:
    """A dataset, and the corpus that it was made from."""

    def __init__(self, manifest: Manifest, directory: Path, corpus_directory: Path) -> None:
        self.ref = manifest.ref
        self.recipe: str = manifest.details.get(RECIPE_DETAIL, "")
        self.directory = directory
        self._config = manifest.config
        self._corpus_directory = corpus_directory

    @classmethod
    def open(cls, artifacts: ArtifactStore, ref: ArtifactRef) -> Self:
        """Fetch it.

        Raises:
            ArtifactError: it or its corpus cannot be read, or it is older than this format.
        """
        manifest = artifacts.manifest(ref)
        if SPLITS_FILE not in {file.path for file in manifest.files}:
            raise ArtifactError(f"{ref} was made before datasets said how they were split")
        corpus = artifacts.directory(manifest.input_refs["corpus"])
        return cls(manifest, artifacts.directory(ref), corpus)

    @classmethod
    def find(cls, artifacts: ArtifactStore, ref: ArtifactRef | None) -> Self | None:
        """The same; `None` if there is none or it cannot be read, which costs time, not the run."""
        if ref is None:
            return None
        try:
            return cls.open(artifacts, ref)
        except ArtifactError as error:
            logger.warning("The dataset before cannot be built on, all is made anew: %s", error)
            return None

    def draws_contexts_as(self, config: SynthesizeConfig) -> bool:
        """Whether another configuration gives rows the same kind of contexts."""
        now = {
            "contexts": config.contexts.output_config(),
            "retrieval": config.retrieval.output_config(),
        }
        return _agree(now, self._config)

    def known_splits(self, config: SynthesizeConfig) -> dict[str, Split]:
        """What `split_documents` should know.

        All splits, if seed and shares are as they were. Else those of the test documents, if their
        questions are to be kept; else none.
        """
        splits = read_splits(self.directory)
        split = config.split.output_config()
        placing = {name: split[name] for name in _PLACING}
        if _agree({"split": placing, "seed": config.seed}, self._config):
            return splits
        if not config.split.keep_evaluation_set:
            return {}
        return {document: split for document, split in splits.items() if split == "test"}

    def rows(self, split: Split) -> Iterator[RaftRow]:
        """Its rows of the task `answer`."""
        path = self.directory / split_file(split)
        return (row for row in iter_rows(path) if row.task == "answer")

    def chunk_rows(self) -> Iterator[dict[str, Any]]:
        """The passages of its corpus, one in memory at a time beside its batch."""
        return read_rows(self._corpus_directory / CHUNKS_FILE)

    def documents(self) -> dict[str, tuple[str, str]]:
        """Title and SHA-256 of the text of each document of its corpus."""
        columns = ["document_id", "title", "content_sha256"]
        rows = read_rows(self._corpus_directory / DOCUMENTS_FILE, columns)
        return {row["document_id"]: (row["title"], row["content_sha256"]) for row in rows}

    def standing(self, corpus: Corpus, split_of: Mapping[str, Split]) -> Standing:
        """What of its corpus is unchanged in a new one."""
        return Standing(
            self.documents(),
            read_splits(self.directory),
            self.chunk_rows(),
            corpus=corpus,
            split_of=split_of,
        )

    def carry_over(
        self,
        corpus: Corpus,
        split_of: Mapping[str, Split],
        recipe: str,
        *,
        splits: tuple[Split, ...] = SPLITS,
    ) -> CarriedRows:
        """Decide which rows stay.

        A row stays if the recipe is the same, its document is in the same split, and each passage
        that it rests on (oracles, distractors, what a made-up passage was made from) is in the
        corpus with the same id, title and text. A row that a reviewer edited is made again, so
        that the edit as it now stands is applied to what the teacher wrote.

        Args:
            corpus: the new one.
            split_of: the new plan.
            recipe: of the new dataset.
            splits: whose rows to look at; another one's are neither kept nor retired.
        """
        standing = self.standing(corpus, split_of)
        kept: dict[Split, frozenset[str]] = dict.fromkeys(SPLITS, frozenset())
        retired: Counter[str] = Counter()
        remake: set[str] = set()
        for split in splits:
            staying = set()
            for row in self.rows(split):
                reason = "recipe_changed" if recipe != self.recipe else standing.problem(row)
                if reason is None and is_edited(row):
                    reason = "reviewed"
                if reason is None:
                    staying.add(row.row_id)
                    continue
                retired[reason] += 1
                if reason in _ASK_AGAIN:
                    remake.add(row.row_id)
            kept[split] = frozenset(staying)
        return CarriedRows(
            kept, retired, frozenset(remake), standing.changed_documents, self.directory
        )


def _agree(now: Any, before: Any) -> bool:
    """Whether a manifest's configuration has the same values in all fields of `now`."""
    if isinstance(now, dict) and isinstance(before, dict):
        return all(name in before and _agree(value, before[name]) for name, value in now.items())
    return bool(now == before)
