"""What the stock client reads of a module, down to each field and each byte."""

from __future__ import annotations

import hashlib
import io

import pytest

from hub_site.accounts.models import User
from modules import services
from modules.models import LoraModule
from tests.modules.conftest import CARD, weights_bytes
from tests.modules.hub_api.conftest import Hub

pytestmark = pytest.mark.django_db(transaction=True)


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def module(opposites: LoraModule, alice: User) -> LoraModule:
    files = {"leer": b"", "grüße/日本 & 100%.txt": "grüße".encode()}
    services.commit(
        repo=opposites.repo, author=alice, title="Odd names",
        additions={path: io.BytesIO(data) for path, data in files.items()},
    )  # fmt: skip
    return LoraModule.objects.get()


def test_every_field_of_a_module(hub: Hub, module: LoraModule) -> None:
    out = hub("""
info = api.model_info("alice/opposites", files_metadata=True)
print(info.id, info.author, info.sha, info.private, info.gated, info.disabled, info.downloads,
      info.likes, info.library_name, info.created_at.tzinfo, info.last_modified >= info.created_at)
print(sorted(info.tags))
print(info.card_data.license, info.card_data.tags)
for file in info.siblings:
    print(file.rfilename, file.size, file.blob_id, file.lfs and file.lfs.sha256)
part = api.model_info("alice/opposites", expand=["sha", "siblings", "likes"])
print(part.sha == info.sha, len(part.siblings), part.likes, part.downloads, part.tags)
pinned = api.model_info("alice/opposites", revision=info.sha)
print(pinned.sha == info.sha, pinned.id)
""").splitlines()  # fmt: skip
    head = module.repo.head()
    assert head is not None
    assert out[0] == f"alice/opposites alice {head.sha} False False False 0 0 peft UTC True"
    base = "lora-commons/tiny-t5"
    assert set(eval(out[1])) == {
        "peft", "safetensors", "lora", "words", "opposites", "en", "license:apache-2.0",
        f"base_model:{base}", f"base_model:adapter:{base}",
    }  # fmt: skip
    assert out[2] == "apache-2.0 ['words', 'opposites']"
    weights, sha256 = weights_bytes(), module.weights_sha256
    assert f"README.md {len(CARD)} {git_sha1(CARD.encode())} None" in out
    assert f"leer 0 {git_sha1(b'')} None" in out
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize "
    pointer += f"{len(weights)}\n"
    assert f"adapter_model.safetensors {len(weights)} {git_sha1(pointer.encode())} {sha256}" in out
    assert out[-2:] == ["True 5 0 None None", "True alice/opposites"]


def test_every_header_of_a_file(hub: Hub, module: LoraModule) -> None:
    """Of a small one, a large one, an empty one and one with an odd name; and of none."""
    out = hub("""
names = ["README.md", "adapter_model.safetensors", "leer", "grüße/日本 & 100%.txt"]
for name in names:
    url = hf_hub_url("alice/opposites", name)
    meta = get_hf_file_metadata(url)
    print(meta.commit_hash, meta.etag, meta.size, meta.location == url)
    path = hf_hub_download("alice/opposites", name)
    print(os.path.getsize(path) == meta.size, hf_hub_download("alice/opposites", name) == path)
raises(EntryNotFoundError, lambda: hf_hub_download("alice/opposites", "no.json"))
from huggingface_hub.file_download import try_to_load_from_cache, _CACHED_NO_EXIST
print(try_to_load_from_cache("alice/opposites", "no.json") is _CACHED_NO_EXIST)
""").splitlines()  # fmt: skip
    head = module.repo.head()
    assert head is not None
    for n, data in enumerate((CARD.encode(), weights_bytes(), b"", "grüße".encode())):
        etag = module.weights_sha256 if n == 1 else git_sha1(data)
        assert out[2 * n] == f"{head.sha} {etag} {len(data)} True"
        assert out[2 * n + 1] == "True True"
    assert out[-1] == "True"  # the commit's name came along, so that the client can remember it


def test_parts_of_files_are_read_where_they_lie(hub: Hub, module: LoraModule) -> None:
    """By the client's file system, by its reader of safetensors' headers, and by hand."""
    out = hub("""
from huggingface_hub.utils import get_session
weights = Path(hf_hub_download("alice/opposites", "adapter_model.safetensors")).read_bytes()
found = api.parse_safetensors_file_metadata("alice/opposites", "adapter_model.safetensors")
print(len(found.tensors), sum(found.parameter_count.values()))
fs = HfFileSystem()
print(sorted(os.path.basename(p) for p in fs.ls("alice/opposites", detail=False)))
name = "alice/opposites/adapter_model.safetensors"
print(fs.cat_file(name, start=5, end=50) == weights[5:50], fs.info(name)["size"] == len(weights))
with fs.open(name, block_size=64) as file:
    file.seek(100)
    print(file.read(77) == weights[100:177], file.seek(-7, 2) > 0, file.read() == weights[-7:])
print(fs.cat_file("alice/opposites/grüße/日本 & 100%.txt").decode(), fs.exists(name + "x"))
url, n = hf_hub_url("alice/opposites", "adapter_model.safetensors"), len(weights)
get = lambda **headers: get_session().request(
    "GET", url, headers={k.replace("_", "-"): v for k, v in headers.items()})
for asked, start, end in (("0-0", 0, 1), ("7-", 7, n), ("-9", n - 9, n), ("3-99999", 3, n)):
    part = get(Range=f"bytes={asked}")
    assert (part.status_code, part.content) == (206, weights[start:end]), asked
    assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{n}"
etag = get().headers["ETag"]
print([get(Range=f"bytes={asked}").status_code for asked in (f"{n}-", "-0", "9-5", "0-1,3-4")],
      get(Range=f"bytes={n}-").headers["Content-Range"] == f"bytes */{n}")
same, other = get(Range="bytes=4-", If_Range=etag), get(Range="bytes=4-", If_Range='"other"')
print(same.status_code, same.content == weights[4:], other.status_code, other.content == weights)
print(get(If_None_Match=etag).status_code)
""").splitlines()  # fmt: skip
    assert out == [
        "4 64",
        "['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'grüße', 'leer']",
        "True True",
        "True True True",
        "grüße False",
        "[416, 416, 416, 200] True",
        "206 True 200 True",
        "304",
    ]


def test_what_clients_ask_on_the_side_and_what_there_is_not(
    hub: Hub, module: LoraModule, alice: User
) -> None:
    """Noise is answered quickly; the rest says in words that it is not offered."""
    out = hub("""
from huggingface_hub.utils import get_session
site = os.environ["HF_ENDPOINT"]
for path in ("/api/agent-harnesses", "/api/telemetry/x/y", "/v1/telemetry"):
    answers = [get_session().request(way, site + path) for way in ("GET", "POST", "HEAD")]
    print([answer.status_code for answer in answers], answers[0].json())
name = "alice/opposites"
calls = [
    lambda: list(api.get_repo_discussions(name)),
    lambda: api.create_pull_request(name, title="x"),
    lambda: api.create_discussion(name, title="x"),
    lambda: api.super_squash_history(name),
    lambda: api.list_lfs_files(name) and list(api.list_lfs_files(name)),
    lambda: list(api.list_repo_likers(name)),
    lambda: api.unlike(name),
    lambda: list(api.list_liked_repos("alice")),
    lambda: api.get_user_overview("alice"),
    lambda: list(api.list_spaces()),
    lambda: list(api.list_collections()),
    lambda: api.create_repo("x", repo_type="space", space_sdk="static"),
    lambda: api.upload_file(repo_id=name, path_or_fileobj=b"x", path_in_repo="x", create_pr=True),
    lambda: api.list_webhooks(),
]
for n, call in enumerate(calls):
    error = raises(HfHubHTTPError, call)
    assert "does not offer" in str(error) and error.response.status_code == 501, (n, str(error))
print("all", len(calls))
""").splitlines()  # fmt: skip
    assert out == ["[200, 200, 200] {}"] * 3 + ["all 14"]
