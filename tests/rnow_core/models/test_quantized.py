"""nf4 against its definition, and a quantised model against a plain one with the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from tiny import make_model
from torch import Tensor

from rnow_core.algo.head import token_logprobs
from rnow_core.errors import EnvironmentMissing, RnowError
from rnow_core.models import extras
from rnow_core.models.adapter import write_adapter
from rnow_core.models.causal_lm import CausalLM, load_frozen, load_student
from rnow_core.models.folder import save_model
from rnow_core.models.quantized import fingerprint, plain_model, quantized_layers
from rnow_core.preflight.memory import NF4_BYTES, frozen_bytes
from rnow_core.preflight.model_facts import read_config
from rnow_core.preflight.quantization import check_quantization
from rnow_core.preflight.weight_files import count_weights

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 17, 3, 44, 8, 21, 30, 2, 40, 41, 42]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("nf4"), seed=1, hidden=64, layers=2))


def quantized_student(folder: str, **changes: object) -> CausalLM:
    """With an adapter that does something."""
    lm = load_student(folder, **({"rank": 4, "alpha": 8.0, "device": CPU, "quantized": True} | changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in lm.trainable_parameters().values():
            weight.add_((0.1 * torch.randn(weight.shape, generator=generator)).to(weight.device))
    return lm


def codebook() -> Tensor:
    """The 16 values of nf4: 8 above zero, zero, 7 below, each half scaled to reach 1."""
    positive = torch.special.ndtri(torch.linspace(0.9677083, 0.5, 9, dtype=torch.float64))[:-1]
    negative = -torch.special.ndtri(torch.linspace(0.9677083, 0.5, 8, dtype=torch.float64))[:-1]
    values = torch.cat([positive, torch.zeros(1, dtype=torch.float64), negative])
    return values / values.abs().max()


def rounded(weight: Tensor) -> Tensor:
    """A weight in nf4, by definition: in blocks of 64, the nearest value times the block's largest."""
    blocks = weight.double().reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / scale)[..., None] - codebook()).abs().argmin(-1)
    return (codebook()[nearest] * scale).reshape(weight.shape)


def test_the_plain_model_has_every_weight_by_the_definition_of_nf4(folder: str) -> None:
    lm = load_frozen(folder, device=CPU, quantized=True)
    original = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    plain = plain_model(lm.model).state_dict()
    assert plain.keys() == original.keys()
    names = {f"{name}.weight" for name, _ in quantized_layers(lm.model)}
    assert names == {name for name in original if "_proj" in name}
    for name, weight in original.items():
        if name not in names:
            torch.testing.assert_close(plain[name], weight, rtol=0, atol=0)
            continue
        # the scales are in 8 bits themselves: the same value of the codebook, within a part of the block's largest
        error = (plain[name].double() - rounded(weight)).reshape(-1, 64).abs().amax(1)
        assert (error / weight.reshape(-1, 64).abs().amax(1).mean()).max() < 0.02, name


@pytest.mark.parametrize(
    ("device", "tolerance"), [("cpu", 1e-5), pytest.param("cuda", 1e-3, marks=pytest.mark.gpu)]
)
def test_logprobs_and_gradients_are_those_of_a_plain_model_with_these_weights(
    device: str, tolerance: float, folder: str, tmp_path: Path
) -> None:
    settings = {"device": torch.device(device), "dtype": "float32"}
    quantized = quantized_student(folder, **settings)
    save_model(plain_model(quantized.model), tmp_path)
    plain = quantized_student(str(tmp_path), quantized=False, **settings)
    ids = IDS.to(device)
    assert quantized.packable
    gradients = []
    for lm in (quantized, plain):
        with torch.no_grad():  # as a sampler does: it must not change what the update computes
            lm.hidden(ids)
        logp, _ = token_logprobs(lm.hidden(ids)[0, :-1], lm.head.weight_VH, ids[0, 1:])
        logp.sum().backward()
        with torch.no_grad(), lm.adapter_off():
            base, _ = token_logprobs(lm.hidden(ids)[0, :-1], lm.head.weight_VH, ids[0, 1:])
        named = {name: weight.grad for name, weight in lm.trainable_parameters().items()}
        gradients.append({**named, "logp": logp.detach(), "base": base})
    assert all(weight.dtype == torch.float32 for weight in quantized.trainable_parameters().values())
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=tolerance, atol=tolerance)
        assert expected.abs().max() > 0, name


def test_checkpointing_does_not_change_the_gradient(folder: str) -> None:
    found = []
    for checkpointing in (False, True):
        lm = quantized_student(folder, gradient_checkpointing=checkpointing)
        token_logprobs(lm.hidden(IDS)[0, :-1], lm.head.weight_VH, IDS[0, 1:])[0].sum().backward()
        found.append([weight.grad for weight in lm.trainable_parameters().values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_adapter_of_a_quantised_student_is_an_ordinary_one(folder: str, tmp_path: Path) -> None:
    lm = quantized_student(folder)
    write_adapter(lm.peft, tmp_path, folder)
    again = load_student(folder, rank=4, alpha=8.0, device=CPU, quantized=True, adapter=tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    unquantised = peft.PeftModel.from_pretrained(base, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.hidden(IDS), lm.hidden(IDS), rtol=0, atol=0)
        far = (unquantised(IDS).logits - lm.head.logits(lm.hidden(IDS))).abs().max()
    assert 0.01 < far < 5


def test_the_fingerprint_is_of_the_base_alone(folder: str, tmp_path: Path) -> None:
    bare = fingerprint(load_frozen(folder, device=CPU, quantized=True).model)
    assert fingerprint(quantized_student(folder).model) == bare
    other = make_model(tmp_path, seed=2, hidden=64, layers=2)
    assert fingerprint(load_frozen(str(other), device=CPU, quantized=True).model) != bare


def test_the_plan_counts_the_bytes_that_there_are(tmp_path: Path) -> None:
    made = make_model(tmp_path, seed=1, hidden=256, layers=2, head_dim=64)
    lm = load_frozen(str(made), device=CPU, quantized=True)
    stored = {}
    for _, layer in quantized_layers(lm.model):
        state = layer.weight.quant_state
        parts = (layer.weight.data, state.absmax, state.state2.absmax, state.offset)
        stored |= {part.data_ptr(): part.nbytes for part in parts}
    count = count_weights(made, str(made), "model.path")
    facts = replace(read_config(made / "config.json", str(made), "model.path"), parameters=count)
    inside = {id(layer.weight) for _, layer in quantized_layers(lm.model)}
    plain = sum(weight.nbytes for weight in lm.model.parameters() if id(weight) not in inside)
    assert frozen_bytes(facts, 4, True) == pytest.approx(sum(stored.values()) + plain, rel=0.01)
    assert frozen_bytes(facts, 4, False) > 5 * frozen_bytes(facts, 4, True)
    assert NF4_BYTES < 0.52


def test_a_width_that_is_no_multiple_of_a_block_is_refused_before_and_while_loading(tmp_path: Path) -> None:
    made = make_model(tmp_path, seed=1, hidden=96)
    (finding,) = check_quantization(
        read_config(made / "config.json", "./m", "model.path"), "model.quantization"
    )
    assert (finding.code, finding.severity) == ("RN321", "error")
    assert "96" in finding.message
    with pytest.raises(RnowError, match="multiple of 64, and it has some with 96"):
        load_frozen(str(made), device=CPU, quantized=True)


def test_a_mixture_of_experts_is_refused_before_and_while_loading(tmp_path: Path) -> None:
    config = transformers.Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=16,
        num_experts_per_tok=2,
    )
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    count = count_weights(tmp_path, str(tmp_path), "model.path")
    facts = replace(read_config(tmp_path / "config.json", "./m", "model.path"), parameters=count)
    (finding,) = check_quantization(facts, "model.quantization")
    assert (finding.code, finding.severity) == ("RN321", "error")
    assert "experts" in finding.message
    with pytest.raises(RnowError, match="nf4 covers linear layers"):
        load_frozen(str(tmp_path), device=CPU, quantized=True)


def test_a_missing_package_names_the_extra(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "bitsandbytes" else name)
    with pytest.raises(EnvironmentMissing, match="needs bitsandbytes, not installed") as caught:
        load_frozen(folder, device=CPU, quantized=True)
    assert caught.value.hint == 'pip install "rnow-distill[qlora]"'
