"""The files that make containers, read by the programs that will read them. No engine is needed."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from hub_site.management.commands.serve import WEB_ALLOCATION
from tests.stack.composed import ENOUGH, ROOT, read_compose, run_compose

DOCKERFILE = ROOT / "docker" / "Dockerfile"
TEMPLATES = sorted((ROOT / "docker" / "nginx").glob("*.template"))
OF_THE_SITE = ("prepare", "web", "worker-cpu", "worker-gpu")


@pytest.fixture
def composed(tmp_path: Path) -> dict[str, Any]:
    return read_compose(ENOUGH, tmp_path)


@pytest.mark.parametrize("missing", sorted(ENOUGH))
def test_compose_names_what_is_missing_in_env(tmp_path: Path, missing: str) -> None:
    given = {name: value for name, value in ENOUGH.items() if name != missing}
    done = run_compose(given, tmp_path)
    assert done.returncode != 0
    assert f"set {missing} in .env" in done.stderr


def test_every_container_is_locked_in(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] not in ("", "0", "root"), name
        assert not service.get("privileged"), name


def test_every_container_is_limited_and_looked_after(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert service["healthcheck"].get("disable") or service["healthcheck"]["test"], name
        assert service["logging"] == {"driver": "local"}, name
    disabled = [n for n, s in composed["services"].items() if s["healthcheck"].get("disable")]
    assert disabled == ["prepare"]


def test_only_nginx_can_be_reached_and_database_and_broker_reach_nothing(
    composed: dict[str, Any],
) -> None:
    services = composed["services"]
    assert [name for name, service in services.items() if service.get("ports")] == ["nginx"]
    assert {port["host_ip"] for port in services["nginx"]["ports"]} == {"127.0.0.1"}
    assert composed["networks"]["inside"]["internal"] is True
    for name in ("db", "redis"):
        assert list(services[name]["networks"]) == ["inside"]
    assert list(services["nginx"]["networks"]) == ["outside"]


def test_workers_elsewhere_reach_database_and_broker_on_one_address(tmp_path: Path) -> None:
    more = "docker/reachable.yml"
    found = read_compose(ENOUGH | {"PRIVATE_ADDRESS": "10.0.0.1"}, tmp_path, more)
    for name in ("db", "redis"):
        [port] = found["services"][name]["ports"]
        assert port["host_ip"] == "10.0.0.1"
        assert sorted(found["services"][name]["networks"]) == ["inside", "outside"]
    assert "PRIVATE_ADDRESS" in run_compose(ENOUGH, tmp_path, more).stderr


def test_secrets_come_as_files_alone(composed: dict[str, Any]) -> None:
    for name in OF_THE_SITE:
        environment = composed["services"][name]["environment"]
        given = {key for key, value in environment.items() if value}
        assert not {"SECRET_KEY", "DATABASE_PASSWORD", "BROKER_PASSWORD", "HF_TOKEN"} & given
        assert "@db" not in environment["DATABASE_URL"].replace("commons@db", "")
        for key in given:
            if found := re.fullmatch(r"/run/secrets/([\w-]+)", environment[key]):
                mounted = [each["source"] for each in composed["services"][name]["secrets"]]
                assert found[1] in mounted


def test_a_secret_that_one_has_is_handed_in(tmp_path: Path) -> None:
    found = read_compose(ENOUGH | {"HF_TOKEN_FILE": "./secrets/hf"}, tmp_path)
    assert found["secrets"]["hf-token"]["file"] == str(ROOT / "secrets" / "hf")
    assert found["services"]["web"]["environment"]["HF_TOKEN_FILE"] == "/run/secrets/hf-token"


def test_every_line_of_env_reaches_the_site_but_not_its_places(tmp_path: Path) -> None:
    given = {"MAX_BUDGET": "17", "BLOB_DIR": "/elsewhere", "BEHIND_TLS_PROXY": "false"}
    composed = read_compose(ENOUGH | given, tmp_path)
    for name in OF_THE_SITE:
        environment = composed["services"][name]["environment"]
        assert environment["MAX_BUDGET"] == "17"
        assert environment["BLOB_DIR"] == "/srv/var/blobs"
        assert environment["BEHIND_TLS_PROXY"] == "true"
        assert environment["SITE_URL"] == ENOUGH["SITE_URL"]
    assert "MAX_BUDGET" not in composed["services"]["nginx"]["environment"]


def test_the_web_allocates_as_under_make_run(composed: dict[str, Any]) -> None:
    assert WEB_ALLOCATION.items() <= composed["services"]["web"]["environment"].items()


def test_nginx_finds_what_the_site_leaves_to_it(composed: dict[str, Any]) -> None:
    nginx, web = composed["services"]["nginx"], composed["services"]["web"]
    for name in ("ACCEL_REDIRECT", "BLOB_DIR"):
        assert nginx["environment"][name] == web["environment"][name]
    assert nginx["environment"]["STATIC_DIR"] == f"{web['environment']['VAR_DIR']}/static"
    [store] = [mount for mount in nginx["volumes"] if mount["target"] == "/srv/var"]
    assert store["read_only"] and store["source"] == "site"


def test_nginx_takes_as_much_as_the_site(composed: dict[str, Any], settings: Any) -> None:
    """Files of a module come in one form; what stands around them is less than a megabyte."""
    most = int(composed["services"]["nginx"]["environment"]["MAX_REQUEST_BYTES"])
    assert most >= settings.MAX_MODULE_BYTES + 1_000_000
    assert most >= settings.MAX_FILE_BYTES


def test_every_variable_of_the_templates_is_set(composed: dict[str, Any]) -> None:
    given = set(composed["services"]["nginx"]["environment"])
    used = {name for path in TEMPLATES for name in re.findall(r"\$\{(\w+)\}", path.read_text())}
    assert used and used <= given
    # envsubst knows $NAME, too, and nginx's own names must not be taken for it.
    plain = {name for path in TEMPLATES for name in re.findall(r"\$(\w+)", path.read_text())}
    assert not plain & given


def test_a_worker_with_a_gpu_is_there_when_it_is_asked_for(composed: dict[str, Any]) -> None:
    worker = composed["services"]["worker-gpu"]
    assert worker["profiles"] == ["gpu"]
    assert worker["build"]["target"] == "cuda"
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    others = [n for n, s in composed["services"].items() if "devices" in str(s["deploy"])]
    assert others == ["worker-gpu"]


def test_the_dockerfile_is_in_order() -> None:
    linter = Path(sysconfig.get_path("scripts"), "hadolint")
    done = subprocess.run([str(linter), str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_each_target_of_compose_is_one_of_the_dockerfile(composed: dict[str, Any]) -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    for name in OF_THE_SITE:
        build = composed["services"][name]["build"]
        assert build["target"] in stages
        assert ROOT / build["dockerfile"] == DOCKERFILE
    assert stages[-1] == "cpu"


def test_the_image_holds_what_it_needs_and_nothing_else() -> None:
    """Sources are named one by one, so that no .env and no data can come along."""
    lines = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_versions_are_pinned_where_all_others_are() -> None:
    pinned = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    for name in re.findall(r"/\^([\w-]+)==/", DOCKERFILE.read_text()):
        assert re.search(rf"^{name}==[\d.]+$", pinned, re.MULTILINE), name
    assert re.search(r"^torch==[\d.]+$", pinned, re.MULTILINE)
    assert not re.search(r"pip install(?!.* -r /build/)", DOCKERFILE.read_text())
    images = re.findall(r"^ +image: (\S+)$", (ROOT / "docker-compose.yml").read_text(), re.M)
    for image in images + re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.M):
        assert ":" in image and not image.endswith(":latest"), image
