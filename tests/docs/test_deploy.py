"""compose.yaml, Containerfile and what stands in docs/deploy fit together, and name settings and metrics that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import AliasChoices

from feature_repo.settings import PROJECT_ROOT
from flows import metrics as flow_metrics
from flows.settings import FlowSettings
from flows.streams import STREAMS
from serving import metrics as scorer_metrics
from serving.settings import ScorerSettings

DEPLOY: Final = PROJECT_ROOT / "docs" / "deploy"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((PROJECT_ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = {name: service for name, service in SERVICES.items() if service["image"] == "millstream"}
KEYS_OF_A_SERVICE: Final = {
    *("image", "build", "command", "environment", "depends_on", "healthcheck", "ports", "volumes", "restart"),
    *(
        "init",
        "read_only",
        "tmpfs",
        "cap_drop",
        "security_opt",
        "user",
        "logging",
        "profiles",
        "stop_grace_period",
    ),
}
OF_LIBRARIES: Final = re.compile(r"^(GF|KAFKA|CLUSTER|REDIS_PASSWORD)")
"""Variables that somebody else's image reads."""


def given(service: dict[str, Any]) -> dict[str, str]:
    environment: dict[str, str] = service.get("environment", {})
    return environment


def settings_of(model: type[FlowSettings | ScorerSettings]) -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        choices = (
            alias.choices if isinstance(alias, AliasChoices) else [alias or f"MILLSTREAM_{name.upper()}"]
        )
        names |= {str(choice) for choice in choices}
    return names


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="docker compose is not installed",
)
def test_docker_compose_accepts_the_file() -> None:
    secrets = dict.fromkeys(re.findall(r"\$\{(\w+):\?", (PROJECT_ROOT / "compose.yaml").read_text()), "a1")
    subprocess.run(
        ["docker", "compose", "config", "--quiet"], cwd=PROJECT_ROOT, env=os.environ | secrets, check=True
    )


def test_every_service_names_its_command_and_uses_known_keys() -> None:
    for name, service in SERVICES.items():
        assert service.keys() <= KEYS_OF_A_SERVICE, name
        assert re.fullmatch(r"[a-z0-9./-]+(:[\w.-]+)?", service["image"]), name
        assert service.get("restart"), name
        for need, condition in service.get("depends_on", {}).items():
            assert need in SERVICES
            how = condition["condition"]
            assert how in {"service_healthy", "service_completed_successfully"}
            assert how != "service_healthy" or "healthcheck" in SERVICES[need], f"{need} is never healthy"


def test_volumes_are_declared_and_mounted_files_exist() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert (PROJECT_ROOT / source).exists(), f"{name} mounts {source}"
                assert mount.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_every_setting_of_a_container_is_one_its_process_reads(name: str) -> None:
    known = settings_of(ScorerSettings if "serving" in OURS[name]["command"] else FlowSettings)
    assert {v for v in given(OURS[name]) if not OF_LIBRARIES.match(v)} <= known


def test_every_setting_has_a_value_its_process_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in OURS.values():
        with monkeypatch.context() as patch:
            for variable, value in given(service).items():
                value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)  # noqa: PLW2901  its default
                patch.setenv(variable, re.sub(r"\$\{\w+(:\?[^}]*)?\}", "a1", value))
            made = (ScorerSettings if "serving" in service["command"] else FlowSettings)()
            assert made.home == Path("/data")


def test_secrets_come_from_outside_and_none_is_in_the_image() -> None:
    for name, service in SERVICES.items():
        for variable, value in given(service).items():
            if re.search(r"PASSWORD|KEY$|SECRET|TOKEN", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), f"{name}: {variable}"
    ignored = (PROJECT_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*", "all is left out but what is named"
    assert not {"!.env", "!var", "!.git"} & set(ignored)


def test_our_containers_have_no_rights_and_write_to_the_home_only() -> None:
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["volumes"] == ["home:/data"], name
    image = (PROJECT_ROOT / "Containerfile").read_text(encoding="utf-8")
    user = re.findall(r"^USER (\d+):(\d+)$", image, re.MULTILINE)
    assert user
    assert "0" not in user[-1]
    last_stage = image.rpartition("\nFROM ")[2]
    assert last_stage.index("\nUSER") > last_stage.rindex("\nRUN")


def test_only_loopback_is_published() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_every_stream_has_a_flow_and_prometheus_asks_each() -> None:
    flows = {
        service["command"][-1]: name for name, service in OURS.items() if "flows.run" in service["command"]
    }
    assert flows.keys() == STREAMS.keys()
    jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    asked = {target for job in jobs for config in job["static_configs"] for target in config["targets"]}
    port = given(OURS["flow-payments"])["MILLSTREAM_METRICS_PORT"]
    assert {target for target in asked if target.startswith("flow-")} == {
        f"{n}:{port}" for n in flows.values()
    }
    assert any(target.startswith("scorer:") for target in asked)


def test_every_stream_has_a_topic() -> None:
    made = re.findall(r"(\w+):\d+", SERVICES["topics"]["command"][-1].partition("; do")[0])
    assert {f"millstream.{name}" for name in made} == {FlowSettings().kafka_topic(name) for name in STREAMS}


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    known = set(flow_metrics.CATALOGUE) | set(scorer_metrics.CATALOGUE)
    dashboard = json.loads(
        (DEPLOY / "grafana" / "dashboards" / "millstream.json").read_text(encoding="utf-8")
    )
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    asked += [rule["expr"] for rule in rules]
    assert len(asked) > 20
    for expression in asked:
        for metric in re.findall(r"millstream_\w+", expression):
            assert metric.removesuffix("_bucket") in known, metric


def test_files_the_image_copies_are_sent_to_the_builder_and_exist() -> None:
    sent = (PROJECT_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    image = (PROJECT_ROOT / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.+)$", image, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (PROJECT_ROOT / source).exists()
            assert f"!{source}" in sent
