"""The Trainer of reinforcement learning: TRL's, on questions of the dataset.

A row of the batch arithmetic is a question. Each is answered `num_generations` times, so a step
learns from that many times the global batch, in micro batches of as many answers as the
configuration gives rows. Answers of one step are written with the weights of that step: the policy
that learns is the one that wrote. So between steps, where checkpoints are, no answer is waiting to
be learned from, and a resumed run equals one that never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.training.loop import LoopMixin, loop_arguments
from pipeline_lib.training.meter import BatchWork, causal_pairs
from pipeline_lib.training.objectives.supervised_trainer import PlannedLoader
from pipeline_lib.training.plan import append_event
from pipeline_lib.training.rewards.scoring import REWARDS, rewards_of, weights_of

if TYPE_CHECKING:
    from datasets import Dataset

    from pipeline_lib.config import BatchArithmetic
    from pipeline_lib.training.plan import TrainingPlan

_ANSWERED_TOGETHER = 8
_LOGGED = (
    "/mean",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "entropy",
    "kl",
)
_CACHED_ROWS = 1024


class ReinforcementTrainer(LoopMixin, GRPOTrainer):  # type: ignore[misc]
    """Learns from which of several answers to a question is worth most."""

    # Of TRL's trainer:
    generation_config: Any
    generation_kwargs: dict[str, Any]

    def __init__(
        self, plan: TrainingPlan, model: Any, tokenizer: Any, train: Dataset, validation: Dataset
    ) -> None:
        self.plan = plan
        self._validation = validation
        self._weights = weights_of(plan.config.reinforcement.reward_weights)
        super().__init__(
            model=model,
            reward_funcs=[_as_trl_calls_it(name) for name in self._weights],
            args=reinforcement_arguments(plan, list(self._weights.values())),
            train_dataset=train,
            processing_class=tokenizer,
        )
        self.add_callback(RewardEvents(plan, list(self._weights)))

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """The export writes one."""

    def batch_facts(self) -> dict[str, Any]:
        """See `LoopMixin`; rows are questions, and how long answers will be nobody knows."""
        num_prompt_tokens = sum(self.train_dataset["num_prompt_tokens"])
        settings = self.plan.config.reinforcement
        most = len(self.train_dataset) * settings.num_generations * settings.max_new_tokens
        return {
            "num_rows": len(self.train_dataset),
            "num_tokens_per_epoch": num_prompt_tokens * settings.num_generations + most,
            "num_loss_tokens_per_epoch": most,
        }

    def get_train_dataloader(self) -> PlannedLoader:
        """This rank's part of each step's questions; see `QuestionBatches`."""
        return PlannedLoader(
            self.train_dataset,
            batch_sampler=QuestionBatches(
                len(self.train_dataset),
                self.plan.batch,
                self.plan.config.reinforcement.num_generations,
                seed=self.plan.config.seed,
                rank=self.args.process_index,
            ),
            collate_fn=self.data_collator,
        )

    def work_of(self, inputs: Any) -> BatchWork:  # noqa: ARG002
        """Nothing yet: how long answers are is known when they are written; see `compute_loss`."""
        return BatchWork()

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's; counts the answers and prompts that are learned from (writing them is not)."""
        num_scored = inputs["completion_mask"].sum(dim=1)
        lengths = (inputs["prompt_mask"].sum(dim=1) + num_scored).tolist()
        self.meter.add(
            BatchWork(
                num_rows=len(lengths),
                num_tokens=sum(lengths),
                num_scored=int(num_scored.sum()),
                num_pairs=sum(map(causal_pairs, lengths)),
            )
        )
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With a step's loss, what its answers were like; of all that TRL measures, what tells."""
        measured = self._metrics["train"]
        for name in [name for name in measured if not name.endswith(_LOGGED)]:
            del measured[name]
        super().log(logs, start_time)

    def validate(self) -> dict[str, float]:
        """Mean rewards of greedy answers to the validation questions.

        `reward` is the weighted sum, `reward_<name>` is one reward, and `loss`, what is missing to
        the best, is `1 - reward`.

        Questions are dealt to the ranks in turn. Each rank answers equally often; one that has run
        out repeats a question, and its answer does not count.
        """
        rank, world = self.args.process_index, self.args.world_size
        num_questions = len(self._validation)
        own = range(rank, -(-num_questions // world) * world, world)
        texts = self._greedy_answers([self._validation[i % num_questions] for i in own])
        names = [*self._weights, "total"]
        sums = torch.zeros(len(names), dtype=torch.float64, device=self.args.device)
        for index, text in zip(own, texts, strict=True):
            if index < num_questions:
                row = _row(self._validation[index]["row"])
                rewards = rewards_of(row, text, self._weights)
                sums += torch.tensor([rewards[name] for name in names]).to(sums)
        if world > 1:
            torch.distributed.all_reduce(sums)
        means = dict(zip(names, (sums / num_questions).tolist(), strict=True))
        total = means.pop("total")
        measured = {"loss": 1 - total, "reward": total}
        return measured | {f"reward_{name}": value for name, value in means.items()}

    def _greedy_answers(self, questions: Sequence[dict[str, Any]]) -> list[str]:
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        texts: list[str] = []
        with self._greedily():
            for start in range(0, len(questions), _ANSWERED_TOGETHER):
                some = questions[start : start + _ANSWERED_TOGETHER]
                prompts, _, _ = self._tokenize_prompts([asked["prompt"] for asked in some])
                answers, _ = self._generate_single_turn(prompts, None, {}, 1)
                texts += self.processing_class.batch_decode(answers, skip_special_tokens=True)
        model.train(was_training)
        return texts

    @contextmanager
    def _greedily(self) -> Iterator[None]:
        """Answers as evaluation asks for them: the likeliest token each time."""
        sampled, overrides = self.generation_config, self.generation_kwargs
        changes = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        self.generation_kwargs = overrides | changes
        self.generation_config = GenerationConfig(**self.generation_kwargs, disable_compile=True)
        try:
            yield
        finally:
            self.generation_config, self.generation_kwargs = sampled, overrides

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probabilities `[B, C]` of the last C tokens, and entropies.

        TRL's own has a kernel for it on a GPU; elsewhere it computes the language-model head over
        the prompts too, which takes most of the time.
        """
        if input_ids.is_cuda:
            found: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
            found = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                **kwargs,
            )
            return found
        log_probs, entropies = [], []
        size = batch_size or len(input_ids)
        for start in range(0, len(input_ids), size):
            ids, mask = input_ids[start : start + size], attention_mask[start : start + size]
            with self.accelerator.autocast():
                logits = model(
                    input_ids=ids,
                    attention_mask=mask,
                    logits_to_keep=logits_to_keep + 1,
                    use_cache=False,
                ).logits[:, :-1]
            all_log_probs = (logits.float() / self.temperature).log_softmax(dim=-1)
            targets = ids[:, -logits_to_keep:, None]
            log_probs.append(all_log_probs.gather(2, targets).squeeze(2))
            if compute_entropy:
                entropies.append(-(all_log_probs.exp() * all_log_probs).sum(dim=-1).detach())
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None


class QuestionBatches:
    """What one rank is asked, step after step: a batch sampler for torch's `DataLoader`.

    TRL reads for every micro batch of a step all of the rank's questions in it, each as often as it
    is answered, and has them answered at the first. Its own sampler draws each epoch's order after
    those before, so a resumed run would begin with the first one's; here seed and epoch say it. The
    questions that are left over at the end of an epoch are too few for a step, and left out of it.

    Args:
        num_questions: of the training set.
        arithmetic: how a step is cut, in rows.
        num_generations: answers to a question.
        seed: of the order.
        rank: whose questions these are.
    """

    def __init__(
        self,
        num_questions: int,
        arithmetic: BatchArithmetic,
        num_generations: int,
        *,
        seed: int,
        rank: int,
    ) -> None:
        self._num_questions, self._arithmetic = num_questions, arithmetic
        self._num_generations = num_generations
        self._seed, self._rank, self._epoch = seed, rank, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next; from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self._num_questions))
        random.Random(f"{self._seed}/{self._epoch}").shuffle(order)  # noqa: S311
        per_step = self._arithmetic.global_batch
        own = per_step // self._arithmetic.num_ranks
        for step in range(self._num_questions // per_step):
            start = step * per_step + self._rank * own
            questions = order[start : start + own]
            asked = [each for each in questions for _ in range(self._num_generations)]
            for _ in range(self._num_micro_batches):
                yield asked

    def __len__(self) -> int:
        return self._num_questions // self._arithmetic.global_batch * self._num_micro_batches

    @property
    def _num_micro_batches(self) -> int:
        return self._arithmetic.gradient_accumulation_steps * self._num_generations


def reinforcement_arguments(plan: TrainingPlan, reward_weights: list[float]) -> GRPOConfig:
    """The loop's arguments, with as many micro batches more as there are answers to a question."""
    settings = plan.config.reinforcement
    arguments = loop_arguments(plan)
    num_micro_batches = plan.batch.gradient_accumulation_steps * settings.num_generations
    arguments["gradient_accumulation_steps"] = num_micro_batches
    if arguments["deepspeed"] is not None:
        arguments["deepspeed"]["gradient_accumulation_steps"] = num_micro_batches
    return GRPOConfig(
        **arguments,
        # A step's answers are written in it, none for the next: see the module.
        steps_per_generation=num_micro_batches,
        num_iterations=1,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.beta,
        reward_weights=reward_weights,
        # Each reward is compared within its question first: one that varies little counts too.
        multi_objective_aggregation="normalize_then_sum",
    )


class RewardEvents(TrainerCallback):  # type: ignore[misc]
    """Tells the parent process what each step's answers were worth (rank 0): events `rewards`."""

    def __init__(self, plan: TrainingPlan, names: Sequence[str]) -> None:
        self._path = plan.events_path
        self._names = names

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Means over the step's answers; `same` is the share of answers that nothing is learned of.

        Nothing is learned where all answers to a question are worth the same.
        """
        logs = kwargs.get("logs") or {}
        if "reward" not in logs or not state.is_world_process_zero:
            return
        append_event(
            self._path,
            "rewards",
            step=state.global_step,
            total=logs["reward"],
            rewards={name: logs[f"rewards/{name}/mean"] for name in self._names},
            same=logs["frac_reward_zero_std"],
            answer_tokens=logs["completions/mean_length"],
            cut=logs["completions/clipped_ratio"],
        )


def _as_trl_calls_it(name: str) -> Callable[..., list[float]]:
    """A reward over a batch; TRL reads its name off the function."""

    def reward(
        completions: list[list[dict[str, str]]], row: list[str], **_kwargs: Any
    ) -> list[float]:
        return [
            REWARDS[name](_row(record), completion[0]["content"])
            for record, completion in zip(row, completions, strict=True)
        ]

    reward.__name__ = name
    return reward


@lru_cache(maxsize=_CACHED_ROWS)
def _row(record: str) -> RaftRow:
    return RaftRow.model_validate_json(record)
