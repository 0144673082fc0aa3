"""Suite-wide rules: GPU tests run only where there is a GPU; under CI every other skip is a failure."""

import os

import pytest

pytest_plugins = ["vllm_fixtures", "container_fixtures"]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(config, items):
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not _has_gpu():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _unexpected_skips(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    return [report for report in skipped if "gpu" not in report.keywords]


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"{len(skipped)} TESTS WERE SKIPPED", sep="!")
        for report in skipped:
            terminalreporter.line(f"skipped: {report.nodeid}: {report.longrepr[2]}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        os.environ.get("CI") == "true"
        and reporter is not None
        and exitstatus == 0
        and _unexpected_skips(reporter)
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
