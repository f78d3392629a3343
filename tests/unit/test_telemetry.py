"""Tests that telemetry of dependencies is off before they are imported."""

import os
import subprocess
import sys

import pytest

OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}


def seen(name: str, environment: dict[str, str]) -> str:
    code = f"import fl_sim, os; print(os.environ[{name!r}])"
    call = [sys.executable, "-c", code]
    return subprocess.run(
        call, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("name", OFF)
def test_telemetry_is_off_unless_a_user_says_otherwise(name: str) -> None:
    plain = {key: value for key, value in os.environ.items() if key not in OFF}
    assert seen(name, plain) == OFF[name]
    assert seen(name, {**plain, name: "the user's"}) == "the user's"
