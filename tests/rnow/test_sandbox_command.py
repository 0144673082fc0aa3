"""`rnow sandbox ls` and `gc`: with a scripted container program, and with a real one."""

import json
import subprocess
import textwrap

import pytest
from offline_image import IMAGE

from rnow_core.env.sandbox.labels import MARK, OWNER, RUN
from rnow_core.env.sandbox.owner import Owner, this_process


@pytest.fixture
def leftovers(container_engine):
    """Two containers: one of this process, and one whose process has ended."""
    living = this_process()
    ended = Owner(living.machine, living.pid, "long-ago")
    names = {"rnow-cli-test-living": living, "rnow-cli-test-ended": ended}
    for name, owner in names.items():
        labels = [f"{MARK}=container", f"{RUN}=some-run", f"{OWNER}={owner.label}"]
        words = [word for label in labels for word in ("--label", label)]
        command = container_engine.command("create", "--name", name, *words, IMAGE)
        subprocess.run([*command, "true"], check=True, capture_output=True)
    yield names
    for name in names:  # one by one: podman removes nothing when one of several is gone
        subprocess.run(container_engine.command("rm", "--force", name), capture_output=True)


def mine(told):
    return {row["name"]: row for row in told["sandboxes"] if row["name"].startswith("rnow-cli-test-")}


@pytest.mark.container
def test_containers_are_listed_and_those_of_ended_runs_removed(rnow, leftovers):
    told = mine(json.loads(rnow("sandbox", "ls", "--json").out))
    assert {name: (row["run"], row["orphan"]) for name, row in told.items()} == {
        "rnow-cli-test-living": ("some-run", False),
        "rnow-cli-test-ended": ("some-run", True),
    }
    shown = rnow("sandbox", "ls").out
    [line] = [line for line in shown.splitlines() if line.startswith("rnow-cli-test-ended ")]
    assert line.endswith("ended")
    assert "some-run" in line
    assert "rnow sandbox gc removes them" in shown
    done = rnow("sandbox", "gc", "--json")
    assert done.code == 0
    removed = json.loads(done.out)["removed"]
    assert "rnow-cli-test-ended" in removed
    assert "rnow-cli-test-living" not in removed
    assert list(mine(json.loads(rnow("sandbox", "ls", "--json").out))) == ["rnow-cli-test-living"]


def program(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + textwrap.dedent(text))
    (folder / name).chmod(0o755)


@pytest.fixture
def only(tmp_path, monkeypatch):
    """A PATH with nothing on it but what a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("RNOW_SANDBOX_ARGS", raising=False)
    return folder


@pytest.mark.parametrize("command", ["ls", "gc"])
def test_without_a_container_program_the_reasons_are_told(rnow, only, command):
    program(only, "podman", "echo 'no subuid ranges' >&2; exit 125")
    done = rnow("sandbox", command)
    assert done.code == 3
    assert "docker: not installed; podman: no subuid ranges" in done.err
    assert "rnow doctor" in done.err
    assert json.loads(rnow("sandbox", command, "--json").out)["error"]["exit_code"] == 3


def test_both_programs_are_looked_at_and_one_that_is_the_other_once(rnow, only):
    listing = """
        case "$1" in
          info) echo '{info}';;
          ps) echo {name};;
          inspect) echo '[{{"Name": "/{name}", "Config": {{"Image": "i"}}, "State": {{"Status": "running"}}}}]';;
        esac
    """
    program(only, "docker", listing.format(info='{"ServerVersion": "1"}', name="in-docker"))
    program(only, "podman", listing.format(info='{"host": {}}', name="in-podman"))
    told = json.loads(rnow("sandbox", "ls", "--json").out)
    assert [row["name"] for row in told["sandboxes"]] == ["in-docker", "in-podman"]
    assert rnow("sandbox", "gc").out == "nothing to remove\n"
    program(only, "docker", listing.format(info='{"host": {}}', name="in-podman"))
    told = json.loads(rnow("sandbox", "ls", "--json").out)
    assert [row["name"] for row in told["sandboxes"]] == ["in-podman"]


def test_all_takes_those_of_living_runs_too(rnow, only, tmp_path):
    living = json.dumps([{"Name": "/mine", "Config": {"Labels": {OWNER: this_process().label}}}])
    log = tmp_path / "removed"
    program(
        only,
        "docker",
        f"""
        case "$1" in
          info) echo '{{"ServerVersion": "1"}}';;
          ps) echo mine;;
          inspect) echo '{living}';;
          rm) echo "$*" >> {log};;
        esac
        """,
    )
    assert rnow("sandbox", "gc").out == "nothing to remove\n"
    assert not log.exists()
    assert rnow("sandbox", "gc", "--all").out == "removed 1: mine\n"
    assert log.read_text() == "rm --force --volumes mine\n"


def test_none_is_a_sentence_for_people_and_an_empty_list_for_programs(rnow, only):
    program(only, "docker", """[ "$1" = info ] && echo '{"ServerVersion": "1"}'; exit 0""")
    assert rnow("sandbox", "ls").out == "no containers\n"
    assert json.loads(rnow("sandbox", "ls", "--json").out) == {"sandboxes": []}


def test_help_of_the_group(rnow):
    assert rnow("sandbox", "--help").out.count("\n  ls ") == 1
    assert rnow("sandbox", "lst").code == 2
