"""Fused layers compute what the layers that they stand for compute, and keep less of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PlanFactory, random_examples
from .warm_ranks import history, train

QWEN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


# peft asks by the name that transformers had before 5.23.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(params=["llama", "qwen2"])
def base_path(request: pytest.FixtureRequest, tmp_path: Path, tiny_model_path: Path) -> Path:
    """The tiny Llama, and a Qwen 2, whose projections have biases."""
    if request.param == "llama":
        return tiny_model_path
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **QWEN))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "qwen2")
    return tmp_path / "qwen2"


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_fused_model_has_the_loss_and_gradients_of_the_model(
    base_path: Path, *, is_checkpointed: bool
) -> None:
    import torch

    plain, fused = _adapted(base_path), _adapted(base_path)
    kinds = _fuse(fused)
    num_layers = fused.config.num_hidden_layers
    assert kinds == {"linear": 7 * num_layers, "mlp": num_layers, "norm": 2 * num_layers + 1}
    if is_checkpointed:
        from .conftest import enable_checkpointing

        enable_checkpointing(fused)
    losses = [_learn(model.train()) for model in (plain, fused)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    expected = dict(_gradients(plain))
    assert len(expected) == 14 * num_layers
    for name, gradient in _gradients(fused):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bias_scale", [None, 1.0, 4.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_nothing_of_a_young_adapter_is_lost(
    bias_scale: float | None, dtype: str
) -> None:
    """Where an adapter adds little, sums are off by as much; what counts is that they follow it."""
    import torch

    from pipeline_lib.training.fused.affine import Affine, affine

    precision = getattr(torch, dtype)
    torch.manual_seed(0)
    inputs, weight = torch.randn(400, 256).to(precision), torch.randn(300, 256).to(precision) / 16
    bias = None if bias_scale is None else (bias_scale * torch.randn(300)).to(precision)
    down, up = torch.randn(8, 256) / 16, torch.randn(300, 8) * 0.03 * torch.finfo(precision).eps
    adds = 2.0 * inputs.double() @ down.to(precision).double().t() @ up.double().t()

    def followed(outputs: Any) -> float:
        """The slope of what outputs are more with the adapter, over what they should be."""
        without = affine(inputs, Affine(weight, bias)).double()
        return float(((outputs.double() - without) * adds).sum() / adds.square().sum())

    outputs = affine(inputs, Affine(weight, bias, down, up, 2.0))
    assert followed(outputs) == pytest.approx(1, abs=0.05)
    behind = affine(inputs, Affine(weight, bias)) + adds.to(precision)
    assert followed(behind) < 0.8  # what is guarded against is there


def test_in_full_training_norms_learn_and_the_rest_is_left_as_it_is(base_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    plain, fused = (AutoModelForCausalLM.from_pretrained(base_path) for _ in range(2))
    assert set(_fuse(fused)) == {"norm"}
    for model in (plain, fused):
        _learn(model)
    expected = dict(_gradients(plain))
    assert len(expected) == len(list(plain.parameters()))
    for name, gradient in _gradients(fused):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_in_full_training_autocast_has_its_way(tiny_model_path: Path) -> None:
    """Weights in fp32, products in bf16: so trains ZeRO 0, on packed rows."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline_lib.training.attention import Segments, no_mask, register_segment_attention

    ids, positions = torch.arange(3, 63)[None], torch.arange(60)[None]
    losses, norms = [], []
    for is_fused in (False, True):
        model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
        inputs: dict[str, Any] = {"input_ids": ids, "position_ids": positions}
        if is_fused:
            _fuse(model)
            model.set_attn_implementation(register_segment_attention())
            inputs |= {"attention_mask": no_mask(), "segments": Segments((60,), (-1,))}
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs, labels=ids).loss
        loss.backward()
        assert loss.isfinite()
        losses.append(loss.item())
        gradients = [gradient for _, gradient in _gradients(model)]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_an_adapter_that_is_switched_off_or_merged_is_not_counted_twice(
    tiny_model_path: Path,
) -> None:
    import torch

    plain, fused = _adapted(tiny_model_path), _adapted(tiny_model_path)
    _fuse(fused)
    ids = torch.arange(3, 15)[None]
    with torch.no_grad(), plain.disable_adapter(), fused.disable_adapter():
        base = fused(input_ids=ids).logits
        torch.testing.assert_close(base, plain(input_ids=ids).logits)
    with torch.no_grad():
        adapted = fused(input_ids=ids).logits
        assert not torch.allclose(adapted, base, atol=1e-3)
        fused.merge_adapter()
        torch.testing.assert_close(fused(input_ids=ids).logits, adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [({"use_dora": True}, {"norm"}), ({"lora_dropout": 0.1}, {"norm"})],
)
def test_other_adapters_are_computed_by_peft(
    tiny_model_path: Path, settings: dict[str, Any], kinds: set[str]
) -> None:
    assert set(_fuse(_adapted(tiny_model_path, **settings))) == kinds


@pytest.mark.parametrize("base_path", ["llama", "qwen2"], indirect=True)
def test_what_peft_computes_in_16_bits_follows_a_young_adapter_too(base_path: Path) -> None:
    """So it is under ZeRO 3, and with dropout."""
    import torch

    from pipeline_lib.training.fused.adding import add_adapters_first

    assert add_adapters_first(_adapted(base_path)) == 0  # fp32 rounds nothing away
    model = _adapted(base_path, dtype=torch.bfloat16, lora_dropout=0.1).eval()
    torch.manual_seed(0)
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    given = [torch.randn(3, 200, layer.in_features).bfloat16() for layer in layers]

    def adds(layer: Any, inputs: Any) -> Any:
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        return layer.scaling["default"] * inputs.double() @ (up.double() @ down.double()).t()

    def slopes() -> list[float]:
        """Of what the layers' outputs are more with the adapter, over what they should be."""
        found = []
        for layer, inputs in zip(layers, given, strict=True):
            wanted = adds(layer, inputs)
            more = layer(inputs).double() - layer.base_layer(inputs).double()
            found.append(float((more * wanted).sum() / wanted.square().sum()))
        return found

    with torch.no_grad():
        for layer, inputs in zip(layers, given, strict=True):
            young = 0.1 * torch.finfo(torch.bfloat16).eps * layer.base_layer(inputs).std()
            layer.lora_B["default"].weight.mul_(young / adds(layer, inputs).std())
        assert max(slopes()) < 0.8
        assert add_adapters_first(model) == len(layers) == 14
        assert slopes() == pytest.approx([1.0] * 14, abs=0.15)


def test_added_first_an_adapters_gradients_are_as_near_as_those_of_peft(base_path: Path) -> None:
    import torch

    from pipeline_lib.training.fused.adding import add_adapters_first

    exact, plain, added = (_adapted(base_path, dtype=torch.bfloat16) for _ in range(3))
    exact.float()
    assert add_adapters_first(added) == 14
    losses = [float(_learn(model.train())) for model in (plain, added)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    _learn(exact.train())
    expected, theirs = dict(_gradients(exact)), dict(_gradients(plain))
    offs = [
        torch.nn.utils.get_total_norm([gradients[name] - expected[name] for name in expected])
        for gradients in (theirs, dict(_gradients(added)))
    ]
    assert offs[1] < 1.5 * offs[0] < 0.1 * torch.nn.utils.get_total_norm(expected.values())
    with torch.no_grad(), plain.disable_adapter(), added.disable_adapter():
        ids = torch.arange(3, 15)[None]
        assert torch.equal(plain(input_ids=ids).logits, added(input_ids=ids).logits)


@pytest.mark.slow
def test_under_zero_3_a_bf16_adapter_learns_what_it_learns_fused(make_plan: PlanFactory) -> None:
    plans = [
        make_plan(
            f"stage-{stage}",
            random_examples(16),
            precision="bf16",
            engine={"zero_stage": stage},
            supervised={"max_steps": 6, "learning_rate": 3e-3},
        )
        for stage in (2, 3)
    ]
    for plan in plans:
        train(plan)
    fused, added = (history(plan) for plan in plans)
    assert fused[6] < fused[1] - 0.05
    assert added == pytest.approx(fused, rel=1e-3)


def test_layers_that_only_look_alike_are_left_as_they_are(tiny_model_path: Path) -> None:
    """Gemma's norm adds one to its weights; another MLP has a bonus of its own."""
    model = _adapted(tiny_model_path)
    base = model.get_base_model()

    class OddMLP(type(base.model.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x) + x

    class GemmaRMSNorm(type(base.model.norm)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x) + x

    for layer in base.model.layers:
        layer.mlp.__class__ = OddMLP
    base.model.norm.__class__ = GemmaRMSNorm
    num_layers = len(base.model.layers)
    expected = _adapted_logits(model)
    assert _fuse(model) == {"linear": 7 * num_layers, "norm": 2 * num_layers}
    import torch

    torch.testing.assert_close(_adapted_logits(model), expected)


def test_inputs_are_left_as_they_were() -> None:
    """In fp32, a conversion to fp32 is no copy."""
    import torch

    from pipeline_lib.training.attention import Segments
    from pipeline_lib.training.fused.affine import Affine
    from pipeline_lib.training.fused.attention import block_attention
    from pipeline_lib.training.fused.gated import gated_mlp
    from pipeline_lib.training.fused.norm import rms_norm

    def attend(inputs: Any) -> Any:
        heads = inputs.view(1, 1, 6, 8)
        return block_attention(heads, heads, heads, Segments((6,), (-1,)), 0.3, None)

    layer = Affine(torch.randn(8, 8), None, torch.randn(2, 8), torch.randn(8, 2))
    functions: list[Callable[[Any], Any]] = [
        attend,
        lambda inputs: gated_mlp(inputs, layer, layer, layer),
        lambda inputs: rms_norm(inputs, torch.ones(8), 1e-5),
    ]
    for function in functions:
        inputs = torch.randn(6, 8, requires_grad=True)
        before = inputs.detach().clone()
        outputs = function(inputs)
        gradient = torch.randn_like(outputs)
        given = gradient.clone()
        outputs.backward(gradient)
        assert torch.equal(inputs, before)
        assert torch.equal(gradient, given)


def test_a_fused_model_keeps_little_more_than_half_for_the_backward_pass(
    tiny_model_path: Path,
) -> None:
    import torch

    kept = []
    for is_fused in (False, True):
        model = _adapted(tiny_model_path, dtype=torch.bfloat16)
        if is_fused:
            _fuse(model)
        kept.append(_num_kept_bytes(model))
    assert kept[1] < 0.55 * kept[0]


def _num_kept_bytes(model: Any) -> int:
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.arange(3, 60)[None]
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, logits_to_keep=1).logits
    assert logits.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def _adapted(path: Path, dtype: Any = None, **settings: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or torch.float32)
    model.config.use_cache = False
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **settings)
    adapted = get_peft_model(model, lora)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zeros would hide what A's gradient is
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def _fuse(model: Any) -> Any:
    from pipeline_lib.training.fused.fusing import fuse

    return fuse(model)


def _learn(model: Any) -> Any:
    import torch

    ids = torch.arange(3, 43).view(2, 20)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach()


def _gradients(model: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad


def _adapted_logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.arange(3, 15)[None]).logits
