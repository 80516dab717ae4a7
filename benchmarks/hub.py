"""Downloads and uploads by the stock client, beside a static server; pages while others download.

    python -m benchmarks.hub [--rounds 8] [--sizes 1 20 200]

Starts the real site (`manage.py serve`, as `make run` does) on a folder of its own, and an nginx
that sends the same files: the limit, since it does nothing else. Every transfer is a process of its
own with huggingface_hub, which measures the time of the call and its own memory at the peak; a
sampler reads the memory of the site's web processes meanwhile. Site and nginx take turns.

Then somebody opens one page after the other: alone, while as many clients as the site has threads
download from nginx, while they download from the site, and while as many slow lines do.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.upload_memory import Sampler, Site

REPO = "demo/bench"
AT_ONCE, LARGE, SECONDS = 32, 20, 8
PAGES = ("/", "/modules/", "/modules/?q=bench", f"/{REPO}", "/recipes/")
BOTH = "before / peak, MB"
CLIENT = """
import json, os, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import disable_progress_bars
disable_progress_bars()
repo, what, way, count = sys.argv[1:]
api = HfApi()
def fetch(name, n=0):
    return hf_hub_download(repo, name, cache_dir=f"cache-{n}")
def send(source):
    return api.upload_file(repo_id=repo, path_or_fileobj=source, path_in_repo="up.gz")
def run():
    if way == "upload":
        return send(what)
    with ThreadPoolExecutor(int(count)) as pool:
        return list(pool.map(fetch, [what] * int(count), range(int(count))))
send(os.urandom(1000)) if way == "upload" else fetch("warm.gz")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
before, began = peak(), time.perf_counter()
run()
print(json.dumps([time.perf_counter() - began, before, peak()]))
"""
FILL = """
import sys
from huggingface_hub import HfApi
repo, folder = sys.argv[1:]
HfApi().create_repo(repo)
HfApi().upload_folder(repo_id=repo, folder_path=folder)
"""
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; user {user};
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; default_type application/octet-stream;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{port}; root {folder}/root;
        add_header X-Repo-Commit {commit};
    }}
}}
"""


@dataclass
class Figures:
    """Of one kind of transfer: seconds, and memory before and at the peak of both sides."""

    seconds: list[float] = field(default_factory=list)
    client: list[list[float]] = field(default_factory=list)
    site: list[list[float]] = field(default_factory=list)

    def rate(self, megabytes: float) -> float:
        return megabytes / statistics.median(self.seconds)

    def memory(self) -> str:
        """Client, then site."""
        sides = (zip(*side, strict=True) for side in (self.client, self.site))
        shown = [" / ".join(f"{statistics.median(c):.0f}" for c in columns) for columns in sides]
        return " | ".join(text or "–" for text in shown)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = Site(folder / "var")
        self.site.sign_in()
        fields = {"name": "bench", "scope": "write"}
        fields["csrfmiddlewaretoken"] = self.site.token(self.site.get("/accounts/tokens/"))
        data = urllib.parse.urlencode(fields).encode()
        answer = self.site.opener.open(f"{self.site.address}/accounts/tokens/", data)
        self.token = re.findall(r"lc_[A-Za-z0-9_-]{20,}", answer.read().decode())[0]

    def python(self, endpoint: str, code: str, *words: str, **environment: str) -> str:
        """What a new process with the client prints; its files are gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            kept = {"PATH": os.environ["PATH"], "HOME": place, "HF_HOME": place}
            kept |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": self.token}
            kept |= {"HF_HUB_DISABLE_TELEMETRY": "1"} | environment
            done = subprocess.run(
                [sys.executable, "-c", code, *words], cwd=place, env=kept,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout

    def transfer(
        self, endpoint: str, what: str, way: str, count: int = 1, **environment: str
    ) -> list[float]:
        """Seconds, and the client's memory before and at the peak."""
        found: list[float] = json.loads(
            self.python(endpoint, CLIENT, REPO, what, way, str(count), **environment)
        )
        return found

    def measure(
        self, figures: Figures, endpoint: str, what: str, way: str, **environment: str
    ) -> None:
        with watched(self.site) as memory:
            seconds, *client = self.transfer(endpoint, what, way, **environment)
        figures.seconds.append(seconds)
        figures.client.append(client)
        if endpoint == self.site.address:
            figures.site.append(memory)

    def new_file(self, megabytes: int, path: Path) -> Path:
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1_000_000))
        return path

    def fill(self, files: Path, sizes: list[int]) -> None:
        """The same files in the repo and beside it."""
        for size in sizes:
            self.new_file(size, files / f"{size}.gz")
        (files / "warm.gz").write_bytes(os.urandom(1000))
        self.python(self.site.address, FILL, REPO, str(files))


@contextmanager
def watched(site: Site) -> Iterator[list[float]]:
    """The memory of the site's web processes: before, and at the end the peak too."""
    sampler = Sampler(site.process.pid)
    memory = [sampler.now()[0]]
    sampler.start()
    yield memory
    sampler.done.set()
    sampler.join()
    memory.append(sampler.peak[0])


@contextmanager
def nginx(folder: Path, files: Path) -> Iterator[str]:
    """A static server with the repo's files at the addresses that clients ask for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = folder / "root" / REPO / "resolve"
    place.mkdir(parents=True)
    (place / "main").symlink_to(files)
    config = folder / "nginx.conf"
    user = pwd.getpwuid(os.geteuid()).pw_name
    config.write_text(NGINX.format(folder=folder, port=port, user=user, commit="0" * 40))
    process = subprocess.Popen(
        ["nginx", "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


# --- the tables --------------------------------------------------------------------------------


def uploads(bench: Bench, sizes: list[int], rounds: int) -> None:
    ways = {"as it is": {}, "without hf_xet": {"HF_HUB_DISABLE_XET": "1"}}
    print(f"| upload | client | seconds | MB/s | client {BOTH} | site {BOTH} |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    for size in sizes:
        found = {way: Figures() for way in ways}
        for _ in range(rounds):
            for way, environment in ways.items():
                path = bench.new_file(size, bench.folder / "up.gz")  # another one each time
                bench.measure(found[way], bench.site.address, str(path), "upload", **environment)
        for way, figures in found.items():
            print(
                f"| {size} MB | {way} | {statistics.median(figures.seconds):.2f} "
                f"| {figures.rate(size):.0f} | {figures.memory()} |",
                flush=True,
            )


def downloads(bench: Bench, static: str, sizes: list[int], rounds: int) -> None:
    print(f"\n| download | from | seconds | MB/s | of nginx | client {BOTH} | site {BOTH} |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    ends = {"the site": bench.site.address, "nginx": static}
    for size in sizes:
        found = {name: Figures() for name in ends}
        for n in range(rounds):
            for name in sorted(ends, reverse=bool(n % 2)):
                bench.measure(found[name], ends[name], f"{size}.gz", "download")
        for name, figures in found.items():
            rate = figures.rate(size)
            print(
                f"| {size} MB | {name} | {statistics.median(figures.seconds):.3f} | {rate:.0f} "
                f"| {rate / found['nginx'].rate(size):.2f} | {figures.memory()} |",
                flush=True,
            )


class Browser(threading.Thread):
    """Somebody who opens one page after the other."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site, self.seconds, self.done = site, [0.0], threading.Event()
        self.seconds.clear()

    def run(self) -> None:
        while not self.done.is_set():
            for page in PAGES:
                began = time.perf_counter()
                urllib.request.urlopen(self.site.address + page, timeout=300).read()
                self.seconds.append(time.perf_counter() - began)
                time.sleep(0.02)


def browsing(bench: Bench, static: str) -> None:
    print(f"\n| {AT_ONCE} downloads | pages | p50, ms | p95, ms | MB/s | site {BOTH} |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    ours, wanted = bench.site.address, (f"{LARGE}.gz", "download", AT_ONCE)
    for name, load in (
        ("none", lambda: time.sleep(SECONDS)),
        (f"of {LARGE} MB, from nginx", lambda: bench.transfer(static, *wanted)),
        (f"of {LARGE} MB, from the site", lambda: bench.transfer(ours, *wanted)),
        ("at 1 MB/s each, from nginx", lambda: slow_lines(static)),
        ("at 1 MB/s each, from the site", lambda: slow_lines(ours)),
    ):
        browser = Browser(bench.site)
        with watched(bench.site) as memory:
            browser.start()
            found = load()
            browser.done.set()
            browser.join()
        rate = f"{AT_ONCE * LARGE / found[0]:.0f}" if found else "–"
        cuts = statistics.quantiles(browser.seconds, n=20)
        print(
            f"| {name} | {len(browser.seconds)} | {cuts[9] * 1000:.0f} | {cuts[18] * 1000:.0f} "
            f"| {rate} | {memory[0]:.0f} / {memory[1]:.0f} |",
            flush=True,
        )


def slow_lines(endpoint: str) -> None:
    """Clients who take a megabyte a second, for some seconds."""
    place = urllib.parse.urlsplit(endpoint)
    asked = f"GET /{REPO}/resolve/main/{LARGE}.gz HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
    lines = []
    for _ in range(AT_ONCE):
        lines.append(socket.create_connection((place.hostname, place.port)))
        lines[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        lines[-1].sendall(asked.encode())
        lines[-1].setblocking(False)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(0.05)
        for line in lines:
            with suppress(BlockingIOError):
                line.recv(50_000)
    for line in lines:
        line.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 20, 200])
    tables = ["uploads", "downloads", "browsing"]
    parser.add_argument("--only", nargs="+", choices=tables, default=tables)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as place:
        folder = Path(place)
        for name in ("files", "nginx"):
            (folder / name).mkdir()
        bench = Bench(folder)
        try:
            bench.fill(folder / "files", sorted({*given.sizes, LARGE}))
            if "uploads" in given.only:
                uploads(bench, given.sizes, max(1, given.rounds // 2))
            with nginx(folder / "nginx", folder / "files") as static:
                if "downloads" in given.only:
                    downloads(bench, static, given.sizes, given.rounds)
                if "browsing" in given.only:
                    browsing(bench, static)
        finally:
            bench.site.stop()
            shutil.rmtree(folder / "var", ignore_errors=True)
    print(f"\n{os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after.")


if __name__ == "__main__":
    main()
