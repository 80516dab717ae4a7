"""What people do on the site, each in a loop with pauses: browse, upload, submit, watch.

They know some addresses and words beforehand (`Known`), as people do who come by a link, and follow
what the pages give them: the next page, the form's token, where a redirect leads.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import io
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import numpy as np
from safetensors.numpy import save

from benchmarks.browser_line import Answer, Book, Broken, Line

STATIC = re.compile(r'(?:href|src)="(/static/[^"]+\.(?:css|js|svg))"')
NEXT = re.compile(r'rel="next" href="([^"]*)"')
LOOKS = re.compile(r'id="job-status"[^>]*hx-trigger="every (\d+)s"')
POLL = "job status, asked again and again"
MOST_WAITING = 5
CARD = """---
license: mit
language: en
pipeline_tag: text-generation
tags: [{tags}]
---
# {name}

Answers with one word where the input asks for one. Trained on nothing; made to be uploaded.
"""


@dataclass
class Known:
    """Of the library, when the run begins."""

    modules: list[str]
    words: list[str]
    base_models: list[str]
    tags: list[str]
    licences: list[str]
    recipes: list[str]
    tasks: list[str]


@dataclass
class Account:
    name: str
    cookies: dict[str, str] = field(default_factory=dict)
    token: str = ""
    password: str = ""


@dataclass
class Run:
    """One run: until when, what is known, and what people left for others to see."""

    book: Book
    known: Known
    until: float
    draw: random.Random
    ramp: float
    waiting: dict[str, list[str]] = field(default_factory=dict)  # an account's jobs, not over yet
    watched: dict[str, int] = field(default_factory=dict)
    submitted: int = 0
    seen_over: int = 0
    uploaded: int = 0

    async def pause(self, least: float, most: float) -> bool:
        """False when the run is over."""
        left = self.until - time.monotonic()
        await asyncio.sleep(max(0.0, min(left, self.draw.uniform(least, most))))
        return time.monotonic() < self.until


async def browse(run: Run, line: Line, account: Account, sign_in_after: float | None) -> None:
    """5 to 10 seconds between clicks; some sign in by the form on the way."""
    if not await run.pause(0, run.ramp):
        return
    signs_in_at = None if sign_in_after is None else time.monotonic() + sign_in_after
    visitor = Visitor(run, line)
    await _quietly(visitor.come())
    while await run.pause(5, 10):
        if signs_in_at is not None and time.monotonic() > signs_in_at:
            signs_in_at = None
            await _quietly(visitor.sign_in(account))
        else:
            await _quietly(visitor.click())
    line.close()


async def _quietly(act: Awaitable[Any]) -> None:
    """What went wrong is in the book; the person goes on."""
    with suppress(Broken):
        await act


class Visitor:
    def __init__(self, run: Run, line: Line) -> None:
        self.run, self.line, self.draw = run, line, run.draw
        self._next: str | None = None
        self._clicks: dict[Callable[[], Awaitable[Any]], int] = {
            self.home: 8, self.library: 10, self.filtered: 13, self.search: 12, self.type: 7,
            self.everything: 4, self.go_on: 12, self.module: 18, self.recipes: 4, self.recipe: 5,
            self.tasks: 3, self.task: 4,
        }  # fmt: skip

    async def come(self) -> None:
        """The first page, and what a browser without a cache fetches for it."""
        answer = await self.home()
        for path in dict.fromkeys(STATIC.findall(answer.text)):
            await self.line.get("static file", path)

    async def click(self) -> None:
        acts = list(self._clicks)
        (act,) = self.draw.choices(acts, [self._clicks[each] for each in acts])
        await act()

    async def home(self) -> Answer:
        return await self.line.get("home", "/")

    async def library(self) -> None:
        sort = self.draw.choice(["", "", "downloads", "likes", "newest"])
        await self._list("library", **({"sort": sort} if sort else {}))

    async def filtered(self) -> None:
        known, draw = self.run.known, self.draw
        asked = draw.choice(
            [
                {"base_model": draw.choice(known.base_models)},
                {"tag": draw.choice(known.tags)},
                {"licence": draw.choice(known.licences)},
                {"base_model": draw.choice(known.base_models), "tag": draw.choice(known.tags)},
            ]
        )
        await self._list("library, filtered", **asked)

    async def search(self) -> None:
        await self._list("library, searched", q=self.draw.choice(self.run.known.words))

    async def type(self) -> None:
        """Three letters into the box: the list's part comes after each pause in typing."""
        word = self.draw.choice(self.run.known.words)
        for end in (2, 4):
            path = f"/modules/?{urlencode({'q': word[:end]})}"
            await self.line.get("searched while typing", path, part="found")
            await asyncio.sleep(0.4)

    async def everything(self) -> None:
        path = f"/search/?{urlencode({'q': self.draw.choice(self.run.known.words)})}"
        await self.line.get("search for everything", path)

    async def go_on(self) -> None:
        if self._next is None:
            await self.library()
        else:
            self._keep_next(await self.line.get("library, next page", f"/modules/{self._next}"))

    async def module(self) -> None:
        await self.line.get("module page", f"/{self.draw.choice(self.run.known.modules)}")

    async def recipes(self) -> None:
        await self.line.get("recipes", "/recipes/")

    async def recipe(self) -> None:
        await self.line.get("recipe page", self.draw.choice(self.run.known.recipes))

    async def tasks(self) -> None:
        await self.line.get("tasks", self.draw.choice(["/tasks/", "/tasks/shared/"]))

    async def task(self) -> None:
        await self.line.get("task page", self.draw.choice(self.run.known.tasks))

    async def sign_in(self, account: Account) -> None:
        page = await self.line.get("sign-in form", "/accounts/login/")
        fields = {"csrfmiddlewaretoken": page.csrf, "login": account.name}
        answer = await self.line.post(
            "signing in", "/accounts/login/", fields | {"password": account.password}
        )
        await self.line.get("home", answer.place or "/")

    async def _list(self, kind: str, **asked: str) -> None:
        path = f"/modules/?{urlencode(asked)}" if asked else "/modules/"
        self._keep_next(await self.line.get(kind, path))

    def _keep_next(self, answer: Answer) -> None:
        found = NEXT.search(answer.text)
        self._next = html.unescape(found[1]) if found else None


# --- uploading -----------------------------------------------------------------------------------


def new_module(name: str, draw: np.random.Generator, tags: str) -> dict[str, bytes]:
    """130 kB that nobody has uploaded before."""
    r, width, tensors = 8, 512, {}
    for layer in range(4):
        key = f"base_model.model.layers.{layer}.q_proj"
        for factor, shape in (("A", (r, width)), ("B", (width, r))):
            tensors[f"{key}.lora_{factor}.weight"] = draw.standard_normal(shape, dtype=np.float32)
    config = {
        "peft_type": "LORA", "r": r, "lora_alpha": 16, "target_modules": ["q_proj"],
        "base_model_name_or_path": "nobody/some-model", "task_type": "CAUSAL_LM", "bias": "none",
    }  # fmt: skip
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(tensors),
        "README.md": CARD.format(name=name, tags=tags).encode(),
    }


async def upload(run: Run, line: Line, account: Account, by_protocol: bool) -> None:
    draw = np.random.default_rng(run.draw.getrandbits(32))
    number = 0
    if not await run.pause(0, run.ramp):
        return
    while True:
        number += 1
        name = f"module-{number}"
        files = new_module(name, draw, ", ".join(run.draw.sample(run.known.tags, 2)))
        way = _by_protocol if by_protocol else _by_form
        await _quietly(way(run, line, account, name, files))
        if not await run.pause(10, 20):
            break
    line.close()


async def _by_form(
    run: Run, line: Line, account: Account, name: str, files: dict[str, bytes]
) -> None:
    page = await line.get("upload form", "/upload/")
    if not await run.pause(2, 4):
        return
    answer = await line.post_files("upload: the files", "/upload/", page.csrf, files)
    if not answer.place:
        return
    about = await line.get("upload: what is read", answer.place)
    if not await run.pause(2, 4):
        return
    path, _, token = answer.place.partition("?files=")
    fields = {"csrfmiddlewaretoken": about.csrf, "files": token, "name": name}
    done = await line.post("upload: publish", path, fields | {"visibility": "public"})
    if done.place:
        run.uploaded += 1
        await line.get("own module page", done.place)


async def _by_protocol(
    run: Run, line: Line, account: Account, name: str, files: dict[str, bytes]
) -> None:
    """As huggingface_hub's `upload_folder` of 2.4 sends small files, after `create_repo`."""
    headers = {"Authorization": f"Bearer {account.token}", "Content-Type": "application/json"}
    repo = f"{account.name}/{name}"

    async def send(kind: str, path: str, data: bytes) -> Answer:
        return await line.ask(f"protocol: {kind}", "POST", path, data, headers)

    await send("create", "/api/repos/create", json.dumps({"name": name}).encode())
    asked = [
        {"path": path, "size": len(data), "sample": base64.b64encode(data[:512]).decode()}
        for path, data in files.items()
    ]
    way = f"/api/models/{repo}/preupload/main"
    await send("preupload", way, json.dumps({"files": asked}).encode())
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "Upload"}}]
    for path, data in files.items():
        value = {"path": path, "encoding": "base64", "content": base64.b64encode(data).decode()}
        lines.append({"key": "file", "value": value})
    headers["Content-Type"] = "application/x-ndjson"
    body = b"".join(json.dumps(each).encode() + b"\n" for each in lines)
    answer = await send("commit", f"/api/models/{repo}/commit/main", body)
    if answer.status == 200:
        run.uploaded += 1
    weights = files["adapter_model.safetensors"]
    got = await line.get("protocol: download", f"/{repo}/resolve/main/adapter_model.safetensors")
    if got.status == 200 and hashlib.sha256(got.body).digest() != hashlib.sha256(weights).digest():
        run.book.wrong("protocol: download", f"other bytes than were sent for {repo}")


# --- compositions --------------------------------------------------------------------------------


async def submit(run: Run, line: Line, account: Account, by_api: bool, budget: int) -> None:
    """A demo task with a small budget, again and again; never more than a few of one's own wait."""
    own = run.waiting.setdefault(account.name, [])
    if not await run.pause(0, run.ramp):
        return
    while True:
        if len(own) < MOST_WAITING:
            way = _submit_by_api if by_api else _submit_by_form
            await _quietly(way(run, line, account, budget))
        else:
            await _quietly(line.get("own tasks", "/tasks/"))
        if not await run.pause(10, 20):
            break
    line.close()


async def _submit_by_form(run: Run, line: Line, account: Account, budget: int) -> None:
    task = run.draw.choice(run.known.tasks)
    page = await line.get("task page", task)
    key = re.search(r'name="key" value="([^"]*)"', page.text)
    fields = {
        "csrfmiddlewaretoken": page.csrf, "key": key[1] if key else "", "preset": "recommended",
        "budget": str(budget), "seed": str(run.draw.getrandbits(30)),
    }  # fmt: skip
    answer = await line.post("submit", f"{task}compose/", fields)
    if answer.status == 302:
        run.submitted += 1
        run.waiting[account.name].append(answer.place)


async def _submit_by_api(run: Run, line: Line, account: Account, budget: int) -> None:
    headers = {"Authorization": f"Bearer {account.token}", "Content-Type": "application/json"}
    task = run.draw.choice(run.known.tasks).strip("/").rpartition("/")[2]
    asked = {"task": task, "settings": {"budget": budget, "seed": run.draw.getrandbits(30)}}
    body = json.dumps(asked).encode()
    answer = await line.ask("submit by API", "POST", "/api/v1/jobs/", body, headers, (202,))
    if answer.status == 202:
        run.submitted += 1
        job = json.load(io.BytesIO(answer.body))["id"]
        run.waiting[account.name].append(f"/jobs/{job}/")


async def watch(run: Run, line: Line, account: Account) -> None:
    """The page of a job until it is over, asking as often as it says; its result; another job."""
    while await run.pause(1, 3):
        own = run.waiting.get(account.name)
        if own:
            job = min(own, key=lambda path: run.watched.get(path, 0))
            run.watched[job] = run.watched.get(job, 0) + 1
            await _quietly(_watch(run, line, account, job))
    line.close()


async def _watch(run: Run, line: Line, account: Account, job: str) -> None:
    page = await line.get("job page", job)
    etag, looks = "", LOOKS.search(page.text)
    while looks:
        seconds = int(looks[1])
        if not await run.pause(seconds, seconds):
            return
        part = await line.get(POLL, job, part="job-status", etag=etag)
        if part.status != 304:
            etag, looks = part.headers.get("etag", ""), LOOKS.search(part.text)
    if job in (own := run.waiting[account.name]):
        own.remove(job)
        run.seen_over += 1
    await line.get("result page", job)
    await run.pause(3, 6)
