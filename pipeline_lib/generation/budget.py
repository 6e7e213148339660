"""How far a budget of tokens or money reaches, decided before anything is sent.

The rule: a prompt is sent if what was counted so far and an upper bound of its own cost fit into
the budget. So no cap is ever passed by a server that keeps to `max_new_tokens`, and where the
budget ends depends on nothing but the prompts and their completions: not on how many are sent at a
time, and not on what the server's cache happened to hold, because here prompt tokens count in full
even if they are cheaper when cached.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.config import BudgetConfig, PriceConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.generation.ledger import Usage

_TEMPLATE_TOKENS = 64
"""For a chat template's own words, such as a default system message."""
_MESSAGE_TOKENS = 16
"""For a message's role and the tokens around it."""


class Budget:
    """Counts completions against the limits.

    Args:
        config: the limits.
        prices: what tokens cost.

    Raises:
        ConfigError: money is limited but nothing has a price.
    """

    def __init__(self, config: BudgetConfig, prices: PriceConfig) -> None:
        if config.max_cost is not None and not (
            prices.input_per_million or prices.output_per_million
        ):
            raise ConfigError(
                f"budget.max_cost is {config.max_cost} {prices.currency}, but the teacher's tokens "
                "cost nothing",
                hint="Set teacher.prices.input_per_million and output_per_million, or limit "
                "budget.max_tokens instead.",
            )
        self._config = config
        self._prices = prices.model_copy(update={"cached_input_per_million": None})
        self._spent = Usage()

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return self._config.max_tokens is not None or self._config.max_cost is not None

    @property
    def spent_share(self) -> float:
        """How much of the tightest limit is spent, from 0 to 1; 0 without a limit."""
        return max(
            self._spent.num_tokens / (self._config.max_tokens or float("inf")),
            self._spent.cost(self._prices) / (self._config.max_cost or float("inf")),
        )

    def reach(self, prompts: Sequence[Prompt], params: GenerationParams) -> int:
        """How many of the prompts, from the first, may be sent together."""
        if not self.is_limited:
            return len(prompts)
        planned = Usage(
            prompt_tokens=self._spent.prompt_tokens,
            completion_tokens=self._spent.completion_tokens,
        )
        for number, prompt in enumerate(prompts):
            planned.prompt_tokens += prompt_token_bound(prompt, params)
            planned.completion_tokens += params.max_new_tokens
            if not self._allows(planned):
                return number
        return len(prompts)

    def spend(self, completion: Completion) -> None:
        """Count what a completion cost."""
        self._spent.add(completion)

    def _allows(self, usage: Usage) -> bool:
        config = self._config
        return (config.max_tokens is None or usage.num_tokens <= config.max_tokens) and (
            config.max_cost is None or usage.cost(self._prices) <= config.max_cost
        )


def prompt_token_bound(prompt: Prompt, params: GenerationParams) -> int:
    """At least as many tokens as the prompt takes in any tokenizer.

    No token of a byte-level vocabulary is shorter than a byte. A schema counts too: servers that
    take one put it before the prompt.
    """
    texts = [content for _role, content in prompt.messages or ()]
    texts += [prompt.text or "", prompt.forced_prefix, params.json_schema]
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return num_bytes + _MESSAGE_TOKENS * len(prompt.messages or ()) + _TEMPLATE_TOKENS
