"""A model with an activated LoRA, for decoding on a cache.

Such an adapter is on from the last occurrence of its invocation tokens (the template's generation
prompt) to the end. PEFT looks for them in what a single call is given, so behind a prompt that is
in the cache already it would find none and switch the adapter off; here the cache remembers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import GenerationError

if TYPE_CHECKING:
    import torch

_MARK = "is_answering"


class ActivatedModel:
    """Looks like the causal language model inside, called with a cache.

    Args:
        model: of PEFT, with one activated LoRA.
    """

    shares_prefixes = False
    """Where the adapter begins is found in whole prompts."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._invocation: list[int] = model.active_peft_config.alora_invocation_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *, input_ids: torch.Tensor, past_key_values: Any, **kwargs: Any) -> Any:
        """A forward pass over prompts (empty cache) or over what follows them.

        Raises:
            GenerationError: some prompts of a batch have the invocation tokens and some do not.
        """
        if past_key_values.get_seq_length() == 0:
            offsets = [self._num_active(ids) for ids in input_ids.tolist()]
            if 0 in offsets and any(offsets):
                raise GenerationError(
                    "Chats and plain texts cannot be continued in one batch by a model with an "
                    "activated LoRA",
                    hint="Generate for them in two calls.",
                )
            setattr(past_key_values, _MARK, any(offsets))
        else:
            is_answering = getattr(past_key_values, _MARK)
            offsets = [input_ids.shape[1] if is_answering else 0] * input_ids.shape[0]
        return self._model(
            input_ids=input_ids, past_key_values=past_key_values, alora_offsets=offsets, **kwargs
        )

    def _num_active(self, ids: list[int]) -> int:
        """Tokens from the last occurrence of the invocation tokens on; 0 where there is none."""
        size = len(self._invocation)
        for start in range(len(ids) - size, -1, -1):
            if ids[start : start + size] == self._invocation:
                return len(ids) - start
        return 0
