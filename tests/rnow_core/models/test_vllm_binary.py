"""Scores as a binary array: decoded from arrays made as the server makes them, and asked of real servers."""

import asyncio
import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fault_proxy import Fault, proxied
from served_scoring import TOLERANCE, WINDOW, assert_same, log_softmax_of, make_requests, with_client
from tiny import make_model
from vllm_fixtures import quiet, tiny_spec

from rnow_core.errors import RunFailed
from rnow_core.models.vllm_binary import GENERATE, binary_body, decode_scores, probe_binary
from rnow_core.models.vllm_http import Endpoint, ServerError, VLLMClient
from rnow_core.models.vllm_server import ManagedServer
from rnow_core.models.vllm_teacher import VLLMTeacher
from rnow_core.types import ScoreRequest

REQUEST = ScoreRequest((6, 7, 8, 9), 2)


def answer(array):
    """As vLLM's `numpy2base64` (vllm/utils/serial_utils.py) writes an array, in `GenerateResponse`'s field."""
    with io.BytesIO() as file:
        np.save(file, array, allow_pickle=False)
        return {"prompt_token_id_logprobs": base64.b64encode(file.getvalue()).decode()}


def column(*values):
    return np.array(values, np.float32)[:, None]


def test_an_array_holds_one_row_for_every_scored_id():
    assert decode_scores(answer(column(-1.5, -0.25)), REQUEST, "the server") == [-1.5, -0.25]


def test_the_first_row_is_that_of_the_id_before():
    """Row r predicts ids[r + 1], so vLLM takes prompt length - 1 - start rows (vllm/v1/engine/input_processor.py)."""
    params = binary_body("base", REQUEST)["sampling_params"]
    assert params["prompt_logprob_start"] == 1
    assert params["prompt_logprob_token_ids"] == [[8], [9]]
    assert len(params["prompt_logprob_token_ids"]) == len(REQUEST.ids) - 1 - params["prompt_logprob_start"]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"choices": []}, "no prompt_token_id_logprobs"),
        ({"prompt_token_id_logprobs": None}, "no prompt_token_id_logprobs"),
        ({"prompt_token_id_logprobs": "!"}, "no .npy array"),
        ({"prompt_token_id_logprobs": "AAAA"}, "no .npy array"),
        (answer(column(-1.0, -2.0, -3.0)), r"shape \(3, 1\) and type float32, expected \(2, 1\)"),
        (answer(column(-1.0, -2.0).astype(np.float64)), "type float64"),
        (answer(column(-1.0, -np.inf)), "id 9 at position 3 is -inf"),
        (answer(column(np.nan, -1.0)), "id 8 at position 2 is nan"),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(sent, message):
    with pytest.raises(RunFailed, match=message):
        decode_scores(sent, REQUEST, "the server")


@pytest.mark.vllm
def test_vllms_own_parser_and_worker_take_the_request_and_score_the_right_positions(monkeypatch):
    """The part of the GPU runner that scores, on the CPU: only its kernel is replaced, by log_softmax and gather."""
    protocol = pytest.importorskip("vllm.entrypoints.scale_out.token_in_token_out.protocol")
    worker = pytest.importorskip("vllm.v1.worker.gpu.sample.prompt_logprob")
    from vllm.utils.serial_utils import numpy2base64

    monkeypatch.setattr(
        worker, "compute_token_logprobs", lambda logits, ids: logits.log_softmax(-1).gather(-1, ids)
    )
    request = ScoreRequest(tuple(range(5, 35)), 7)
    logits = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    params = protocol.GenerateRequest.model_validate(binary_body("base", request)).sampling_params
    params._validate_logprobs(SimpleNamespace(max_logprobs=20, max_model_len=64, get_vocab_size=lambda: 50))
    scorer = worker.PromptLogprobsWorker(1, torch.device("cpu"))
    scorer.add_request("a", 0, params)
    done = {}
    for start, end in ((0, 5), (5, 20), (20, 30)):
        chunk = SimpleNamespace(
            req_ids=["a"],
            idx_mapping_np=np.array([0]),
            num_computed_prefill_tokens_np=np.array([start]),
            num_scheduled_tokens=np.array([end - start]),
            prefill_len_np=np.array([30]),
            query_start_loc_np=np.array([0, end - start]),
        )
        done |= scorer.compute_prompt_token_id_logprobs(
            lambda hidden: hidden, logits[start:end], chunk, np.array([30])
        )
    sent = {"prompt_token_id_logprobs": numpy2base64(done["a"].numpy())}
    truth = logits.log_softmax(-1)
    expected = [truth[t - 1, request.ids[t]].item() for t in range(7, 30)]
    assert_same([decode_scores(sent, request, "the server")], [expected], 1e-6)


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
def test_a_closed_route_is_no_and_no_answer_is_an_error(vllm_teacher):
    async def main():
        async with proxied(vllm_teacher.socket, Fault(status=401)) as proxy:
            proxy.path = GENERATE
            client = VLLMClient(Endpoint("teacher", url=proxy.url), patience_s=0.1)
            with pytest.raises(ServerError, match="401"):
                await probe_binary(client, "base")
            found = await probe_binary(client, "base")
            await proxy.shut()
            with pytest.raises(ServerError, match="connection failed"):
                await probe_binary(client, "base")
            await client.close()
            return found

    assert asyncio.run(main()) is False


@pytest.fixture
def started(tmp_path):
    """Starts one server with the route open; `folder` is its model."""
    folder = make_model(tmp_path / "teacher", seed=2, layers=2)
    servers = []

    def start(**changes):
        spec = tiny_spec("teacher", folder, tmp_path, score_given=True, max_logprobs=16, **changes)
        servers.append(ManagedServer(spec))
        asyncio.run(servers[-1].start(quiet))
        return SimpleNamespace(socket=servers[-1].socket, folder=folder)

    yield start
    for server in servers:
        asyncio.run(server.stop())


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
def test_a_server_without_the_gpu_runner_says_no_and_keeps_serving(started):
    """It takes the flag, refuses the request, and goes on with as many ids a position as it was started for."""
    server = started()
    request = ScoreRequest(tuple(range(6, 40)), 5)

    async def work(client):
        assert not await probe_binary(client, "base")
        teacher = VLLMTeacher(client, context_window=WINDOW, max_logprobs=16, binary=True)
        with pytest.raises(RunFailed, match="V2 model runner"):
            await teacher.score([request])
        teacher.ask_for("base", binary=await probe_binary(client, "base"))
        (scored,) = await teacher.score([request])
        (scores,) = await teacher.top([request], 16)
        return scored, scores

    scored, scores = with_client(server.socket, work)
    truth = log_softmax_of(server.folder, request)
    assert_same([scored], [truth.gather(1, torch.tensor(request.ids[5:])[:, None])[:, 0].tolist()])
    np.testing.assert_allclose(scores.logprobs_NK, truth.topk(16).values, atol=TOLERANCE)


@pytest.mark.gpu
@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
def test_on_a_gpu_binary_scores_are_those_of_the_json_form(started):
    """One request at a time, so that both forms compute the same batches."""
    server = started(on_gpu=True, dtype="bfloat16", gpu_memory_utilization=0.2)
    requests = make_requests()

    async def work(client):
        assert await probe_binary(client, "base")
        teacher = VLLMTeacher(client, context_window=WINDOW, tokens_in_flight=1)
        json_form = await teacher.score(requests)
        teacher.ask_for("base", binary=True)
        return json_form, await teacher.score(requests)

    json_form, binary_form = with_client(server.socket, work)
    assert_same(binary_form, json_form, 0.05)
