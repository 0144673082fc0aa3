"""A whole run behind servers of its own: killed in the middle of a batch, it ends as if nothing had happened."""

import asyncio
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from served_runs import STEPS, assert_complete, assert_same, processes_with, run, write_project

from rnow_core.models.vllm_http import VLLMClient

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


def signal_server(model: Path, number: signal.Signals) -> None:
    """Send a signal to all processes of the server of a model folder, but not to its guardian."""
    for pid in processes_with(str(model)):
        if "guardian" not in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
            os.killpg(os.getpgid(pid), number)
            return
    raise AssertionError(f"no server of {model} is running")


class Killer:
    """Counts the requests that are on their way, and ends each server while some are.

    The student's goes in step 2, when it has answered two of its rollouts. The teacher's is halted before step 3,
    and goes when three requests for scores wait there.
    """

    def __init__(self, project: Path) -> None:
        self._models = {role: project / role for role in ("student", "teacher")}
        self.pending: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.killed: dict[str, int] = {}
        self._step = 0

    async def post(self, real, client, path, *arguments, **options):
        """`VLLMClient.post`, watched."""
        role = "student" if "student" in client.endpoint.role else "teacher"
        if "lora" in path:
            return await real(client, path, *arguments, **options)
        self.pending[role] += 1
        if self._step == 2 and role == "teacher" and self.pending[role] == 3:
            asyncio.get_running_loop().call_later(0.5, self._kill, role)
        try:
            return await real(client, path, *arguments, **options)
        finally:
            self.pending[role] -= 1
            self.answered[role] += 1
            if self._step == 1 and role == "student" and self.answered[role] == 2:
                self._kill(role)

    def on_event(self, event) -> None:
        """Follow the steps that are done."""
        if event.kind == "step":
            self._step = event.fields["step"]
            self.answered.clear()
            if self._step == 2:
                signal_server(self._models["teacher"], signal.SIGSTOP)

    def _kill(self, role: str) -> None:
        signal_server(self._models[role], signal.SIGKILL)
        self.killed[role] = self.pending[role]


def test_servers_killed_in_the_middle_of_a_batch(
    undisturbed, vllm_student, vllm_teacher, tmp_path, monkeypatch
):
    for role, served in (("student", vllm_student), ("teacher", vllm_teacher)):
        shutil.copytree(served.model_folder, tmp_path / role)
    project = write_project(tmp_path, rollout={"engine": "vllm"})
    killer, post = Killer(project), VLLMClient.post
    monkeypatch.setattr(VLLMClient, "post", lambda client, *a, **k: killer.post(post, client, *a, **k))

    ran = run(project, "killed", on_event=killer.on_event)
    assert killer.killed["student"] >= 1
    assert killer.killed["teacher"] >= 3
    assert_complete(ran, STEPS)
    assert all(check["passed"] for check in ran.of("check"))
    assert_same(ran, undisturbed)
    for role in ("student", "teacher"):
        assert (ran.folder / "logs" / f"{role}-server.log").read_text().count("--- start") == 2
    assert processes_with(str(tmp_path)) == []
