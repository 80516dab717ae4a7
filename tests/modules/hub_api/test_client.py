"""What the stock huggingface_hub client does against this site, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules.hub_api import lfs, listing, read
from modules.models import LoraModule, Ref, Repo, UploadTicket
from tests.modules.conftest import CARD, Publisher, config_bytes, make_user, weights_bytes
from tests.modules.hub_api.conftest import Hub

pytestmark = pytest.mark.django_db(transaction=True)


def adapter_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config_bytes())
    (folder / "adapter_model.safetensors").write_bytes(weights_bytes())
    (folder / "README.md").write_text(CARD)
    return folder


def test_whoami(hub: Hub) -> None:
    who = json.loads(hub("print(json.dumps(whoami()))"))
    assert who["name"] == "alice" and who["type"] == "user"
    said = who["auth"]["accessToken"]
    assert (said["displayName"], said["role"]) == ("laptop", "write")
    assert "Invalid user token" in hub("whoami()", token="lc_wrong", fails=True)


def test_a_folder_goes_up_and_comes_down_again(hub: Hub, base_model: Any, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path)
    out = hub(f"""
print(api.create_repo("opposites"))
done = api.upload_folder(repo_id="alice/opposites", folder_path={str(folder)!r})
print(done.oid)
info = api.model_info("alice/opposites", files_metadata=True)
print(info.sha == done.oid, info.library_name, info.card_data.license, info.private, info.gated)
path = snapshot_download("alice/opposites")
print(path.endswith(info.sha))
for name in sorted(os.listdir(path)):
    same = Path(path, name).read_bytes() == Path({str(folder)!r}, name).read_bytes()
    print(name, same)
""").splitlines()
    module = LoraModule.objects.get()
    assert out[0].endswith("/alice/opposites")
    assert out[1:4] == [module.commit.sha, "True peft apache-2.0 False False", "True"]
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert out[4:] == [f"{name} True" for name in names]
    assert module.licence == "apache-2.0" and set(module.tag_names) == {"words", "opposites"}
    assert module.base_model == base_model


def test_the_hf_command_uploads_and_downloads(hub: Hub, base_model: Any, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path)
    out = hub(f"""
import subprocess
def hf(*words):
    done = subprocess.run(["hf", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
hf("upload", "opposites", {str(folder)!r}, ".", "--commit-message", "By the command")
hf("download", "alice/opposites", "--local-dir", "here")
print(sorted(os.listdir("here")))
print("alice" in hf("auth", "whoami"))
""")
    assert "adapter_model.safetensors" in out and "True" in out
    assert LoraModule.objects.get().commit.title == "By the command"


def test_a_refused_adapter_says_why_in_the_client(hub: Hub, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"no safetensors")
    out = hub(f"""
api.create_repo("broken")
print(raises(HfHubHTTPError, lambda: api.upload_folder(
    repo_id="alice/broken", folder_path={str(folder)!r})))
(Path("x.bin")).write_bytes(b"\\x80\\x04\\x95" + b"0" * 40 + b".")
print(raises(HfHubHTTPError, lambda: api.upload_file(
    repo_id="alice/broken", path_or_fileobj="x.bin", path_in_repo="adapter_model.bin")))
print(raises(HfHubHTTPError, lambda: api.upload_file(
    repo_id="alice/broken", path_or_fileobj=open("x.bin", "rb"), path_in_repo="adapter_model.bin")))
print(api.repo_info("alice/broken").siblings)
""")
    assert "safetensors" in out and out.count("pickle") >= 2
    assert out.splitlines()[-1] == "[]"
    assert Repo.objects.get(name="broken").head() is None


def test_repos_are_made_hidden_moved_and_deleted(hub: Hub, alice: User) -> None:
    out = hub("""
api.create_repo("one", private=True)
print(raises(HfHubHTTPError, lambda: api.create_repo("one")).response.status_code)
print(api.create_repo("one", exist_ok=True).repo_id)
print(api.model_info("alice/one").private, api.repo_exists("alice/one"))
print(HfApi(token=False).repo_exists("alice/one"))
api.update_repo_settings("alice/one", private=False)
print(HfApi(token=False).repo_exists("alice/one"))
api.move_repo("alice/one", "alice/two")
print(api.model_info("alice/two").id, api.model_info("alice/one").id)
api.delete_repo("alice/two")
print(api.repo_exists("alice/two"))
raises(RepositoryNotFoundError, lambda: api.delete_repo("alice/two"))
api.delete_repo("alice/two", missing_ok=True)
print("may not write" in str(raises(HfHubHTTPError, lambda: api.create_repo("bob/one"))))
raises(HfHubHTTPError, lambda: api.create_repo("rows", repo_type="dataset"))
""").splitlines()
    assert out == [
        "409", "alice/one", "True True", "False", "True", "alice/two alice/two", "False",
        "True",
    ]  # fmt: skip
    assert not Repo.objects.filter(owner__user=alice).exists()


def test_files_are_listed_in_pages_with_their_last_commits(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "PAGE", 3)
    monkeypatch.setattr(read, "EXPANDED_PAGE", 3)
    monkeypatch.setattr(read, "COMMITS_PAGE", 3)
    out = hub("""
api.create_repo("files")
def add(path, data):
    return api.upload_file(repo_id="alice/files", path_or_fileobj=data, path_in_repo=path,
                           commit_message=f"Add {path}").oid
names = ["a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.gz", "grüße 日本.txt", "leer", "z & 100%.txt"]
made = {name: add(name, b"" if name == "leer" else name.encode()) for name in names}
tree = list(api.list_repo_tree("alice/files", recursive=True, expand=True))
found = {e.path: e for e in tree if isinstance(e, RepoFile)}
print(sorted(found) == sorted(names), sorted(e.path for e in tree if isinstance(e, RepoFolder)))
print(all(found[name].last_commit.oid == made[name] for name in names))
print([e.path for e in api.list_repo_tree("alice/files", "b")])
print(found["b/d/f.gz"].lfs.size, found["a.txt"].lfs, found["leer"].size)
print(len(api.list_repo_commits("alice/files")), api.list_repo_commits("alice/files")[0].title)
print([p.path for p in api.get_paths_info("alice/files", ["a.txt", "no", "b"])])
print(api.file_exists("alice/files", "a.txt"), api.file_exists("alice/files", "no"))
for name in names:
    assert Path(hf_hub_download("alice/files", name)).read_bytes() == (
        b"" if name == "leer" else name.encode())
print(sorted(os.listdir(snapshot_download("alice/files", allow_patterns="b/**", local_dir="b"))))
meta = get_hf_file_metadata(hf_hub_url("alice/files", "b/d/f.gz"))
print(meta.size, meta.commit_hash == made["z & 100%.txt"],
      meta.etag == found["b/d/f.gz"].lfs.sha256)
""").splitlines()
    assert out == [
        "True ['b', 'b/d']",
        "True",
        "['b/c.txt', 'b/d']",
        "8 None 0",
        "7 Add z & 100%.txt",
        "['a.txt', 'b']",
        "True False",
        "['.cache', 'b']",
        "8 True True",
    ]


def test_branches_tags_and_revisions_with_slashes(hub: Hub) -> None:
    out = hub("""
api.create_repo("refs")
add = lambda data, **rest: api.upload_file(
    repo_id="alice/refs", path_or_fileobj=data, path_in_repo="dir/a.txt", **rest).oid
first = add(b"1")
api.create_branch("alice/refs", branch="feat/x")
api.create_branch("alice/refs", branch="feat/x", exist_ok=True)
again = raises(HfHubHTTPError, lambda: api.create_branch("alice/refs", branch="feat/x"))
print(again.response.status_code)
second = add(b"2", revision="feat/x")
api.create_tag("alice/refs", tag="v1/0", revision=first)
print(raises(HfHubHTTPError, lambda: api.create_tag("alice/refs", tag="v1/0")).response.status_code)
refs = api.list_repo_refs("alice/refs")
print({r.name: r.target_commit == (second if r.name == "feat/x" else first)
       for r in refs.branches + refs.tags})
get = lambda revision: hf_hub_download("alice/refs", "dir/a.txt", revision=revision)
read = lambda revision: Path(get(revision)).read_text()
print([read(r) for r in ("main", "feat/x", "v1/0", first, second)])
print([e.path for e in api.list_repo_tree("alice/refs", "dir", revision="feat/x")])
print(api.model_info("alice/refs", revision="feat/x").sha == second)
print([c.commit_id == s for c, s in zip(api.list_repo_commits("alice/refs", revision="feat/x"),
                                        (second, first))])
api.delete_branch("alice/refs", branch="feat/x")
api.delete_tag("alice/refs", tag="v1/0")
raises(RevisionNotFoundError, lambda: read("feat/x"))
raises(RevisionNotFoundError, lambda: api.delete_tag("alice/refs", tag="v1/0"))
raises(RevisionNotFoundError, lambda: add(b"3", revision="nowhere"))
raises(HfHubHTTPError, lambda: api.delete_branch("alice/refs", branch="main"))
""").splitlines()
    assert out == [
        "409",
        "409",
        "{'feat/x': True, 'main': True, 'v1/0': True}",
        "['1', '2', '1', '1', '2']",
        "['dir/a.txt']",
        "True",
        "[True, True]",
    ]
    assert list(Ref.objects.values_list("name", flat=True)) == ["main"]


def test_a_base_model_is_fetched_by_its_content(hub: Hub, base_model: Any) -> None:
    """Recipes pin it by a tag that looks like a commit's id."""
    repo = base_model.repo
    Ref.objects.create(repo=repo, kind=Ref.TAG, name="c" * 40, commit=repo.head())
    out = hub(f"""
path = snapshot_download({str(repo)!r}, revision="c" * 40)
print(os.path.basename(path) == "c" * 40, "config.json" in os.listdir(path))
print(api.model_info({str(repo)!r}, revision="c" * 40).sha == "c" * 40)
print(api.model_info({str(repo)!r}).sha == {repo.head().sha!r})
""")
    assert out.split() == ["True"] * 4


def test_changes_delete_copy_and_go_on_from_a_parent(hub: Hub) -> None:
    out = hub("""
api.create_repo("work")
def commit(*operations, **rest):
    return api.create_commit("alice/work", operations, commit_message="x", **rest).oid
first = commit(*(CommitOperationAdd(f"{d}/{n}.gz", f"{d}{n}".encode())
                 for d in "ab" for n in "12"), commit_description="All four")
commit(CommitOperationCopy("a/1.gz", "c/1.gz"), CommitOperationCopy("a/2.gz", "a/3.gz"),
       CommitOperationDelete("a/2.gz"), CommitOperationDelete("b/"))
print(api.list_repo_files("alice/work"))
print(Path(hf_hub_download("alice/work", "c/1.gz")).read_text())
print(raises(HfHubHTTPError, lambda: commit(
    CommitOperationAdd("d", b"d"), parent_commit=first)).response.status_code)
raises(EntryNotFoundError, lambda: commit(CommitOperationDelete("nothing")))
raises(EntryNotFoundError, lambda: api.delete_folder("no", repo_id="alice/work"))
head = api.model_info("alice/work").sha
commit(CommitOperationAdd("d", b"d"), parent_commit=head[:10])
again = commit(CommitOperationAdd("d", b"d"))
print(again == api.model_info("alice/work").sha, len(api.list_repo_commits("alice/work")))
api.delete_file("d", repo_id="alice/work")
print(api.list_repo_files("alice/work"), api.list_repo_commits("alice/work")[-1].message)
raises(HfHubHTTPError, lambda: commit(CommitOperationAdd("e", b"e"), create_pr=True))
""").splitlines()
    assert out == [
        "['a/1.gz', 'a/3.gz', 'c/1.gz']",
        "a1",
        "412",
        "True 3",
        "['a/1.gz', 'a/3.gz', 'c/1.gz'] All four",
    ]


@pytest.mark.parametrize("part", [64 * 1024 * 1024, 100_000], ids=["whole", "in parts"])
def test_large_files_go_by_lfs(hub: Hub, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """A buffer goes that way in every version of the client."""
    monkeypatch.setattr(lfs, "PART", part)
    monkeypatch.setattr("modules.hub_api.write.INLINE_LIMIT", 1_000)
    out = hub("""
import io
api.create_repo("large")
data = os.urandom(250_000)
for name in ("one.safetensors", "same bytes.safetensors"):
    api.upload_file(repo_id="alice/large", path_or_fileobj=io.BytesIO(data), path_in_repo=name)
for name in ("one.safetensors", "same bytes.safetensors"):
    print(Path(hf_hub_download("alice/large", name)).read_bytes() == data)
""")
    assert out.splitlines() == ["True", "True"]
    ticket = UploadTicket.objects.get()  # the second time the bytes were there
    assert ticket.used_at is not None and ticket.size == 250_000


def test_modules_are_listed_in_pages(
    hub: Hub, publish: Publisher, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 3)
    bob = make_user("bob")
    for owner, count in ((alice, 4), (bob, 4)):
        for n in range(count):
            publish(owner, f"{owner.username}-module-{n}")
    publish(bob, "bobs-secret", private=True)
    out = hub("""
every = [m.id for m in list_models()]
print(len(every), len(set(every)), "bob/bobs-secret" in every)
print(sorted(m.id for m in list_models(author="bob"))[:2], len(list(list_models(limit=5))))
print([m.id for m in list_models(search="alice-module-2")])
print(len(list(list_models(filter=["peft", "words"]))), len(list(list_models(filter="nothing"))))
one = next(iter(list_models(full=True, sort="downloads")))
print(bool(one.sha), len(one.siblings), one.library_name,
      "base_model:lora-commons/tiny-t5" in one.tags)
one = next(iter(list_models(expand=["sha", "likes"])))
print(bool(one.sha), one.likes, one.downloads)
""").splitlines()
    assert out == [
        "8 8 False",
        "['bob/bob-module-0', 'bob/bob-module-1'] 5",
        "['alice/alice-module-2']",
        "8 0",
        "True 3 peft True",
        "True 0 None",
    ]


def test_what_is_missing_or_not_yours_has_the_clients_own_errors(
    hub: Hub, publish: Publisher, alice: User
) -> None:
    bob = make_user("bob")
    publish(bob, "open")
    publish(bob, "secret", private=True)
    reader = tokens.create_token(alice, name="r", scope="read")[1]
    out = hub(f"""
for name in ("bob/secret", "bob/none", "nobody/none", "gpt2"):
    raises(RepositoryNotFoundError, lambda: api.model_info(name))
    raises(RepositoryNotFoundError, lambda: hf_hub_download(name, "README.md"))
    raises(RepositoryNotFoundError, lambda: list(api.list_repo_tree(name)))
    raises(RepositoryNotFoundError, lambda: snapshot_download(name))
    assert not api.file_exists(name, "README.md") and not api.repo_exists(name)
raises(RevisionNotFoundError, lambda: api.model_info("bob/open", revision="nope"))
raises(RevisionNotFoundError, lambda: hf_hub_download("bob/open", "README.md", revision="nope"))
raises(EntryNotFoundError, lambda: hf_hub_download("bob/open", "nope"))
raises(RepositoryNotFoundError, lambda: api.dataset_info("bob/open"))
upload = lambda a, to: a.upload_file(repo_id=to, path_or_fileobj=b"x", path_in_repo="x")
print(raises(HfHubHTTPError, lambda: upload(api, "bob/open")))
raises(RepositoryNotFoundError, lambda: upload(api, "bob/secret"))
print(raises(HfHubHTTPError, lambda: upload(HfApi(token={reader!r}), "alice/x")))
print(raises(HfHubHTTPError, lambda: upload(HfApi(token=False), "bob/open")))
api.auth_check("bob/open")
raises(RepositoryNotFoundError, lambda: api.auth_check("bob/secret"))
print(raises(HfHubHTTPError, lambda: api.super_squash_history("bob/open")))
print(raises(HfHubHTTPError, lambda: list(api.get_repo_discussions("bob/open"))))
""")
    assert "Only bob may change bob/open" in out
    assert "Sign in first" in out and "may only read" in out and out.count("does not offer") == 2


def test_an_empty_repo_is_a_repo(hub: Hub) -> None:
    out = hub("""
api.create_repo("empty")
print(api.list_repo_files("alice/empty"), api.list_repo_commits("alice/empty"))
snapshot_download("alice/empty")
""").splitlines()
    assert out[0] == "[] []"


@pytest.mark.parametrize("size", [1, 200_000, 3_000_001])
def test_large_files_go_by_xet(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, base_model: Any, size: int
) -> None:
    """The way of every client since 1.20 for files that are not sent inside the commit."""
    monkeypatch.setattr("modules.hub_api.write.INLINE_LIMIT", 0)
    out = hub(f"""
import random
api.create_repo("xet")
rng = random.Random(1)
data = {{"random.gz": rng.randbytes({size}), "zeros.gz": bytes({size}),
        "numbers.gz": b"".join(n.to_bytes(4, "little") for n in range({size} // 4 + 1))}}
for name, one in data.items():
    Path(name).write_bytes(one)
api.upload_folder(repo_id="alice/xet", folder_path=".", allow_patterns="*.gz")
changed = data["random.gz"][:{size} // 2] + b"!" + data["random.gz"][{size} // 2:]
Path("random.gz").write_bytes(changed)
api.upload_file(repo_id="alice/xet", path_or_fileobj="random.gz", path_in_repo="again.gz")
data["again.gz"] = changed
for name, one in data.items():
    print(name, Path(hf_hub_download("alice/xet", name)).read_bytes() == one)
""")
    assert out.count("True") == 4
