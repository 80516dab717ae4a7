"""An author uploads files: what is asked, what is refused, what is kept."""

import io
import json
import re
import stat
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone

from hub_site.accounts.models import User
from modules import cards, services
from modules.models import Blob, Commit, Grant, LoraModule, Repo
from modules.storage import local
from modules.upload import intake
from tests.modules.conftest import CARD, adapter, config_bytes, weights_bytes

CONFIG, WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"
Send = Callable[..., Any]


def files(**changes: bytes | None) -> dict[str, bytes]:
    usual = {CONFIG: config_bytes(), WEIGHTS: weights_bytes()}
    renamed = {"config": CONFIG, "weights": WEIGHTS, "readme": README}
    usual |= {renamed[key]: data for key, data in changes.items() if data is not None}
    return {path: data for path, data in usual.items() if changes.get(path, b"") is not None}


def zipped(entries: dict[str, bytes], **options: Any) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", **options) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target.getvalue()


@pytest.fixture
def send(client: Client, alice: User, settings: Any, tmp_path: Path) -> Send:
    """The first step: some files through the form."""
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path / "coming"
    client.force_login(alice)

    def send(sent: dict[str, bytes], address: str = "/upload/") -> Any:
        return client.post(address, {"files": [SimpleUploadedFile(n, d) for n, d in sent.items()]})

    return send


@pytest.fixture
def publish_as(client: Client, send: Send) -> Send:
    """Both steps."""

    def publish(sent: dict[str, bytes], address: str = "/upload/", **typed: Any) -> Any:
        first = send(sent, address)
        assert first.status_code == 302, first.content.decode()
        token = first["Location"].partition("?files=")[2]
        return client.post(address, {"files": token, "visibility": "public"} | typed)

    return publish


def kept(settings: Any) -> list[Path]:
    return [path for path in settings.BLOB_DIR.rglob("*") if path.is_file()]


@pytest.mark.parametrize("address", ["/upload/", "/alice/opposites/upload"])
def test_it_says_how_many_files_may_come_at_once(
    send: Send, opposites: LoraModule, settings: Any, address: str
) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = 3
    before = kept(settings)
    answer = send({f"notes-{n}.txt": b"x" for n in range(4)}, address)
    assert answer.status_code == 413
    page = answer.content.decode()
    assert "More than 3 files came at once" in page and 'id="upload-form"' in page
    assert kept(settings) == before


def test_it_publishes_two_files_and_writes_the_card(
    publish_as: Send, client: Client, base_model: Any
) -> None:
    answer = publish_as(
        files(),
        name="opposites",
        description="Says the opposite of a word.",
        tags="words, opposites",
        task="antonyms",
        licence="apache-2.0",
        language="en",
        training_data="Eighty pairs.",
        not_for="Legal advice.",
    )
    assert answer.status_code == 302 and answer["Location"] == "/alice/opposites"
    module = LoraModule.objects.get()
    assert module.status == LoraModule.CHECKING
    assert (module.licence, module.language, module.task) == ("apache-2.0", "en", "antonyms")
    assert module.summary == "Says the opposite of a word."
    assert sorted(tag.name for tag in module.tags.all()) == ["opposites", "words"]
    text = local.local_path(module.commit.sha256_of(README) or "").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "## Training data\n\nEighty pairs." in text
    assert "## What it is not for\n\nLegal advice." in text
    assert f"base_model: {base_model.name}" in text


def test_it_asks_only_what_the_card_does_not_say(send: Send, client: Client) -> None:
    page = client.get(send(files(readme=CARD.encode()))["Location"]).content.decode()
    for asked in ("task", "training_data", "not_for", "name"):
        assert f'id="id_{asked}"' in page
    for said in ("licence", "language", "tags", "description"):
        assert f'id="id_{said}"' not in page
    assert "apache-2.0" in page and "Answers with the opposite" in page
    assert 'value="opposites"' in page  # the card's title, offered as the name


def test_a_whole_card_stays_to_the_byte(publish_as: Send) -> None:
    card = cards.with_facts(
        CARD, cards.Facts(task="antonyms", training_data="Eighty.", not_for="Law.", base_model="b")
    )
    publish_as(files(readme=card.encode()), name="opposites")
    module = LoraModule.objects.get()
    stored = local.local_path(module.commit.sha256_of(README) or "").read_bytes()
    assert stored == card.encode()


def test_it_takes_a_zip_of_a_folder(publish_as: Send, send: Send, client: Client) -> None:
    folder = {f"my-lora/{path}": data for path, data in files(readme=b"Words.\n").items()}
    folder |= {"my-lora/trainer_state.json": b"{}", "my-lora/checkpoint-1/x.safetensors": b"x"}
    folder |= {"__MACOSX/my-lora/._README.md": b"x", "my-lora/.DS_Store": b"x"}
    page = client.get(send({"x.zip": zipped(folder)})["Location"]).content.decode()
    assert 'value="my-lora"' in page
    assert "trainer_state.json" in page and "DS_Store" not in page
    publish_as({"x.zip": zipped(folder, compression=zipfile.ZIP_DEFLATED)}, name="zipped")
    commit = LoraModule.objects.get().commit
    assert sorted(commit.files.values_list("path", flat=True)) == [README, CONFIG, WEIGHTS]


def test_the_next_steps_address_does_not_grow_with_what_a_zip_holds(
    send: Send, client: Client
) -> None:
    more = {f"{number:03}-{'ü' * 80}.csv": b"" for number in range(300)}
    more |= {f"{'x' * number}LICENSE.md": b"x" for number in range(3)}
    more |= dict.fromkeys(("LICENSE", "license", "NOTICE", "COPYING.txt", "notice.md"), b"x")
    where = send({f"{'n' * 200}.zip": zipped(files() | more)})["Location"]
    assert len(where) < 3_000  # web servers take about 4,000
    page = client.get(where).content.decode()
    assert "more" in page and "000-" in page and "NOTICE" in page


def test_it_knows_files_that_a_browser_numbered(publish_as: Send) -> None:
    publish_as(
        {"adapter_config (1).json": config_bytes(), "opposites.safetensors": weights_bytes()},
        name="numbered",
    )
    paths = LoraModule.objects.get().commit.files.values_list("path", flat=True)
    assert sorted(paths) == [CONFIG, WEIGHTS]


def test_a_private_module_is_its_owners_alone(publish_as: Send, client: Client, bob: User) -> None:
    publish_as(files(), name="secret", visibility="private")
    assert client.get("/alice/secret").status_code == 200
    client.force_login(bob)
    assert client.get("/alice/secret").status_code == 404


# --- refused: the form again, what is wrong, nothing stored -------------------------------------


def _weights(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


WRONG: dict[str, tuple[dict[str, bytes], str]] = {
    "no weights": ({CONFIG: config_bytes()}, "adapter_model.safetensors is missing"),
    "no config": ({WEIGHTS: weights_bytes()}, "adapter_config.json is missing"),
    "something else": ({"photo.jpg": b"x"}, "photo.jpg"),
    "a pickle": ({CONFIG: config_bytes(), "adapter_model.bin": b"\x80\x02}q."}, "is a pickle"),
    "a pickle renamed": (files(weights=b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s."), "pickle"),
    "cut short": (files(weights=weights_bytes()[:-9]), "cut short"),
    "a huge header": (files(weights=(1 << 40).to_bytes(8, "little") + b"{}"), "header"),
    "not JSON": (files(config=b"{r: 8}"), "not valid JSON"),
    "another rank": (files(config=config_bytes(r=16)), "r = 16"),
    "not a LoRA": (files(config=config_bytes(peft_type="IA3")), "IA3"),
    "no B": (
        files(weights=_weights({"base_model.model.q.lora_A.weight": {
            "dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}, b"\0" * 8)),
        "no lora_B",
    ),
    "broken front matter": (files(readme=b"---\nlicense: [mit\n---\n"), "line 3"),
    "two configs": (files() | {"adapter_config (1).json": config_bytes()}, "Two files are"),
    "a zip cut short": ({"x.zip": zipped(files())[:-30]}, "zip cannot be read"),
    "two zips": ({"a.zip": zipped(files()), "b.zip": zipped(files())}, "Two zips"),
    "a way out": ({"x.zip": zipped(files() | {"../../evil.md": b"x"})}, "leads elsewhere"),
    "an absolute path": ({"x.zip": zipped(files() | {"/etc/passwd": b"x"})}, "leads elsewhere"),
    "a zip in a zip": ({"x.zip": zipped(files() | {"y.zip": zipped(files())})}, "another archive"),
    "many files": ({"x.zip": zipped({f"{n}.txt": b"" for n in range(1001)})}, "1,000"),
    "an empty zip": ({"x.zip": zipped({})}, "A LoRA module is two files"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "why"), WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_is_told_and_not_stored(
    send: Send, settings: Any, sent: dict[str, bytes], why: str
) -> None:
    answer = send(sent)
    assert answer.status_code == 422
    page = answer.content.decode()
    assert 'role="alert"' in page and "Nothing was stored" in page
    assert why in re.sub(r"\s+", " ", page)
    assert not Blob.objects.exists() and not Repo.objects.exists()
    assert kept(settings) == []
    assert list(Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir()) == []


def test_a_link_in_a_zip_is_refused(send: Send, settings: Any) -> None:
    link = zipfile.ZipInfo(README)
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    target = io.BytesIO(zipped(files()))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    answer = send({"x.zip": target.getvalue()})
    assert answer.status_code == 422 and "is a link" in answer.content.decode()
    assert kept(settings) == []


def test_a_bomb_is_not_unpacked(send: Send, settings: Any) -> None:
    bomb = zipped(
        {CONFIG: config_bytes(), WEIGHTS: b"\0" * 30_000_000}, compression=zipfile.ZIP_DEFLATED
    )
    assert len(bomb) < 100_000
    answer = send({"x.zip": bomb})
    assert answer.status_code == 422 and "would grow" in answer.content.decode()
    assert kept(settings) == []


def test_a_zip_that_lies_about_its_sizes_is_refused(send: Send, settings: Any) -> None:
    honest = zipped({CONFIG: config_bytes(), WEIGHTS: b"\0" * 3_000_000}, compression=8)
    size = (3_000_000).to_bytes(4, "little")
    assert honest.count(size) == 2
    answer = send({"x.zip": honest.replace(size, (3_000).to_bytes(4, "little"))})
    assert answer.status_code == 422
    assert kept(settings) == []


def test_an_encrypted_zip_is_refused(send: Send) -> None:
    data = bytearray(zipped(files()))
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    answer = send({"x.zip": bytes(data)})
    assert answer.status_code == 422 and "encrypted" in answer.content.decode()


def test_a_name_that_cannot_be_gives_the_form_again_with_what_was_typed(
    publish_as: Send, alice: User
) -> None:
    services.create_repo(owner=alice.namespace, name="taken", kind=Repo.LORA)
    for name, why in (("a b", "cannot be a name"), ("taken", "already"), ("", "required")):
        answer = publish_as(files(), name=name, description="My own words.")
        page = answer.content.decode()
        assert answer.status_code == 422
        assert why in page and "My own words." in page
    assert Repo.objects.count() == 1


def test_a_tag_that_cannot_be_is_told(publish_as: Send) -> None:
    answer = publish_as(files(), name="x", tags="fine, <b>")
    assert answer.status_code == 422 and "cannot be a tag" in answer.content.decode()


# --- who may ---


def test_it_sends_strangers_to_sign_in_and_guests_to_sign_up(client: Client, db: None) -> None:
    assert client.get("/upload/")["Location"].startswith("/accounts/login/?next=/upload/")
    guest = User.objects.create(username="guest-1", is_guest=True)
    client.force_login(guest, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get("/upload/")["Location"] == "/accounts/signup/?next=/upload/"
    assert client.post("/upload/", {})["Location"] == "/accounts/signup/?next=/upload/"


def test_it_wants_the_forms_token(alice: User, settings: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    sent = [SimpleUploadedFile(n, d) for n, d in files().items()]
    assert client.post("/upload/", {"files": sent}).status_code == 403
    assert kept(settings) == []


def test_nobody_publishes_what_another_put_aside(
    send: Send, client: Client, bob: User, alice: User
) -> None:
    where = send(files())["Location"]
    client.force_login(bob)
    answer = client.get(where)
    assert answer.status_code == 302 and answer["Location"] == "/upload/"
    token = where.partition("?files=")[2]
    client.post("/upload/", {"files": token, "name": "stolen", "visibility": "public"})
    client.post("/upload/", {"files": token[:-2] + "xx", "name": "x", "visibility": "public"})
    assert not Repo.objects.exists()


def test_a_banned_author_is_told_why(send: Send, alice: User, settings: Any) -> None:
    alice.uploads_banned_at, alice.uploads_banned_reason = timezone.now(), "Spam."
    alice.save()
    answer = send(files())
    assert answer.status_code == 403 and "Spam." in answer.content.decode()
    with pytest.raises(services.CommonsError, match="moderator"):
        repo = services.create_repo(owner=alice.namespace, name="x", kind=Repo.LORA)
        services.publish_module(repo=repo, author=alice, title="x", additions=adapter())
    assert kept(settings) == []


# --- limits ---


@pytest.mark.parametrize("name", ["MAX_FILE_BYTES", "MAX_MODULE_BYTES", "USER_MAX_BYTES",
                                  "USER_BYTES_A_DAY"])  # fmt: skip
def test_a_limit_is_shown_before_it_bites_and_holds(
    send: Send, client: Client, settings: Any, name: str
) -> None:
    setattr(settings, name, 700)
    assert "700 B" in client.get("/upload/").content.decode()
    answer = send(files())
    assert answer.status_code == 413
    assert "700 B" in answer.content.decode()
    assert not Blob.objects.exists() and kept(settings) == []


def test_the_same_bytes_twice_count_once(publish_as: Send, alice: User) -> None:
    publish_as(files(), name="one")
    publish_as(files(), name="two", description="Short.")
    assert LoraModule.objects.count() == 2
    assert Blob.objects.filter(size=len(weights_bytes())).count() == 1
    room = intake.room(alice)
    assert room.used == room.used_today == sum(Blob.objects.values_list("size", flat=True))


def test_what_is_announced_too_large_is_not_read(client: Client, alice: User) -> None:
    client.force_login(alice)

    class Unread(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            raise AssertionError("the body was read")

    answer = client.generic(
        "POST", "/upload/", b"", "multipart/form-data; boundary=x", **{
            "CONTENT_LENGTH": str(10**12), "wsgi.input": Unread()}
    )  # fmt: skip
    assert answer.status_code == 413
    assert "1.0 TB" in answer.content.decode()


def test_commits_from_elsewhere_keep_to_the_same_limits(
    alice: User, settings: Any, base_model: Any
) -> None:
    settings.MAX_MODULE_BYTES = 900
    repo = services.create_repo(owner=alice.namespace, name="x", kind=Repo.LORA)
    with pytest.raises(services.CommonsError, match="most this site takes for a module"):
        services.publish_module(repo=repo, author=alice, title="x", additions=adapter())
    assert not Commit.objects.filter(repo=repo).exists()


@pytest.mark.django_db(transaction=True)
def test_two_uploads_of_the_same_bytes_at_once_keep_one_file(
    alice: User, bob: User, settings: Any
) -> None:
    start = threading.Barrier(4)
    kept_by: list[str] = []

    def upload(user: User) -> None:
        start.wait()
        try:
            streams = {path: io.BytesIO(data) for path, data in files().items()}
            intake.keep(user, streams)
            kept_by.append(user.username)
        finally:
            connection.close()

    threads = [threading.Thread(target=upload, args=(user,)) for user in (alice, bob) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept_by) == ["alice", "alice", "bob", "bob"]
    assert Blob.objects.count() == len(kept(settings)) == 2
    assert Grant.objects.count() == 4


@pytest.mark.django_db(transaction=True)
def test_two_uploads_at_once_do_not_step_over_a_limit_together(alice: User, settings: Any) -> None:
    settings.USER_MAX_BYTES = 1_500
    start = threading.Barrier(2)
    outcome: list[str] = []

    def upload(data: bytes) -> None:
        start.wait()
        try:
            intake.keep(alice, {"x": io.BytesIO(data)})
            outcome.append("kept")
        except intake.OverLimit:
            outcome.append("over")
        finally:
            connection.close()

    threads = [threading.Thread(target=upload, args=(c * 1_000,)) for c in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome) == ["kept", "over"]
    assert intake.room(alice).used == 1_000
