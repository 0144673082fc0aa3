"""Servers take the conversations, and where they score a teacher's context in front of them."""

import pytest
from tiny import tiny_config

from rnow_core.build.fixed import Fixed
from rnow_core.build.placement import Placement
from rnow_core.build.servers import ServerMaker
from rnow_core.config.schema import Config
from rnow_core.models.vllm_command import server_command

FIXED = Fixed("vllm", "cpu", 1, 2048, False, 0, 4, Placement())


@pytest.mark.parametrize(("teacher", "student_takes"), [("./teacher", 128), ("self", 160)])
def test_the_server_that_scores_takes_the_context_too(tmp_path, teacher, student_takes):
    config = Config.model_validate(tiny_config(teacher={"path": teacher, "context": "think.\n"}))
    maker = ServerMaker(config, FIXED, tmp_path, tmp_path, 128, 160, "float32")
    student = maker.student(())
    roles = [student, maker.teacher(student)]
    assert [role.window for role in roles] == [student_takes, 160]
    assert (roles[0] is roles[1]) == (teacher == "self")


@pytest.mark.parametrize(("teacher", "flags"), [("./teacher", ["20", "64"]), ("self", ["64", "64"])])
def test_the_server_that_scores_gives_as_many_likeliest_ids_as_topk_asks_for(tmp_path, teacher, flags):
    config = Config.model_validate(tiny_config(teacher={"path": teacher}, algorithm={"signal": "topk"}))
    maker = ServerMaker(config, FIXED, tmp_path, tmp_path, 128, 128, "float32")
    student = maker.student(())
    servers = [role.server for role in (student, maker.teacher(student))]
    commands = [server_command(server.spec, tmp_path / "socket") for server in servers]
    assert [command[command.index("--max-logprobs") + 1] for command in commands] == flags
