import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest

from composer.engine.errors import BadAdapter
from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules import services
from modules.models import Blob, Commit, Grant, LoraModule, Ref, Repo
from tests.modules.conftest import adapter, config_bytes, weights_bytes

PICKLE = pickle.dumps(OrderedDict(a=1))


@pytest.fixture
def repo(alice: User) -> Repo:
    return services.create_repo(owner=alice.namespace, name="box", kind=Repo.BASE)


def write(repo: Repo, author: User | None, files: dict[str, Any], **rest: Any) -> Commit:
    additions = {
        path: io.BytesIO(data) if isinstance(data, bytes) else data for path, data in files.items()
    }
    return services.commit(repo=repo, author=author, title="Change", additions=additions, **rest)


def tree(commit: Commit) -> dict[str, str]:
    return dict(commit.files.values_list("path", "blob_id"))


def test_it_writes_a_version_with_its_files(repo: Repo, alice: User) -> None:
    first = write(repo, alice, {"a.txt": b"a", "deep/b.txt": b"b"})
    second = write(repo, alice, {"a.txt": b"changed"}, deletions=["deep/b.txt"])
    assert sorted(tree(first)) == ["a.txt", "deep/b.txt"]
    assert sorted(tree(second)) == ["a.txt"]
    assert second.parent == first
    assert repo.head() == second
    assert len(second.sha) == 40 and int(second.sha, 16)
    assert Grant.objects.filter(user=alice).count() == 3


def test_the_same_history_made_twice_has_the_same_ids(alice: User) -> None:
    made = []
    for name in ("one", "two"):
        repo = services.create_repo(owner=alice.namespace, name=name, kind=Repo.BASE)
        write(repo, alice, {"a.txt": b"a"})
        made.append(write(repo, alice, {"a.txt": b"b"}).sha)
    assert made[0] == made[1]


def test_an_id_follows_from_everything_in_the_version() -> None:
    usual: dict[str, Any] = {
        "parent": "", "author": "a", "title": "t", "message": "", "files": {"x": "1"},
    }  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"parent": "0" * 40}, {"author": "b"}, {"title": "u"}, {"message": "m"},
        {"files": {"y": "1"}}, {"files": {"x": "2"}},
    ]  # fmt: skip
    shas = {services.commit_sha(**(usual | change)) for change in [{}, *changes]}
    assert len(shas) == 7


def test_a_change_that_changes_nothing_gives_the_head_back(repo: Repo, alice: User) -> None:
    first = write(repo, alice, {"a.txt": b"a"})
    assert write(repo, alice, {"a.txt": b"a"}) == first
    assert repo.commits.count() == 1


def test_it_refuses_a_stale_parent(repo: Repo, alice: User) -> None:
    first = write(repo, alice, {"a.txt": b"a"}, parent="")
    second = write(repo, alice, {"a.txt": b"b"}, parent=first.sha)
    with pytest.raises(services.StaleParent, match=second.sha[:10]):
        write(repo, alice, {"a.txt": b"c"}, parent=first.sha)
    with pytest.raises(services.StaleParent):
        write(repo, alice, {"a.txt": b"c"}, parent="")
    assert repo.head() == second


@pytest.mark.django_db(transaction=True)
def test_of_two_changes_at_once_on_one_parent_one_wins(repo: Repo, alice: User) -> None:
    import threading

    from django.db import connection

    first = write(repo, alice, {"a.txt": b"a"})
    start = threading.Barrier(2)
    results: list[str] = []

    def change(data: bytes) -> None:
        start.wait()
        try:
            write(repo, alice, {"a.txt": data}, parent=first.sha)
            results.append("written")
        except services.StaleParent:
            results.append("stale")
        finally:
            connection.close()

    threads = [threading.Thread(target=change, args=(data,)) for data in (b"x", b"y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["stale", "written"]
    assert repo.commits.count() == 2


@pytest.mark.parametrize(
    "path",
    [
        "", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "./a", "a/.", "a\\b", "a\0b", "a\nb",
        ".git/config", ".GIT/config", "x" * 501, "x" * 256, "ü" * 128,
    ],
)  # fmt: skip
def test_it_refuses_a_path_that_leaves_its_folder(repo: Repo, alice: User, path: str) -> None:
    with pytest.raises(services.BadPath, match="file's path"):
        write(repo, alice, {path: b"x"})
    assert not Blob.objects.exists() and not Commit.objects.exists()


@pytest.mark.parametrize("path", ["a.txt", "deep/er/b.txt", ".gitattributes", "ünïcode/ñ.md"])
def test_it_takes_an_ordinary_path(repo: Repo, alice: User, path: str) -> None:
    assert list(tree(write(repo, alice, {path: b"x"}))) == [path]


def test_it_refuses_a_file_that_is_also_a_folder(repo: Repo, alice: User) -> None:
    write(repo, alice, {"a": b"x"})
    with pytest.raises(services.BadPath, match="a file and a folder"):
        write(repo, alice, {"a/b": b"x"})


def test_it_refuses_to_delete_what_is_not_there(repo: Repo, alice: User) -> None:
    write(repo, alice, {"a": b"x"})
    with pytest.raises(services.UnknownFile, match="cannot be deleted"):
        write(repo, alice, {}, deletions=["b"])
    with pytest.raises(services.BadCommit, match="at least one file"):
        write(repo, alice, {}, deletions=["a"])


def test_a_hash_is_no_capability(alice: User, bob: User, secret: LoraModule) -> None:
    """Bob knows the hash of Alice's private weights, and gets nothing for it."""
    own = services.create_repo(owner=bob.namespace, name="mine", kind=Repo.BASE)
    blob = Blob.objects.get(pk=secret.weights_sha256)
    with pytest.raises(services.UnknownFile, match="upload these bytes first"):
        write(own, bob, {"stolen.safetensors": blob})
    unknown = Blob(sha256="f" * 64, size=1, git_sha1="0" * 40)
    with pytest.raises(services.UnknownFile, match="upload these bytes first"):
        write(own, bob, {"unknown": unknown})
    with pytest.raises(services.UnknownFile):
        write(own, None, {"stolen.safetensors": blob})
    assert own.head() is None


def test_who_uploaded_bytes_may_name_them_by_hash(bob: User, repo: Repo, alice: User) -> None:
    blob = write(repo, alice, {"a": b"bytes"}).files.get().blob
    other = services.create_repo(owner=alice.namespace, name="other", kind=Repo.BASE)
    assert tree(write(other, alice, {"copy": blob})) == {"copy": blob.sha256}
    own = services.create_repo(owner=bob.namespace, name="mine", kind=Repo.BASE)
    write(own, bob, {"b": b"bytes"})  # bob had the bytes himself
    assert tree(write(own, bob, {"again": blob}))["again"] == blob.sha256
    assert Blob.objects.count() == 1


def test_the_repo_itself_vouches_for_its_bytes(repo: Repo, alice: User) -> None:
    blob = write(repo, alice, {"a": b"bytes"}).files.get().blob
    assert tree(write(repo, None, {"moved": blob}, deletions=["a"])) == {"moved": blob.sha256}


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("pytorch_model.bin", b"anything"),
        ("w.PT", b"x"),
        ("w.json", pickle.dumps(OrderedDict(a=1))),
    ],
)
def test_it_refuses_pickles(repo: Repo, alice: User, path: str, data: bytes) -> None:
    with pytest.raises(BadAdapter, match="safe_serialization"):
        write(repo, alice, {path: data})
    assert repo.head() is None


def test_a_tag_keeps_its_version(repo: Repo, alice: User) -> None:
    first = write(repo, alice, {"a": b"1"})
    Ref.objects.create(repo=repo, kind=Ref.TAG, name="v1", commit=first)
    second = write(repo, alice, {"a": b"2"})
    assert repo.at_revision("v1") == first
    assert repo.at_revision("main") == second
    assert repo.at_revision(first.sha) == first
    assert repo.at_revision("nothing") is None


# --- LoRA modules ---


@pytest.fixture
def lora_repo(alice: User) -> Repo:
    return services.create_repo(owner=alice.namespace, name="opposites", kind=Repo.LORA)


def test_it_publishes_a_module_to_be_checked(lora_repo: Repo, alice: User, base_model: Any) -> None:
    module = services.publish_module(
        repo=lora_repo, author=alice, title="First", additions=adapter()
    )
    assert module.status == LoraModule.CHECKING
    assert (module.r, module.lora_alpha, module.target_modules) == (2, 4.0, ["q", "v"])
    assert module.base_model == base_model
    assert module.parameters == 2 * (2 * 8 + 8 * 2)
    assert (module.licence, module.language) == ("apache-2.0", "en")
    assert module.summary == "Answers with the opposite of an adjective."
    assert sorted(tag.name for tag in module.tags.all()) == ["opposites", "words"]
    job = Job.objects.get(kind="check_module")
    assert module.check_job == job
    assert job.params == {"lora_module": module.pk, "commit": module.commit.sha}
    assert job.user == alice


def test_a_module_of_an_unknown_base_is_kept_but_not_composable(
    alice: User, base_model: Any, publish: Any
) -> None:
    module = publish(alice, "foreign", base_model_name_or_path="someone/else")
    assert module.base_model is None and module.base_model_name == "someone/else"
    assert module.status == LoraModule.READY
    assert not LoraModule.objects.composable_on(base_model).exists()


def test_it_finds_the_base_model_by_an_alias(alice: User, base_model: Any, publish: Any) -> None:
    base_model.aliases = ["other/tiny-t5-8bit"]
    base_model.save()
    module = publish(alice, "m", base_model_name_or_path="Other/Tiny-T5-8bit")
    assert module.base_model == base_model and module.base_model_name == base_model.name


def test_a_module_is_found_when_its_base_model_comes_later(
    alice: User, publish: Any, base_folder: Any, run_job: Any
) -> None:
    from modules.bases import base_models

    module = publish(alice, "early", base_model_name_or_path="LORA-commons/tiny-t5")
    assert module.base_model is None
    repo = base_models.repo_of(base_models.organisation("lora-commons"), "tiny-t5", Repo.BASE)
    base = base_models.keep_base_model(repo=repo, folder=base_folder)
    module.refresh_from_db()
    assert module.base_model == base and module.status == LoraModule.CHECKING
    run_job(module)
    module.refresh_from_db()
    assert module.is_composable
    assert "2 adapted layers are in lora-commons/tiny-t5" in str(module.checks)


def test_a_bad_adapter_leaves_nothing_behind(lora_repo: Repo, alice: User) -> None:
    files = adapter() | {"adapter_config.json": io.BytesIO(config_bytes(r=3))}
    with pytest.raises(BadAdapter, match="rank 2"):
        services.publish_module(repo=lora_repo, author=alice, title="First", additions=files)
    assert not Commit.objects.exists() and not LoraModule.objects.exists()
    assert not Blob.objects.exists() and not Job.objects.exists()


def test_half_a_module_is_refused(lora_repo: Repo, alice: User) -> None:
    files = adapter()
    del files["adapter_model.safetensors"]
    with pytest.raises(services.BadCommit, match=r"adapter_model\.safetensors"):
        services.publish_module(repo=lora_repo, author=alice, title="First", additions=files)
    assert not Commit.objects.exists()


def test_a_plain_commit_may_bring_the_files_one_by_one(lora_repo: Repo, alice: User) -> None:
    files = adapter()
    for path in ("README.md", "adapter_config.json"):
        services.commit(repo=lora_repo, author=alice, title=path, additions={path: files[path]})
        assert not LoraModule.objects.exists()
    path = "adapter_model.safetensors"
    services.commit(repo=lora_repo, author=alice, title=path, additions={path: files[path]})
    assert LoraModule.objects.get().status == LoraModule.CHECKING
    with pytest.raises(services.BadCommit, match="Replace them"):
        services.commit(repo=lora_repo, author=alice, title="x", additions={}, deletions=[path])


def test_a_new_card_does_not_ask_for_a_new_check(opposites: LoraModule, alice: User) -> None:
    card = io.BytesIO(b"---\ntags: [antonym]\n---\nNew words.\n")
    services.commit(repo=opposites.repo, author=alice, title="Card", additions={"README.md": card})
    opposites.refresh_from_db()
    assert opposites.status == LoraModule.READY
    assert opposites.summary == "New words."
    assert [tag.name for tag in opposites.tags.all()] == ["antonym"]
    assert opposites.commit == opposites.repo.head()
    assert not Job.objects.exists()


def test_new_weights_are_checked_again(opposites: LoraModule, alice: User) -> None:
    weights = io.BytesIO(weights_bytes(seed=3))
    services.commit(
        repo=opposites.repo,
        author=alice,
        title="Better",
        additions={"adapter_model.safetensors": weights},
    )
    opposites.refresh_from_db()
    assert opposites.status == LoraModule.CHECKING
    assert Job.objects.get().params["commit"] == opposites.commit.sha


# --- names ---


@pytest.mark.parametrize(
    "name",
    [
        "", "-a", "a-", ".a", "a.", "a--b", "a..b", "a b", "a/b", "ä", "x.git", "x" * 97,
        "resolve", "Download", "tree", "a\n",
    ],
)  # fmt: skip
def test_it_refuses_a_bad_repo_name(alice: User, name: str) -> None:
    with pytest.raises(services.BadName):
        services.create_repo(owner=alice.namespace, name=name, kind=Repo.LORA)


@pytest.mark.parametrize("name", ["a", "T5-small_v1.0", "x" * 96, "1", "a_"])
def test_it_takes_a_good_repo_name(alice: User, name: str) -> None:
    assert services.create_repo(owner=alice.namespace, name=name, kind=Repo.LORA).name == name


def test_a_name_is_taken_whatever_its_capitals(alice: User, lora_repo: Repo) -> None:
    with pytest.raises(services.NameTaken, match="exists already"):
        services.create_repo(owner=alice.namespace, name="Opposites", kind=Repo.BASE)


def test_a_repo_can_be_deleted_and_the_store_keeps_the_bytes(
    opposites: LoraModule, alice: User
) -> None:
    services.commit(repo=opposites.repo, author=alice, title="x", additions={"a": io.BytesIO(b"a")})
    opposites.repo.delete()
    assert not LoraModule.objects.exists()
    assert Blob.objects.filter(pk=opposites.weights_sha256).exists()


def test_a_card_of_any_words_can_be_searched(alice: User, base_model: Any, publish: Any) -> None:
    """Each of these signs stands for six letters, and no word comes twice."""
    signs = [chr(code) for code in range(0x3300, 0x3358)]
    words = [f"{a}{b}{c}{chr(0x3316) * 8}" for a in signs[:9] for b in signs for c in signs[:8]]
    module = publish(alice, "wordy", card=f"# Wordy\n\nFirst.\n\n{' '.join(words)[:66_000]}\n")
    assert LoraModule.objects.search("wordy").get() == module
