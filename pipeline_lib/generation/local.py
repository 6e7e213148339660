"""A causal language model in this process.

Prompts are sorted by length and run in batches of fixed size (see `decoding` for how); results
come back in the caller's order. Batches depend only on the list of prompts, and each batch is
reported as soon as it is done, so a caller that stores batches and asks again for the rest gets
the same batches, and with them bit-equal outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline_lib.errors import GenerationError, ModelNotFoundError
from pipeline_lib.generation.activated import ActivatedModel
from pipeline_lib.generation.attention import use_fast_cpu_decoding
from pipeline_lib.generation.base import (
    Completion,
    GenerationParams,
    OnCompleted,
    Prompt,
    Score,
)
from pipeline_lib.generation.decoding import PrefixMemory, Row, decode, target_nlls
from pipeline_lib.generation.hardware import best_device, best_dtype

if TYPE_CHECKING:
    import torch

    from pipeline_lib.generation.decoding import ChooseTokens

_STOP_WINDOW_SLACK = 4
"""Tokens looked at beyond a stop string's length in characters: a token may be part of one."""


class LocalGenerator:
    """Greedy or sampled generation, and scoring, with a model from a local folder.

    Args:
        path: folder with `config.json`, safetensors weights and the tokenizer.
        adapter: folder of a PEFT adapter. It is merged into the weights (in float32) after loading,
            unless it is an activated LoRA, which stays beside them.
        batch_size: prompts decoded together.
        identity: content hash of the model; without it, computed from the files when asked for.
        precision: 'auto' is bfloat16 where the hardware computes in it, else float32.

    Raises:
        ModelNotFoundError: the folder holds no model that can be loaded safely.
    """

    def __init__(
        self,
        path: Path,
        adapter: Path | None = None,
        *,
        batch_size: int = 16,
        identity: str | None = None,
        precision: Literal["auto", "bf16", "fp32"] = "auto",
    ) -> None:
        self._path = path
        self._adapter = adapter
        self._batch_size = batch_size
        self._identity = identity
        self._model, self._tokenizer = _load(path, adapter, precision)
        self._memory = PrefixMemory()
        self._end_ids = _end_ids(self._model, self._tokenizer)

    @cached_property
    def model_identity(self) -> str:
        """The given identity, else the SHA-256 of the model's (and adapter's) files."""
        if self._identity is not None:
            return self._identity
        digest = hashlib.sha256()
        for folder in filter(None, (self._path, self._adapter)):
            for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
                digest.update(file.name.encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        *,
        on_completed: OnCompleted | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order.

        Raises:
            GenerationError: a prompt and its output do not fit the model's context.
        """
        import torch

        encoded = [self._encode(prompt) for prompt in prompts]
        for ids, _forced in encoded:
            self._check_fits(len(ids) + params.max_new_tokens)
        results: dict[int, Completion] = {}
        for indices in _batches([ids for ids, _ in encoded], self._batch_size):
            rows = [
                Row(index, *encoded[index], rng=self._rng(encoded[index][0], params))
                for index in indices
            ]
            with torch.inference_mode():
                decode(
                    self._model,
                    rows,
                    max_new_tokens=params.max_new_tokens,
                    memory=self._memory,
                    choose=_greedy if params.temperature == 0 else _sampler(params.temperature),
                    is_finished=lambda row: self._is_finished(row, params.stop),
                )
            done = [self._completion(row, prompts[row.index], params) for row in rows]
            results.update(zip(indices, done, strict=True))
            if on_completed is not None:
                on_completed(indices, done)
        return [results[index] for index in range(len(prompts))]

    def score(
        self, prompts: Sequence[Prompt], targets: Sequence[str], *, with_end: bool = True
    ) -> list[Score]:
        """The score of each target as the continuation of its prompt.

        The vocabulary head is computed on target positions only.

        Raises:
            GenerationError: a prompt and its target do not fit the model's context.
        """
        import torch

        pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for prompt, target in zip(prompts, targets, strict=True):
            ids, forced = self._encode(prompt)
            target_ids = self._text_ids(target)
            if with_end and self._tokenizer.eos_token_id is not None:
                target_ids += (self._tokenizer.eos_token_id,)
            if not target_ids:
                raise GenerationError("cannot score an empty target")
            self._check_fits(len(ids) + len(forced) + len(target_ids))
            pairs.append((ids + forced, target_ids))
        scores: dict[int, Score] = {}
        for indices in _batches([ids for ids, _ in pairs], self._batch_size):
            batch = [pairs[index] for index in indices]
            with torch.inference_mode():
                nlls = target_nlls(self._model, batch, memory=self._memory)
            for index, nll, (_, target_ids) in zip(indices, nlls, batch, strict=True):
                scores[index] = Score(nll, len(target_ids))
        return [scores[index] for index in range(len(pairs))]

    def _encode(self, prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of the prompt and of its forced prefix."""
        if prompt.text is not None:
            ids = self._tokenizer(prompt.text, split_special_tokens=True)["input_ids"]
        else:
            text = self._tokenizer.apply_chat_template(
                prompt.chat_messages(), tokenize=False, add_generation_prompt=True
            )
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise GenerationError("cannot continue an empty prompt")
        return tuple(ids), self._text_ids(prompt.forced_prefix)

    def _text_ids(self, text: str) -> tuple[int, ...]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return tuple(encoded["input_ids"])

    def _check_fits(self, num_tokens: int) -> None:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and num_tokens > limit:
            raise GenerationError(
                f"prompt and output take {num_tokens} tokens, {self._path.name} has room for "
                f"{limit}",
                hint="Use fewer or shorter passages, or a model with a longer context.",
            )

    def _rng(self, ids: tuple[int, ...], params: GenerationParams) -> torch.Generator | None:
        import torch

        if params.temperature == 0:
            return None
        digest = hashlib.sha256(repr((params.seed, ids)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))

    def _is_finished(self, row: Row, stops: tuple[str, ...]) -> bool:
        if len(row.generated) <= len(row.forced_ids):
            return False
        if row.generated[-1] in self._end_ids:
            return True
        if not stops:
            return False
        window = max(map(len, stops)) + _STOP_WINDOW_SLACK
        tail = row.generated[len(row.forced_ids) :][-window:]
        return _first_stop(self._decode(tail), stops) is not None

    def _completion(self, row: Row, prompt: Prompt, params: GenerationParams) -> Completion:
        ended = row.generated[-1] in self._end_ids and len(row.generated) > len(row.forced_ids)
        ids = row.generated[:-1] if ended else row.generated
        forced_text = self._decode(row.forced_ids)
        continuation = self._decode(ids)[len(forced_text) :]
        cut = _first_stop(continuation, params.stop)
        if cut is not None:
            continuation = continuation[:cut]
        return Completion(
            text=prompt.forced_prefix + continuation,
            num_prompt_tokens=len(row.prompt_ids),
            num_completion_tokens=len(row.generated),
            finish_reason="stop" if ended or cut is not None else "length",
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def _load(path: Path, adapter: Path | None, precision: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = best_device()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(precision) or best_dtype(device)
    is_merged = adapter is not None and not _is_activated(adapter)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.float32 if is_merged else dtype,
            local_files_only=True,
            use_safetensors=True,
        )
        if adapter is not None:
            model = _with_adapter(model, adapter)
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFoundError(
            f"no causal language model could be loaded from {path}"
            + (f" with the adapter {adapter}" if adapter else "")
            + f": {error}",
            hint="The folder needs config.json, safetensors weights and the tokenizer's files.",
        ) from error
    model = model.to(device=device, dtype=dtype).eval()
    use_fast_cpu_decoding(model)
    return model if adapter is None or is_merged else ActivatedModel(model), tokenizer


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    # PEFT would also load pickled weights.
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelNotFoundError(
            f"The adapter in {adapter} has no adapter_model.safetensors",
            hint="Pickled weights are not loaded.",
        )
    adapted = PeftModel.from_pretrained(model, adapter)
    return adapted if _is_activated(adapter) else adapted.merge_and_unload()


def _is_activated(adapter: Path) -> bool:
    """Whether it is an activated LoRA, which no merged weights can stand for."""
    path = adapter / "adapter_config.json"
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("alora_invocation_tokens"))


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an output: the tokenizer's, and those of the generation config."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)


def _batches(sequences: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices in batches, longest first, equal sequences side by side."""
    first_seen: dict[tuple[int, ...], int] = {}
    for index, sequence in enumerate(sequences):
        first_seen.setdefault(tuple(sequence), index)
    order = sorted(
        range(len(sequences)),
        key=lambda index: (-len(sequences[index]), first_seen[tuple(sequences[index])], index),
    )
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _greedy(_rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
    best: list[int] = logits.argmax(dim=-1).tolist()
    return best


def _sampler(temperature: float) -> ChooseTokens:
    """Sampling by the Gumbel-max trick with each row's own generator."""
    import torch

    def choose(rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
        uniform = torch.stack([torch.rand(logits.shape[1], generator=row.rng) for row in rows])
        gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(uniform.dtype).tiny)))
        drawn: list[int] = (logits.float().cpu() / temperature + gumbel).argmax(dim=-1).tolist()
        return drawn

    return choose


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest stop string begins."""
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(found, default=None)
