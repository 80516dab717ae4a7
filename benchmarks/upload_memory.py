"""The web process's memory while a large adapter comes in through the form.

    python -m benchmarks.upload_memory [--megabytes 300] [--uploads 3]

Starts the real site (`manage.py serve`, as `make run` does) on a free port with a folder of its
own, signs in as its demo user, and uploads a LoRA adapter of random numbers through the form, both
steps: as two files, then another one as a zip of them. A sampler reads /proc/PID/smaps_rollup of
every web process 20 times a second. The first upload is a small one: what Python loads when a form
is first used is not the upload's.
"""

from __future__ import annotations

import argparse
import http.client
import http.cookiejar
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
BOUNDARY = "----upload-memory"
CHUNK = 1 << 20
PATIENCE = 300
MINIMAL = {"DEMO": "false", "OMP_NUM_THREADS": "1"}


class Site:
    """The site on a folder of its own, and a browser's cookies."""

    def __init__(self, var: Path, settings: Mapping[str, str] = MINIMAL) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.var = var
        environment = {
            **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
            "VAR_DIR": str(var), "PORT": str(self.port), "HOST": "127.0.0.1",
            "ENV_FILE": os.devnull, **settings,
        }  # fmt: skip
        self.log = var.parent / "serve.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"], cwd=ROOT, env=environment, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )
        self.address = f"http://127.0.0.1:{self.port}"
        until = time.monotonic() + PATIENCE
        while "is ready" not in self.log.read_text():
            if time.monotonic() > until or self.process.poll() is not None:
                raise SystemExit(f"The site did not start:\n{self.log.read_text()}")
            time.sleep(0.3)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def get(self, path: str) -> str:
        return self.opener.open(self.address + path, timeout=60).read().decode()

    def post(self, path: str, fields: dict[str, str]) -> str:
        fields["csrfmiddlewaretoken"] = self.token(self.get(path))
        data = urllib.parse.urlencode(fields).encode()
        return self.opener.open(self.address + path, data, timeout=60).geturl()

    def token(self, page: str) -> str:
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert found is not None, page
        return found[1]

    def sign_in(self) -> None:
        password = re.search(r"with the password (\S+)", self.log.read_text())
        assert password is not None
        self.post("/accounts/login/", {"login": "demo", "password": password[1]})

    def upload(self, files: list[Path], name: str) -> None:
        """Both steps of the form; the first streams the files, as a browser does."""
        token = self.token(self.get("/upload/"))
        parts = [(None, "csrfmiddlewaretoken", token.encode())]
        parts += [(path.name, "files", path) for path in files]
        head = {
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Length": str(sum(len(chunk) for chunk in _body(parts))),
            "Cookie": "; ".join(f"{c.name}={c.value}" for c in self.cookies),
        }
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        line.request("POST", "/upload/", _body(parts), head)
        answer = line.getresponse()
        where = answer.headers.get("Location", "")
        assert answer.status == 302, answer.read().decode()
        token = urllib.parse.parse_qs(where.partition("?")[2])["files"][0]
        done = self.post(
            where.partition("?")[0], {"files": token, "name": name, "visibility": "public"}
        )
        assert done.endswith(f"/demo/{name}"), done


def _body(parts: list[tuple[str | None, str, bytes | Path]]) -> Iterator[bytes]:
    for filename, field, value in parts:
        named = f'; filename="{filename}"' if filename else ""
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{named}'.encode()
        yield b"\r\n\r\n"
        if isinstance(value, bytes):
            yield value
        else:
            with value.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        yield b"\r\n"
    yield f"--{BOUNDARY}--\r\n".encode()


def write_adapter(folder: Path, megabytes: float, seed: int) -> None:
    """A plain LoRA of this size: as many layers of 1,024 × 1,024 at rank 64 as it takes."""
    folder.mkdir()
    r, width = 64, 1024
    layers = max(1, round(megabytes * 1e6 / (2 * r * width * 4)))
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        key = f"base_model.model.layers.{layer}.q_proj"
        for factor, shape in (("A", (r, width)), ("B", (width, r))):
            tensors[f"{key}.lora_{factor}.weight"] = draw.standard_normal(shape, dtype=np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": r, "lora_alpha": 128, "target_modules": ["q_proj"],
        "base_model_name_or_path": "nobody/some-model", "task_type": "CAUSAL_LM", "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def zipped(folder: Path, packed: Path) -> Path:
    """As a folder's zip comes from a desktop: compressed, though weights hardly shrink."""
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    return packed


class Sampler(threading.Thread):
    """RSS and PSS of the web processes, all of them together, in MB."""

    def __init__(self, supervisor: int) -> None:
        super().__init__(daemon=True)
        self.pids = _web_processes(supervisor)
        self.peak = (0.0, 0.0)
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.05):
            now = self.now()
            self.peak = (max(self.peak[0], now[0]), max(self.peak[1], now[1]))

    def now(self) -> tuple[float, float]:
        sums = {"Rss": 0, "Pss": 0}
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, value = line.split()[:2]
                if name[:-1] in sums:
                    sums[name[:-1]] += int(value)
        return sums["Rss"] * 1024 / 1e6, sums["Pss"] * 1024 / 1e6


def _web_processes(supervisor: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_web = b"gunicorn" in path.read_bytes()
            pid = int(path.parent.name)
            if is_web and supervisor in _ancestors(pid):
                found.append(pid)
        except OSError:
            continue
    return found


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--uploads", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="upload-memory-") as folder:
        site = Site(Path(folder) / "var")
        try:
            measure(site, Path(folder), given.megabytes, given.uploads)
        finally:
            site.stop()


def measure(site: Site, folder: Path, megabytes: float, uploads: int) -> None:
    site.sign_in()
    write_adapter(folder / "first", 0.5, seed=0)
    site.upload(sorted((folder / "first").iterdir()), "first")
    both = "before / peak / after, MB"
    print(f"| upload | size, MB | seconds | RSS {both} | PSS {both} |")
    print("|---|---:|---:|---:|---:|")
    for number in range(1, uploads + 1):
        for way in ("files", "zip"):
            adapter = folder / f"{way}-{number}"
            write_adapter(adapter, megabytes, seed=2 * number + (way == "zip"))
            sent = sorted(adapter.iterdir())
            if way == "zip":
                sent = [zipped(adapter, folder / f"{number}.zip")]
            said = one(site, sent, f"large-{way}-{number}")
            print(f"| {number}, {way} | {said} |", flush=True)
            shutil.rmtree(adapter)


def one(site: Site, sent: list[Path], name: str) -> str:
    sampler = Sampler(site.process.pid)
    before = sampler.now()
    sampler.start()
    started = time.monotonic()
    site.upload(sent, name)
    seconds = time.monotonic() - started
    sampler.done.set()
    sampler.join()
    after = sampler.now()
    size = sum(path.stat().st_size for path in sent) / 1e6
    rss, pss = (f"{before[i]:.0f} / {sampler.peak[i]:.0f} / {after[i]:.0f}" for i in (0, 1))
    return f"{size:.0f} | {seconds:.1f} | {rss} | {pss}"


if __name__ == "__main__":
    main()
