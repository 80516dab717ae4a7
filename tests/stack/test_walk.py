"""What docker-compose.yml describes, started and used as people use it: by https, through nginx."""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.numpy import load, save

from tests.stack.nginx import free_port
from tests.stack.processes import Stack
from tests.workers import PATIENCE, wait_until

pytestmark = pytest.mark.slow
HOST = "commons.example"  # nobody has this name: it leads to this machine, here and in the client
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LOOK_HERE = f"""
import socket
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: look_up(
    "127.0.0.1" if host in ({HOST!r}, {HOST.encode()!r}) else host, *rest, **more
)
"""
CLIENT = (
    LOOK_HERE
    + """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
name, path = sys.argv[1:]
one = hf_hub_download(name, path)
every = snapshot_download(name)
info = HfApi().model_info(name, files_metadata=True)
sizes = {file.rfilename: file.size for file in info.siblings}
print(json.dumps([one, sorted(p.name for p in Path(every).iterdir()), sizes]))
"""
)


def certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="commons-stack-"))
    folder.chmod(0o755)
    certificate(folder)
    tls_port = free_port()
    settings = {
        "ALLOWED_HOSTS": HOST,
        "SITE_URL": f"https://{HOST}:{tls_port}",
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "TLS_PORT": str(tls_port),
        "NGINX_FRONT": "tls",
        "HUB_ENDPOINT": "http://127.0.0.1:9",
        "JOB_REAPER_MS": "500",
    }
    made = Stack(
        folder,
        settings,
        {
            "secret-key": secrets.token_urlsafe(50) + "\n",
            "database-password": secrets.token_urlsafe(16) + "/@:%\n",  # what addresses escape
            "broker-password": secrets.token_urlsafe(16) + "/@:%\n",
            "tls-certificate": (folder / "certificate.pem").read_text(),
            "tls-key": (folder / "key.pem").read_text(),
        },
    )
    try:
        for name in ("nginx", "worker-cpu"):
            made.start(name)
            made.wait_until_healthy(name)
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


class Visitor:
    """A browser without pictures: pages, forms, cookies."""

    def __init__(self, site: str, ca: Path) -> None:
        self.site, self.session = site, requests.Session()
        self.session.verify = str(ca)
        self.session.trust_env = False

    def get(self, path: str, status: int = 200, **options: Any) -> requests.Response:
        address = path if path.startswith("http") else self.site + path
        answer = self.session.get(address, timeout=PATIENCE, **options)
        assert answer.status_code == status, answer.text[:2000]
        return answer

    def fill_in(self, page: requests.Response, action: str, **values: Any) -> requests.Response:
        """Send the form of this address, with what stands in it and these values."""
        forms = Forms(page)
        data = forms.found[action]
        files = values.pop("files", None)
        answer = self.session.post(
            requests.compat.urljoin(page.url, action),
            data={**data, **values},
            files=files,
            headers={"Referer": page.url},
            timeout=PATIENCE,
        )
        assert answer.status_code in (200, 201), answer.text[:2000]
        return answer


class Forms(HTMLParser):
    """The forms of a page by their address, with the values they come with."""

    def __init__(self, page: requests.Response) -> None:
        super().__init__()
        self.address = page.url
        self.found: dict[str, dict[str, str]] = {}
        self.form: dict[str, str] | None = None
        self.select = ""
        self.feed(page.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        has = dict(attributes)
        if tag == "form":
            self.form = self.found.setdefault(has.get("action") or "", {})
        if self.form is None:
            return
        name, value = has.get("name") or "", has.get("value") or ""
        chosen = has.get("type") not in ("checkbox", "radio") or "checked" in has
        if tag == "input" and name and chosen and has.get("type") != "file":
            self.form[name] = value
        if tag == "select":
            self.select = name
        if tag == "option" and self.select and "selected" in has:
            self.form[self.select] = value
        if tag == "textarea" and name:
            self.form[name] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.form = None
        if tag == "select":
            self.select = ""


@pytest.fixture
def visitor(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Visitor:
    look_up = socket.getaddrinfo

    def here(host: Any, *rest: Any, **more: Any) -> Any:
        return look_up("127.0.0.1" if host == HOST else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    site = stack.services["web"]["environment"]["SITE_URL"]
    return Visitor(site, stack.folder / "certificate.pem")


@pytest.fixture
def member(visitor: Visitor) -> Visitor:
    visitor.name = f"eve-{secrets.token_hex(3)}"  # type: ignore[attr-defined]
    page = visitor.get("/accounts/signup/")
    visitor.fill_in(
        page, "/accounts/signup/", username=visitor.name, password1="correct horse battery"
    )
    assert visitor.name in visitor.get("/accounts/settings/").text
    return visitor


def test_everything_is_well(visitor: Visitor, stack: Stack) -> None:
    def well() -> bool:
        answer = visitor.session.get(f"{visitor.site}/healthz", timeout=PATIENCE)
        return bool(answer.json()["status"] == "ok")

    wait_until(well, "the whole site to be well")
    for name in ("db", "redis", "web", "worker-cpu", "nginx"):
        assert stack.is_healthy(name), name


def test_cookies_and_pages_are_for_https_alone(visitor: Visitor, stack: Stack) -> None:
    visitor.get("/accounts/login/")
    assert [cookie.secure for cookie in visitor.session.cookies] == [True]
    plain = f"http://{HOST}:{stack.services['nginx']['ports'][0]['published']}/modules/"
    answer = visitor.session.get(plain, allow_redirects=False, timeout=PATIENCE)
    assert (answer.status_code, answer.headers["Location"]) == (301, f"https://{HOST}/modules/")


def test_no_secret_is_in_an_environment_or_a_command_line(stack: Stack) -> None:
    values = [path.read_text().strip() for path in (stack.folder / "secrets").iterdir()]
    assert len(values) == 5
    for name, process in stack.processes.items():
        for part in ("environ", "cmdline"):
            path = Path(f"/proc/{process.pid}/{part}")
            seen = path.read_bytes().decode(errors="replace") if path.exists() else ""
            assert not [value for value in values if value in seen], (name, part)


def test_who_asks_by_another_name_is_refused(visitor: Visitor) -> None:
    visitor.get("/", status=400, headers={"Host": "evil.example"})


def an_adapter(visitor: Visitor) -> dict[str, bytes]:
    """The files of a LoRA that nobody has yet: a demo module's, each factor a little larger."""
    name = visitor.get("/api/v1/modules/?page_size=1").json()["results"][0]["name"]
    files = zipfile.ZipFile(io.BytesIO(visitor.get(f"/{name}/download.zip").content))
    factor = np.float32(1 + secrets.randbelow(1000) / 10_000)
    tensors = {key: value * factor for key, value in load(files.read(WEIGHTS)).items()}
    return {CONFIG: files.read(CONFIG), WEIGHTS: save(tensors)}


def test_from_signing_up_to_a_module_that_the_stock_client_downloads(
    member: Visitor, stack: Stack, tmp_path: Path
) -> None:
    files = an_adapter(member)
    page = member.fill_in(
        member.get("/upload/"), "", files=[("files", item) for item in files.items()]
    )
    assert "?files=" in page.url, page.text[:2000]
    member.fill_in(page, "/upload/", name="contrary", description="Contrary words.")
    name = f"{member.name}/contrary"  # type: ignore[attr-defined]

    def is_ready() -> bool:
        status: str = member.get(f"/api/v1/modules/{name}/").json()["status"]
        assert status in ("checking", "ready"), status
        return status == "ready"

    wait_until(is_ready, "the worker to check the module")

    address = f"/{name}/resolve/main/{WEIGHTS}"
    whole = member.get(address)
    assert whole.content == files[WEIGHTS]
    part = member.get(address, status=206, headers={"Range": "bytes=10-99"})
    assert part.content == files[WEIGHTS][10:100]
    assert part.headers["Content-Range"] == f"bytes 10-99/{len(files[WEIGHTS])}"
    assert part.headers["ETag"] == whole.headers["ETag"]
    assert "X-Accel-Redirect" not in whole.headers

    environment = stack.environment("web") | {
        "HF_ENDPOINT": member.site,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "SSL_CERT_FILE": str(stack.folder / "certificate.pem"),
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, name, WEIGHTS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    one, every, sizes = json.loads(done.stdout)
    assert Path(one).read_bytes() == files[WEIGHTS]
    assert every == sorted(sizes)
    assert sizes[WEIGHTS] == len(files[WEIGHTS])


def test_a_composition_ends_with_an_adapter(member: Visitor) -> None:
    home = member.get("/")
    [action, *_] = re.findall(r'action="(/try/[^"]+)"', home.text)
    job = member.fill_in(home, action)
    [pk] = re.findall(r"/jobs/([0-9a-f-]{36})/", job.url)

    def is_over() -> bool:
        found = member.get(f"/api/v1/jobs/{pk}/").json()
        assert found["state"] in ("queued", "running", "done"), found
        return found["state"] == "done"

    wait_until(is_over, "the composition", patience=3 * PATIENCE)
    assert 'class="sentence"' in member.get(job.url).text
    archive = member.get(f"/jobs/{pk}/adapter.zip")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        assert files.testzip() is None
        tensors = load(files.read(WEIGHTS))
        assert json.loads(files.read(CONFIG))["peft_type"] == "LORA"
    assert tensors and all(np.isfinite(tensor).all() for tensor in tensors.values())


def test_as_many_slow_uploads_as_threads_do_not_hold_the_site(
    visitor: Visitor, stack: Stack
) -> None:
    """Two processes of 16 threads: 32 requests that never become whole would be all of them."""
    context = ssl.create_default_context(cafile=str(stack.folder / "certificate.pem"))
    port = int(visitor.site.rpartition(":")[2])
    head = f"POST /upload/ HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Length: 1000000\r\n\r\n"
    slow = []
    for _ in range(32):
        line = socket.create_connection(("127.0.0.1", port))
        slow.append(context.wrap_socket(line, server_hostname=HOST))
        slow[-1].sendall(head.encode() + b"only so much")
    for _ in range(5):
        visitor.get("/modules/")
    for client in slow:
        client.close()


def test_without_web_static_files_stay_and_pages_say_when_to_come_back(
    visitor: Visitor, stack: Stack
) -> None:
    [style, *_] = re.findall(r'href="(/static/[^"]+\.css)"', visitor.get("/").text)
    assert stack.end("web") == 0
    answer = visitor.get(style)
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "Try again" in visitor.get("/", status=503).text
    assert not stack.is_healthy("web")
    stack.start("web")
    stack.wait_until_healthy("web")
    visitor.get("/")
