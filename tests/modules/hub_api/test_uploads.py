"""The many ways in which the stock client brings files, and moves those that are here."""

from __future__ import annotations

from typing import Any

import pytest

from hub_site.accounts.models import User
from modules.models import LoraModule, Repo
from tests.modules.conftest import Publisher, make_user
from tests.modules.hub_api.conftest import Hub
from tests.modules.hub_api.test_client import adapter_folder

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.slow
def test_a_folder_of_many_files_and_what_is_in_it_already(hub: Hub) -> None:
    """More files than go into one commit; then what changed of them, and nothing else."""
    out = hub("""
api.create_repo("many")
folder = Path("many")
for n in range(300):
    (folder / f"part-{n % 7}").mkdir(parents=True, exist_ok=True)
    (folder / f"part-{n % 7}" / f"{n}.txt").write_text(str(n))
(folder / "3.0 MB.txt").write_bytes(b"x" * 3_000_000)
(folder / "leer").touch()
(folder / "grüße 日本.gz").write_bytes(b"y" * 3_000)
every = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
up = lambda **more: api.upload_folder(repo_id="alice/many", folder_path=folder, **more)
up()
print(api.list_repo_files("alice/many") == every)
here = Path(snapshot_download("alice/many", ignore_patterns="part-[!3]/*"))
some = sorted(p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file())
print(len(some), all((here / name).read_bytes() == (folder / name).read_bytes() for name in some))
before = api.model_info("alice/many").sha
print(up().oid == before)
(folder / "leer").write_text("no longer")
for n in range(7, 300, 7):
    (folder / "part-0" / f"{n}.txt").unlink()
up(delete_patterns="part-0/*", commit_message="Less")
left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
print(api.list_repo_files("alice/many") == left, len(every) - len(left))
print(Path(hf_hub_download("alice/many", "leer")).read_text())
up(path_in_repo="sub", allow_patterns="part-1/1.txt", run_as_future=True).result()
print("sub/part-1/1.txt" in api.list_repo_files("alice/many"))
if hasattr(api, "upload_large_folder"):  # newer ones do the same by upload_folder
    api.create_repo("large")
    api.upload_large_folder(
        "alice/large", folder, repo_type="model", print_report=False, num_workers=2)
    print("whole", api.list_repo_files("alice/large") == left)
""").splitlines()
    assert out[:6] == ["True", "46 True", "True", "True 42", "no longer", "True"]
    assert out[6:] in ([], ["whole True"])


def test_files_are_copied_within_and_from_elsewhere(hub: Hub, publish: Publisher) -> None:
    publish(make_user("bob"), "his")
    out = hub("""
api.create_repo("copies")
def commit(*operations, **rest):
    return api.create_commit("alice/copies", operations, commit_message="x", **rest).oid
add = lambda path, text: CommitOperationAdd(path, text.encode())
first = commit(add("text.txt", "one"), add("large.gz", "two"))
commit(add("text.txt", "1"), add("large.gz", "2"))
copy = lambda a, b, **rest: CommitOperationCopy(a, b, **rest)
commit(copy("text.txt", "new/text.txt"), copy("large.gz", "new/large.gz"),
       copy("text.txt", "old/text.txt", src_revision=first),
       copy("large.gz", "old/large.gz", src_revision=first))
read = lambda path: Path(hf_hub_download("alice/copies", path)).read_text()
print([read(f"{d}/{n}") for d in ("new", "old") for n in ("text.txt", "large.gz")])
api.create_branch("alice/copies", branch="feat/x")
commit(copy("new/large.gz", "large.gz", src_revision="main"), copy("text.txt", "b.txt"),
       CommitOperationDelete("new/"), CommitOperationDelete("old/large.gz"), revision="feat/x")
print(api.list_repo_files("alice/copies", revision="feat/x"))
raises(EntryNotFoundError, lambda: commit(copy("none", "x")))
raises(RevisionNotFoundError, lambda: commit(copy("text.txt", "x", src_revision="none")))
if "src_repo_id" in CommitOperationCopy.__init__.__annotations__:
    source = dict(src_repo_id="bob/his", src_repo_type="model")
    commit(copy("README.md", "README.md", **source))
    print("opposites" in read("README.md"))
    weights = copy("adapter_model.safetensors", "w.safetensors", **source)
    print(raises(ValueError, lambda: commit(weights)))
""").splitlines()
    assert out[0] == "['1', '2', 'one', 'two']"
    assert out[1] == "['b.txt', 'large.gz', 'old/text.txt', 'text.txt']"
    # From elsewhere clients copy large files inside the Hub's own store, or not at all.
    assert out[2:] == [] or out[2] == "True" and "Cannot duplicate LFS file" in out[3]


def test_a_card_is_written_and_read_by_the_clients_own_means(
    hub: Hub, opposites: LoraModule, alice: User
) -> None:
    out = hub("""
card = ModelCard.load("alice/opposites")
card.data.license, card.data.tags = "mit", ["words", "new tag"]
card.push_to_hub("alice/opposites", commit_message="By ModelCard")
metadata_update("alice/opposites", {"language": "de"}, overwrite=True)
print(api.model_info("alice/opposites").card_data.to_dict())
""")
    module = LoraModule.objects.get()
    assert (module.licence, module.language) == ("mit", "de")
    assert "new tag" in out and "de" in out
    assert set(module.tag_names) == {"words", "new tag"}
    assert module.repo.commits.count() == 3


def test_who_logs_in_by_hand_needs_no_variable(
    hub: Hub, token: str, base_model: Any, tmp_path: Any
) -> None:
    """And a private module is made, filled and read like any other, by its owner alone."""
    folder = adapter_folder(tmp_path)
    out = hub(f"""
raises(Exception, lambda: login(token="lc_wrong"))
login(token={token!r})
print(whoami()["name"], get_token() == {token!r})
api.create_repo("hidden", private=True)
if "visibility" in HfApi.create_repo.__annotations__:
    api.create_repo("too", visibility="private")
    api.update_repo_settings("alice/too", visibility="public")
api.upload_folder(repo_id="alice/hidden", folder_path={str(folder)!r})
print(len(api.list_repo_files("alice/hidden")), [m.id for m in list_models(author="alice")])
nobody = HfApi(token=False)
for call in (lambda: nobody.model_info("alice/hidden"),
             lambda: nobody.list_repo_files("alice/hidden"),
             lambda: nobody.snapshot_download("alice/hidden"),
             lambda: nobody.hf_hub_download("alice/hidden", "README.md", cache_dir="c")):
    raises(RepositoryNotFoundError, call)
print(list(nobody.list_models(author="alice")))
logout()
raises(RepositoryNotFoundError, lambda: api.model_info("alice/hidden"))
""", token="").splitlines()  # fmt: skip
    assert out == ["alice True", "3 ['alice/hidden']", "[]"]
    assert Repo.objects.get(name="hidden").is_private
    assert not Repo.objects.filter(name="too", visibility=Repo.PRIVATE).exists()
