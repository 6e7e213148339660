"""Each token of a packed sequence sees what came before it in its own row, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import BatchConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.training.packing import resolve_layout, supports_segments

TREE = ((4, 2, 3, 5), (-1, 0, 0, -1))
"""A context of 4 tokens, two continuations of it, and a row by itself."""
SEEN = """
x.............
xx............
xxx...........
xxxx..........
xxxxx.........
xxxxxx........
xxxx..x.......
xxxx..xx......
xxxx..xxx.....
.........x....
.........xx...
.........xxx..
.........xxxx.
.........xxxxx
""".split()


@pytest.mark.parametrize("num_key_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_and_its_gradients_are_those_of_the_dense_mask(
    num_key_heads: int, window: int | None
) -> None:
    """Worked out above; in a window, a token sees the last three of its row."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    ours, reference = _random_heads(num_key_heads), _random_heads(num_key_heads)
    output = _attend(ours, sliding_window=window, scaling=0.3)
    mask = torch.tensor([[mark == "x" for mark in line] for line in SEEN])
    if window is not None:
        for line in mask:
            line[line.nonzero()[:-window]] = False
    keys, values = (x.repeat_interleave(4 // num_key_heads, 1) for x in reference[1:])
    dense = scaled_dot_product_attention(reference[0], keys, values, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(output, dense.transpose(1, 2))
    for result in (output, dense.transpose(1, 2)):
        (result * torch.arange(result.numel()).view(result.shape) / 100).sum().backward()
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_pairs_are_counted_as_the_mask_has_them() -> None:
    from pipeline_lib.training.attention import Segments

    assert Segments(*TREE).num_pairs == "".join(SEEN).count("x")


def test_without_segments_a_model_computes_what_sdpa_does(tiny_model_path: Path) -> None:
    """Padding on the left, as in generation, and all tokens seen."""
    import torch

    ids = torch.arange(3, 15).view(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    for attention_mask in (mask, None):
        ours, sdpa = (
            _model(tiny_model_path, attention)(input_ids=ids, attention_mask=attention_mask).logits
            for attention in ("segments", "sdpa")
        )
        assert torch.equal(ours, sdpa)


def test_a_model_that_does_not_hand_segments_on_fails_instead_of_mixing_rows(
    tiny_model_path: Path,
) -> None:
    import torch

    from pipeline_lib.training.attention import no_mask

    model = _model(tiny_model_path, "segments")
    with pytest.raises(RuntimeError):
        model(input_ids=torch.arange(3, 9)[None], attention_mask=no_mask())


@pytest.mark.parametrize("extra", [{"softcap": 30.0}, {"s_aux": "sinks"}])
def test_what_some_models_attention_has_besides_is_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(extra))) as refusal:
        _attend(_random_heads(2), **extra)
    assert "padded" in str(refusal.value.hint)


def test_dropout_leaves_out_weights() -> None:
    import torch

    heads = _random_heads(2)
    torch.manual_seed(0)
    assert not torch.equal(_attend(heads, dropout=0.5), _attend(heads))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
ARCHITECTURES: list[tuple[str, dict[str, Any], bool]] = [
    ("qwen3", {**SMALL, "num_key_value_heads": 1, "head_dim": 16}, True),
    ("mistral", {**SMALL, "num_key_value_heads": 1, "sliding_window": 4}, True),
    # Half of its layers are convolutions, which carry over from one row into the next.
    ("lfm2", {**SMALL, "layer_types": ["conv", "full_attention"]}, False),
    # Its attention is capped.
    ("gemma2", SMALL, False),
]


@pytest.mark.parametrize(("kind", "sizes", "expected"), ARCHITECTURES)
def test_whether_an_architecture_can_be_packed_is_found_out_by_trying(
    tmp_path: Path, kind: str, sizes: dict[str, Any], expected: bool
) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(kind, **sizes).save_pretrained(tmp_path)
    assert supports_segments(tmp_path) is expected


def test_the_trial_notices_attention_across_rows(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline_lib.training import attention

    def across(query: Any, key: Any, value: Any, _: Any, *rest: Any) -> Any:
        one = attention.Segments((query.shape[2],), (-1,))
        return block_attention(query, key, value, one, *rest)

    assert supports_segments(tiny_model_path)
    block_attention = attention.block_attention
    monkeypatch.setattr(attention, "block_attention", across)
    assert not supports_segments(tiny_model_path)


def test_a_layout_that_is_asked_for_is_taken_untried() -> None:
    for layout in ("packed", "padded"):
        batch = BatchConfig.model_validate({"layout": layout})
        assert resolve_layout(batch, Path("no such model")) == layout


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 3])
def test_the_variable_length_kernel_computes_what_single_segments_do(window: int | None) -> None:
    import torch

    from pipeline_lib.training import attention

    ours, reference = (
        [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in _random_heads(2, width=64)]
        for _ in range(2)
    )
    assert attention._kernel_for(ours[0]) is not None
    segments = attention.Segments(*TREE)
    output = _attend(ours, sliding_window=window)
    plain = attention._by_segment(segments, *reference, None, window)
    torch.testing.assert_close(output, plain, rtol=2e-2, atol=2e-2)
    for result in (output, plain):
        result.float().pow(2).sum().backward()
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=5e-2, atol=5e-2)


def _random_heads(num_key_heads: int, width: int = 8) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    num_tokens = sum(TREE[0])
    return [
        torch.randn(1, heads, num_tokens, width, generator=generator).requires_grad_()
        for heads in (4, num_key_heads, num_key_heads)
    ]


def _attend(heads: list[Any], **arguments: Any) -> Any:
    import torch

    from pipeline_lib.training.attention import Segments, segment_attention

    output, weights = segment_attention(
        torch.nn.Module(), *heads, None, segments=Segments(*TREE), **arguments
    )
    assert weights is None
    return output


def _model(path: Path, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    from pipeline_lib.training.attention import register_segment_attention

    register_segment_attention()
    return AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention).eval()
