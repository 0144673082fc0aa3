import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rnow_core.errors import EnvironmentMissing, UsageError
from rnow_core.models.vllm_command import (
    LORA_RANKS,
    ServerSpec,
    served_lora_rank,
    served_max_logprobs,
    server_command,
    server_environment,
)
from rnow_core.models.vllm_log import TAIL_BYTES, hint, last_lines, tail
from rnow_core.models.vllm_server import wrong_model

SOCKET = Path("/tmp/rnow-1/api.sock")
STUDENT = ServerSpec("student", "/models/small", Path("logs/student.log"), enable_lora=True, lora_rank=12)
TEACHER = ServerSpec("teacher", "org/big", Path("logs/teacher.log"), prefix_caching=False, max_logprobs=64)


def options(spec: ServerSpec) -> dict[str, str | None]:
    """The flags of a command with their values; None for a flag without one."""
    words = server_command(spec, SOCKET)[4:]
    pairs = zip(words, [*words[1:], "--"], strict=True)
    return {word: None if after.startswith("--") else after for word, after in pairs if word.startswith("--")}


def environment(spec: ServerSpec = STUDENT, **base: str) -> dict[str, str]:
    return server_environment(spec, base, SOCKET.parent)


def test_command_listens_on_the_socket_only():
    command = server_command(STUDENT, SOCKET)
    assert command[:4] == [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    found = options(STUDENT)
    assert found["--uds"] == str(SOCKET)
    assert not {"--host", "--port"} & set(found)


def test_sampling_is_never_taken_from_the_model_folder():
    for spec in (STUDENT, TEACHER):
        assert options(spec)["--generation-config"] == "vllm"
        assert options(spec)["--logprobs-mode"] == "raw_logprobs"


def test_student_takes_adapters_and_teacher_does_not():
    student = options(STUDENT)
    assert "--enable-lora" in student
    assert (student["--max-lora-rank"], student["--max-loras"]) == ("16", "2")
    assert not any("lora" in flag for flag in options(TEACHER))
    assert environment(STUDENT)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment(TEACHER)


def test_prefix_cache_is_off_where_only_scoring_happens():
    assert "--no-enable-prefix-caching" in options(TEACHER)
    assert "--enable-prefix-caching" in options(STUDENT)


def test_numbers_are_passed_and_absent_ones_left_to_vllm():
    sizes = {"--max-model-len": "512", "--max-num-batched-tokens": "4096", "--max-num-seqs": "32"}
    assert not set(sizes) & set(options(TEACHER))
    spec = replace(
        TEACHER, max_model_len=512, max_num_batched_tokens=4096, max_num_seqs=32, tensor_parallel=2
    )
    found = options(replace(spec, data_parallel=4, seed=7, dtype="bfloat16"))
    assert sizes.items() <= found.items()
    assert (found["--tensor-parallel-size"], found["--data-parallel-size"]) == ("2", "4")
    assert (found["--seed"], found["--dtype"], found["--max-logprobs"]) == ("7", "bfloat16", "64")


def test_sleep_mode_and_memory_share_are_flags_of_a_gpu_only():
    asleep = replace(STUDENT, sleep_mode=True, gpu_memory_utilization=0.4)
    on_gpu, on_cpu = options(asleep), options(replace(asleep, on_gpu=False))
    assert "--enable-sleep-mode" in on_gpu
    assert on_gpu["--gpu-memory-utilization"] == "0.4"
    assert not {"--enable-sleep-mode", "--gpu-memory-utilization"} & set(on_cpu)
    assert "--enforce-eager" in on_cpu
    assert "--enforce-eager" not in on_gpu


@pytest.mark.parametrize("rank", [1, 2, 8, 9, 32, 33, 128, 257, 321, 512])
def test_rank_is_rounded_up_to_the_next_that_vllm_takes(rank):
    served = served_lora_rank(rank)
    assert served >= rank
    assert served in LORA_RANKS
    assert not any(rank <= smaller < served for smaller in LORA_RANKS)


def test_a_rank_beyond_vllms_is_an_error_with_the_way_out():
    with pytest.raises(UsageError, match="qlora_rank is 513") as error:
        served_lora_rank(513)
    assert "hf" in error.value.hint


def test_the_logprobs_of_a_server_hold_the_top_ids_that_it_is_asked_for():
    assert [served_max_logprobs(top) for top in (0, 20, 21, 128)] == [20, 20, 21, 128]


def test_the_route_for_given_ids_is_opened_on_request_only():
    assert "--enable-scale-out" in options(replace(TEACHER, score_given=True))
    assert "--enable-scale-out" not in options(TEACHER)


def test_secrets_and_torchrun_stay_behind():
    kept = {
        "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "KEYBOARD": "de",
    }
    dropped = {
        "WANDB_API_KEY": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HF_TOKEN": "x",
        "github_pat": "x",
        "DB_PASSWORD": "x",
        "VLLM_API_KEY": "x",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "1",
    }
    found = environment(replace(STUDENT, model="/"), **kept, **dropped)
    assert kept.items() <= found.items()
    assert not dropped.keys() & found.keys()


def test_the_hub_token_goes_to_a_model_of_the_hub_only(tmp_path):
    hub, local = environment(TEACHER, HF_TOKEN="t"), replace(TEACHER, model=str(tmp_path))
    assert hub["HF_TOKEN"] == "t"
    assert "HF_HUB_OFFLINE" not in hub
    assert "HF_TOKEN" not in environment(local, HF_TOKEN="t")
    assert environment(local)["HF_HUB_OFFLINE"] == "1"


def test_gpus_are_counted_within_what_the_run_may_see():
    spec = replace(STUDENT, gpus=(0, 2))
    assert environment(spec)["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert environment(spec, CUDA_VISIBLE_DEVICES="4,5,7")["CUDA_VISIBLE_DEVICES"] == "4,7"
    assert environment(STUDENT, CUDA_VISIBLE_DEVICES="4,5")["CUDA_VISIBLE_DEVICES"] == "4,5"
    with pytest.raises(EnvironmentMissing, match="use GPU 2, but CUDA_VISIBLE_DEVICES=4,5 shows 2"):
        environment(spec, CUDA_VISIBLE_DEVICES="4,5")


def test_without_a_gpu_the_cpu_build_gets_its_settings_and_the_users_win():
    spec = replace(STUDENT, on_gpu=False)
    found = environment(spec, CUDA_VISIBLE_DEVICES="0", VLLM_CPU_KVCACHE_SPACE="4")
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(STUDENT)


def test_a_sleeping_server_does_not_inherit_torchs_allocator_settings():
    setting = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert not setting.keys() & environment(replace(STUDENT, sleep_mode=True), **setting).keys()
    assert setting.items() <= environment(STUDENT, **setting).items()


def test_vllms_own_sockets_lie_in_the_private_folder():
    assert environment()["VLLM_RPC_BASE_PATH"] == str(SOCKET.parent)


def test_wrong_model_names_what_is_served_and_what_was_expected():
    listing = {"data": [{"id": "base", "root": "/models/small"}, {"id": "student-000001", "root": "/a"}]}
    assert wrong_model(listing, "base", "/models/small") is None
    assert wrong_model(listing, "base", "/models/big") == "its base is /models/small, expected /models/big"
    other = wrong_model({"data": [{"id": "gpt"}]}, "base", "/models/big")
    assert other == "it serves gpt, expected base (/models/big)"
    assert wrong_model({}, "base", "m") == "it serves nothing, expected base (m)"


def test_tail_starts_behind_the_last_start_and_is_bounded(tmp_path):
    log = tmp_path / "log"
    log.write_text("old\n" * 3)
    start = log.stat().st_size
    log.write_text("old\n" * 3 + "new\n\n  newer  \n")
    assert tail(log, start) == "new\n  newer"
    log.write_bytes(b"\xff" + b"line\n" * TAIL_BYTES)
    assert len(tail(log)) <= TAIL_BYTES
    assert last_lines(tail(log), 2) == "    line\n    line"
    assert tail(tmp_path / "absent") == ""


def test_an_exception_further_up_is_shown_and_the_noise_of_the_exit_is_not(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore pid=7) RuntimeError: the cause\n"
        + "shutting down\n" * 3
        + "nanobind: leaked 3 functions!\n - leaked function\n"
    )
    assert last_lines(tail(log), 2).split("\n") == [
        "    (EngineCore pid=7) RuntimeError: the cause",
        "    ...",
        "    shutting down",
        "    shutting down",
    ]


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("api_server.py: error: unrecognized arguments: --uds x", "does not know --uds x"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "too little memory"),
        (
            "ValueError: Free memory on device cuda:0 (1/80 GiB) on startup is less than desired",
            "another process",
        ),
        ("ValueError: No available memory for the cache blocks.", "KV cache"),
        ("something nobody has seen", "read logs/student.log"),
    ],
)
def test_known_causes_get_their_fix(line, advice):
    assert advice in hint(f"a\n{line}\nb", STUDENT)
