"""What `deploy/` says of the server, as far as it can be run without a container engine: each file is read by the
program it is for, where that is installed, and what it starts is a command that we know."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from penjing.cli import app
from penjing.serving.server import listen

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
UNIT = ROOT / "deploy" / "systemd" / "penjing.service"
KUBERNETES = ROOT / "deploy" / "kubernetes" / "serving.yaml"


def options_of(arguments: list[str]) -> dict[str, Any]:
    """What our own command line understands of a command's arguments; an unknown option is an error."""
    command, *rest = arguments
    return typer.main.get_command(app).commands[command].make_context(command, rest).params


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, comments and line ends taken away."""
    text = re.sub(r"(?m)^#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"))
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]  # type: ignore[misc]


def stages() -> list[list[tuple[str, str]]]:
    starts = [n for n, (name, _) in enumerate(instructions()) if name == "FROM"]
    return [instructions()[a:b] for a, b in itertools.pairwise([*starts, None])]


def test_the_image_is_small_not_roots_and_says_how_it_is():
    """Two stages: what builds stays behind. Tags are fixed, the user has a number, health is asked, none is root."""
    build, final = stages()
    for stage in (build, final):
        assert re.fullmatch(r"python:3\.\d+-slim-\w+( AS build)?", stage[0][1])
    known = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"}
    assert {name for name, _ in build + final} <= known | {"ENTRYPOINT", "CMD"}
    names = [name for name, _ in final]
    assert dict(final)["USER"] == "10001:10001"
    assert names.index("USER") > max(n for n, name in enumerate(names) if name in ("RUN", "COPY"))
    assert [argument for name, argument in final if name == "COPY"] == ["--from=build /opt/penjing /opt/penjing"]
    assert not any(word in argument for _, argument in build + final for word in ("curl", "sudo", "chmod 777", "ADD"))
    assert json.loads(dict(final)["ENTRYPOINT"]) == ["penjing"]
    assert json.loads(dict(final)["CMD"])[0] == "serve"


def test_the_image_holds_what_the_build_needs_and_nothing_else():
    """Every file that is copied is let in by the ignore file, which begins with leaving everything out."""
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [argument.split()[:-1] for name, argument in stages()[0] if name == "COPY"]
    assert {place.removeprefix("./") for places in copied for place in places} == let_in
    assert all((ROOT / place).exists() for place in let_in)


class _Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_images_health_check_tells_a_healthy_server_from_others(status, healthy):
    """The very command of the Dockerfile, but for the port: ready, not ready, nobody there."""
    (check,) = [argument for name, argument in stages()[1] if name == "HEALTHCHECK"]
    program, option, code = json.loads(check[check.index("[") :])
    assert (program, option) == ("python", "-c")
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Health,), {"status": status})) as server:
        thread = threading.Thread(target=server.serve_forever)
        if status is None:
            server.server_close()
        else:
            thread.start()
        try:
            with pytest.raises((SystemExit, OSError)) as ended:  # python -c ends with 1 after an OSError
                exec(code.replace(":8000/", f":{server.server_port}/"), {})
        finally:
            if status is not None:
                server.shutdown()
                thread.join()
    assert (getattr(ended.value, "code", 1) == 0) is healthy


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def test_the_composed_parts_fit_together(compose):
    services = compose["services"]
    assert set(services) == {"page", "balancer", "vllm"}
    options = options_of(services["page"]["command"])
    assert options["backend"] is not None
    assert options["host"] == "0.0.0.0"
    assert services["balancer"]["volumes"] == ["./balancer.conf:/etc/nginx/nginx.conf:ro"]
    configuration = (DOCKER / "balancer.conf").read_text(encoding="utf-8")
    assert "openai:http://balancer:8080/v1" in services["page"]["command"]
    assert "listen 8080;" in configuration
    assert "server vllm:8000 resolve" in configuration
    for name, service in services.items():
        for needed, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[needed]
        assert service["restart"] == "unless-stopped"
        assert "no-new-privileges:true" in service["security_opt"]
        assert set(service["networks"]) <= set(compose["networks"])
        assert ("ports" in service) is (name == "page")
    assert compose["networks"]["inside"]["internal"] is True
    assert services["page"]["ports"][0].startswith("${PENJING_ADDRESS:-127.0.0.1:8000}")
    data = {volume.split(":")[0] for volume in services["page"]["volumes"]}
    assert data == set(compose["volumes"])
    assert services["page"]["read_only"] is services["balancer"]["read_only"] is True


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_the_balancer_streams_and_passes_over_an_engine_that_is_down(tmp_path):
    """nginx itself, with the file as it is but for the machines' names: two engines, of which one does not run."""
    from penjing.inference.chat_model import Text
    from penjing.inference.remote import Endpoint, OpenAIChatModel
    from tests.inference.fake_openai import answering

    asked = []

    class Engine(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            asked.append((json.loads(body)["messages"][0]["content"], self.headers["connection"]))
            answer = answering("one", "two")
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as engine, listen("127.0.0.1", 0) as nobody:
        with listen("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        silent = nobody.getsockname()[1]
        nobody.close()
        thread = threading.Thread(target=engine.serve_forever)
        thread.start()
        servers = f"server 127.0.0.1:{silent} max_fails=2; server 127.0.0.1:{engine.server_port}"
        text = (DOCKER / "balancer.conf").read_text(encoding="utf-8")
        text = text.replace("server vllm:8000 resolve max_fails=2 fail_timeout=10s", servers)
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{tmp_path}/")
        text = re.sub(r"resolver .*;", "", text).replace("worker_processes auto;", "worker_processes 1; daemon off;")
        (tmp_path / "nginx.conf").write_text(text)
        nginx = subprocess.Popen(["nginx", "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")])
        try:
            chat = OpenAIChatModel(Endpoint(f"http://127.0.0.1:{port}/v1", "m", attempts=8))
            for number in range(4):
                pieces = list(chat.stream([{"role": "user", "content": str(number)}]))
                assert pieces[:2] == [Text("one"), Text("two")]
            chat.close()
        finally:
            nginx.terminate()
            nginx.wait()
            engine.shutdown()
            thread.join()
    assert [question for question, _ in asked] == ["0", "1", "2", "3"]  # each once
    assert {connection for _, connection in asked} == {None}  # kept open for the next


def unit() -> list[tuple[str, str]]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("=", 1)) for line in lines if "=" in line and not line.startswith("#")]  # type: ignore[misc]


def test_the_services_command_is_ours():
    settings = dict(unit())
    command = settings["ExecStart"].replace("${PENJING_MODEL}", "/srv/penjing/model").replace("$PENJING_OPTIONS", "")
    program, *arguments = shlex.split(command)
    assert program.endswith("/bin/penjing")
    options_of(arguments)
    public = "--host 0.0.0.0 --keys /var/lib/penjing/keys.json"
    assert public in UNIT.read_text(encoding="utf-8")
    assert options_of([*arguments, *public.split()])["host"] == "0.0.0.0"
    assert settings["Type"] == "notify"  # `serving.server.tell_systemd` does
    assert settings["DynamicUser"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_service_and_little_exposed(tmp_path):
    """`systemd-analyze verify` says nothing; its `security` gives at most 3 of 10 ("OK" is up to 4.9)."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/penjing/bin/penjing", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(copy)]
    rated = subprocess.run(command, capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))


def of_kind(manifests, kind: str) -> dict[str, Any]:
    return {found["metadata"]["name"]: found for found in manifests if found["kind"] == kind}


def test_the_manifests_are_of_kubernetes_schemas(manifests):
    """Against the published schemas, strictly: a field that Kubernetes would drop is an error."""
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests:
        validate.validate(manifest, validate.latest_version(), strict=True)
    broken = {**manifests[1], "spec": {**manifests[1]["spec"], "replica": 2}}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, validate.latest_version(), strict=True)


def test_the_pods_are_found_by_what_selects_them(manifests):
    pods = {name: found["spec"]["template"] for name, found in of_kind(manifests, "Deployment").items()}
    for name, found in of_kind(manifests, "Deployment").items():
        assert found["spec"]["selector"]["matchLabels"] == pods[name]["metadata"]["labels"]
    for name, service in of_kind(manifests, "Service").items():
        assert service["spec"]["selector"] == pods[name]["metadata"]["labels"]
        (container,) = pods[name]["spec"]["containers"]
        assert service["spec"]["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    for name, budget in of_kind(manifests, "PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == pods[name]["metadata"]["labels"]
    policy = of_kind(manifests, "NetworkPolicy")["engine"]["spec"]
    assert policy["podSelector"]["matchLabels"] == pods["engine"]["metadata"]["labels"]
    (rule,) = of_kind(manifests, "Ingress")["page"]["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] in of_kind(manifests, "Service")


def test_the_pages_pods_run_our_command_are_not_roots_and_have_time_to_end(manifests):
    pod = of_kind(manifests, "Deployment")["page"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = options_of(container["args"])
    assert options["host"] == "0.0.0.0"
    port = of_kind(manifests, "Service")["engine"]["spec"]["ports"][0]["port"]
    assert container["args"][2] == f"openai:http://engine:{port}/v1"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"{pod['securityContext']['runAsUser']}:" in dict(stages()[1])["USER"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    from penjing.serving.server import _GRACE

    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before + _GRACE
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    strategy = of_kind(manifests, "Deployment")["page"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
