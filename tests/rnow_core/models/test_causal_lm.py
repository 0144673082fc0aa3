"""Loading, the head's proof, adapter off, dtypes, and what goes wrong in plain words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers

from rnow_core.errors import RnowError
from rnow_core.models.adapter import write_adapter
from rnow_core.models.causal_lm import CausalLM, load_frozen, load_student
from rnow_core.models.output_head import read_head

CPU = torch.device("cpu")
KINDS = ["qwen3", "llama", "mistral", "gemma2", "gemma3", "granite", "cohere"]
IDS = torch.tensor([[5, 9, 17, 3, 44, 8, 21, 30, 2, 60, 61, 62]])


def student(path: str, **changes: object) -> CausalLM:
    settings = {"rank": 4, "alpha": 8.0, "device": CPU} | changes
    return load_student(path, **settings)


def shake(lm: CausalLM) -> None:
    """Give the adapter a visible effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in lm.trainable_parameters().values():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("kind", KINDS)
def test_head_of_hidden_states_gives_the_models_own_logits(
    kind: str, model_folder: Callable[..., str]
) -> None:
    lm = load_frozen(model_folder(kind), device=CPU)
    plain = transformers.AutoModelForCausalLM.from_pretrained(model_folder(kind), attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(lm.head.logits(lm.hidden(IDS)), plain(IDS).logits, atol=1e-5, rtol=1e-5)
    assert lm.head.logits(lm.hidden(IDS)).std() > 0.1


def test_gemma_and_cohere_heads_are_not_plain(model_folder: Callable[..., str]) -> None:
    assert load_frozen(model_folder("gemma3"), device=CPU).head.softcap == 0.5
    assert load_frozen(model_folder("cohere"), device=CPU).head.scale == 0.25
    assert load_frozen(model_folder("granite"), device=CPU).head.scale == 0.25


def test_an_architecture_with_another_head_is_refused(model_folder: Callable[..., str]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder("gemma3"), dtype=torch.float32)

    class Odd(type(model)):
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.01
            return output

    model.__class__ = Odd
    with pytest.raises(RnowError, match="Odd is not supported"):
        CausalLM(model, "odd")


def test_a_model_without_a_linear_head_is_refused(model_folder: Callable[..., str]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with pytest.raises(RnowError, match="plain linear output layer"):
        read_head(wrapped.get_base_model(), "tiny")


def test_only_the_adapter_trains_and_in_float32(model_folder: Callable[..., str]) -> None:
    lm = student(model_folder(), dtype="bfloat16")
    assert lm.dtype == torch.bfloat16
    parameters = lm.trainable_parameters()
    assert len(parameters) == 2 * 7 * 2
    assert all("lora_" in name and weight.dtype == torch.float32 for name, weight in parameters.items())


def test_rank_0_trains_every_weight_in_float32_and_computes_in_the_given_dtype(
    model_folder: Callable[..., str],
) -> None:
    lm = student(model_folder(), rank=0, dtype="bfloat16")
    assert {weight.dtype for weight in lm.trainable_parameters().values()} == {torch.float32}
    assert len(lm.trainable_parameters()) == len(list(lm.model.parameters()))
    assert lm.hidden(IDS).dtype == lm.head.weight_VH.dtype == torch.bfloat16
    lm.head.weight_VH.sum().backward()
    assert lm.model.get_output_embeddings().weight.grad is not None


def test_adapter_weights_depend_on_the_seed_alone(model_folder: Callable[..., str]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, same, other = (student(model_folder(), seed=seed).trainable_parameters() for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_adapter_off_gives_the_base_model_and_on_again_the_student(model_folder: Callable[..., str]) -> None:
    base = load_frozen(model_folder(), device=CPU)
    lm = student(model_folder())
    shake(lm)
    with torch.no_grad():
        on = lm.hidden(IDS)
        with lm.adapter_off():
            off = lm.hidden(IDS)
        assert torch.equal(off, base.hidden(IDS))
        assert not torch.allclose(on, off, atol=1e-2)
        assert torch.equal(lm.hidden(IDS), on)
    assert all(weight.requires_grad for weight in lm.trainable_parameters().values())
    assert len(lm.trainable_parameters()) == 28


def test_adapter_off_without_an_adapter_names_the_key(model_folder: Callable[..., str]) -> None:
    with (
        pytest.raises(RnowError, match=r"teacher\.path: self"),
        student(model_folder(), rank=0).adapter_off(),
    ):
        pass


def test_no_dropout_even_when_the_config_has_some(model_folder: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "dropout"
    shutil.copytree(model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    for checkpointing in (False, True):
        lm = student(str(folder), gradient_checkpointing=checkpointing)
        assert torch.equal(lm.hidden(IDS), student(model_folder()).hidden(IDS))


def test_padding_on_the_right_does_not_change_the_real_positions(model_folder: Callable[..., str]) -> None:
    for kind in ("qwen3", "gemma3", "mistral"):
        lm = load_frozen(model_folder(kind), device=CPU)
        padded = torch.nn.functional.pad(IDS, (0, 9))
        with torch.no_grad():
            torch.testing.assert_close(
                lm.hidden(padded)[:, : IDS.shape[1]], lm.hidden(IDS), atol=1e-5, rtol=1e-5
            )


def test_a_saved_adapter_is_read_back_and_peft_reads_it_too(
    model_folder: Callable[..., str], tmp_path: Path
) -> None:
    lm = student(model_folder(), rank=3, alpha=5.0)
    shake(lm)
    write_adapter(lm.peft, tmp_path, lm.name)
    again = student(model_folder(), rank=99, adapter=tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    plain = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        expected = lm.head.logits(lm.hidden(IDS))
        assert torch.equal(again.head.logits(again.hidden(IDS)), expected)
        torch.testing.assert_close(plain(IDS).logits, expected)
    assert again.trainable_parameters().keys() == lm.trainable_parameters().keys()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == model_folder()
    assert config["target_modules"] == sorted(config["target_modules"])


def test_writing_an_adapter_twice_gives_equal_bytes(model_folder: Callable[..., str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lm = student(model_folder(), seed=4)
        write_adapter(lm.peft, tmp_path / name, lm.name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_chosen_target_modules(model_folder: Callable[..., str]) -> None:
    names = student(model_folder(), target_modules=["q_proj", "v_proj"]).trainable_parameters()
    assert len(names) == 2 * 2 * 2
    with pytest.raises(RnowError, match=r"target_modules.*nonsense") as caught:
        student(model_folder(), target_modules=["nonsense"])
    assert "q_proj" in caught.value.hint
    assert "lm_head" not in caught.value.hint


def test_bad_model_paths(model_folder: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for path, message in [
        (tmp_path / "none", "there is no such model folder"),
        (tmp_path / "empty", "no config.json"),
        (tmp_path / "file", "is a file, expected a model folder"),
    ]:
        with pytest.raises(RnowError, match=message) as caught:
            load_frozen(str(path), device=CPU)
        assert str(path) in caught.value.message
        assert caught.value.hint


def test_broken_and_incomplete_model_folders(model_folder: Callable[..., str], tmp_path: Path) -> None:
    for name, change in [("broken", b"not a safetensors file"), ("gone", None)]:
        folder = tmp_path / name
        shutil.copytree(model_folder(), folder)
        weights = folder / "model.safetensors"
        weights.unlink() if change is None else weights.write_bytes(change)
        with pytest.raises(RnowError, match="could not load the model"):
            load_frozen(str(folder), device=CPU)
    folder = tmp_path / "deeper"
    shutil.copytree(model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RnowError, match="weights are missing"):
        load_frozen(str(folder), device=CPU)


def test_bad_adapters(model_folder: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(RnowError, match=r"has no adapter_config\.json"):
        student(model_folder(), adapter=tmp_path)
    write_adapter(student(model_folder(layers=3)).peft, tmp_path, "x")
    with pytest.raises(RnowError, match="does not fit"):
        student(model_folder(hidden=64, layers=3), adapter=tmp_path)
    with pytest.raises(RnowError, match="14 weights have no partner"):
        student(model_folder(layers=2), adapter=tmp_path)
    with pytest.raises(RnowError, match="qlora_rank 0"):
        student(model_folder(), rank=0, adapter=tmp_path)


def test_unknown_dtype(model_folder: Callable[..., str]) -> None:
    for name in ("float12", "int8", "nn"):
        with pytest.raises(RnowError, match=r"model\.dtype"):
            load_frozen(model_folder(), dtype=name, device=CPU)


def test_what_the_config_says(model_folder: Callable[..., str]) -> None:
    lm = load_frozen(model_folder(vocab=61), device=CPU)
    assert (lm.vocab_rows, lm.context_window, lm.device, lm.dtype) == (61, 256, CPU, torch.float32)
    assert not lm.trainable_parameters()


def test_softcapped_attention_is_not_left_out(model_folder, tmp_path):
    """Gemma 2 bends its attention scores, which torch's fused attention silently skips."""
    folder = tmp_path / "gemma"
    shutil.copytree(model_folder("gemma2"), folder)
    config = json.loads((folder / "config.json").read_text()) | {"attn_logit_softcapping": 0.05}
    (folder / "config.json").write_text(json.dumps(config))
    ids = torch.randint(0, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    load = transformers.AutoModelForCausalLM.from_pretrained
    lm = load_frozen(str(folder), device=torch.device("cpu"))
    with torch.no_grad():
        got = lm.head.logits(lm.hidden(ids))
        torch.testing.assert_close(got, load(folder, attn_implementation="eager")(ids).logits)
        assert not torch.allclose(got, load(folder, attn_implementation="sdpa")(ids).logits, atol=1e-4)
