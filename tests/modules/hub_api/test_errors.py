"""Every error, as the stock client tells it to its user; and what an attacker makes it send."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules import services
from modules.models import CommitFile, Grant, Repo
from tests.modules.conftest import Publisher, adapter, make_user
from tests.modules.hub_api.conftest import Hub
from tests.modules.hub_api.test_probes import DATA, OID

pytestmark = pytest.mark.django_db(transaction=True)


def test_every_error_reaches_its_reader(
    hub: Hub, publish: Publisher, alice: User, settings: Any
) -> None:
    """By status, with the words that say what to do."""
    publish(alice, "module")
    publish(make_user("bob"), "his")
    settings.MAX_FILE_BYTES, settings.MAX_MODULE_BYTES = 40_000, 60_000
    reader = tokens.create_token(alice, name="r", scope="read")[1]
    out = hub(f"""
def told(status, words, call, kind=HfHubHTTPError):
    error = raises(kind, call)
    assert error.response.status_code == status, (error.response.status_code, str(error))
    assert words in str(error), str(error)
def up(path="x.txt", data=b"x", to="alice/module", api=api, **rest):
    return api.upload_file(repo_id=to, path_or_fileobj=data, path_in_repo=path, **rest)
wrong, nobody, reader = (HfApi(token=t) for t in ("lc_wrong", False, {reader!r}))

card = raises(ValueError, lambda: up("README.md", b"---\\nlicense: [\\n---\\n"))
assert "README.md" in str(card), card
told(422, "addresses. Choose another name", lambda: api.create_repo("alice/resolve"))
told(400, "cannot name a branch", lambda: api.create_branch("alice/module", branch="a..b"))
told(422, "needs adapter_config.json",
     lambda: api.delete_file("adapter_config.json", repo_id="alice/module"))
told(422, "a file and a folder at once", lambda: up("README.md/x"))
for call in (lambda: wrong.model_info("alice/module"), lambda: up(api=wrong),
             lambda: wrong.hf_hub_download("alice/module", "README.md", force_download=True),
             lambda: list(wrong.list_models())):
    error = raises(Exception, call)
    assert not isinstance(error, RepositoryNotFoundError), error
    assert "Invalid" in str(error) or "Invalid" in str(error.__cause__), (error, error.__cause__)
told(401, "Sign in first", lambda: nobody.create_repo("alice/x", token=False), Exception)
told(403, "may only read", lambda: reader.create_repo("new"))
told(403, "may only read", lambda: reader.delete_repo("alice/module"))
told(403, "Only bob may change", lambda: up(to="bob/his"))
told(403, "may not write to bob", lambda: api.create_repo("bob/mine"))
told(404, "alice/none", lambda: up(to="alice/none"), RepositoryNotFoundError)
told(404, "no revision", lambda: up(revision="none"), RevisionNotFoundError)
told(404, "no 'none'", lambda: api.delete_file("none", repo_id="alice/module"), EntryNotFoundError)
told(409, "created this model repo", lambda: api.create_repo("module"))
head = api.model_info("alice/module").sha
up(data=b"1")
told(412, "was changed while you worked", lambda: up(data=b"2", parent_commit=head))
told(413, "larger than", lambda: up("large.bin", os.urandom(40_001)))
up("one.gz", os.urandom(39_000))
told(413, "for a module", lambda: up("two.gz", os.urandom(39_000)))
told(501, "does not offer", lambda: up(create_pr=True))
print(reader.whoami()["auth"]["accessToken"]["role"], reader.model_info("alice/module").id)
""").splitlines()
    assert out == ["read alice/module"]
    assert set(Repo.objects.values_list("name", flat=True)) == {"module", "his"}
    assert not Grant.objects.filter(blob__size=40_001).exists()


def test_a_client_in_an_attackers_hands(hub: Hub, alice: User, base_model: Any) -> None:
    """The probes of test_probes.py against a server, with nothing of the client's own care."""
    bob = make_user("bob")
    his = services.create_repo(
        owner=bob.namespace, name="his", kind=Repo.LORA, visibility=Repo.PRIVATE
    )
    services.commit(repo=his, author=bob, title="x", additions=adapter())
    secret = his.head().files.get(path="adapter_model.safetensors").blob  # type: ignore[union-attr]
    services.create_repo(owner=alice.namespace, name="mine", kind=Repo.LORA)
    out = hub(f"""
import base64
from huggingface_hub.utils import build_hf_headers, get_session
site, mine = os.environ["HF_ENDPOINT"], "/api/models/alice/mine"
def send(way, path, data=b"", token=None):
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    sent = {{"content" if "httpx" in sys.modules or "httpx2" in sys.modules else "data": data}}
    url = path if path.startswith("http") else site + path
    return get_session().request(way, url, headers=build_hf_headers(token=token), **sent)
def commit(*changes):
    lines = [("header", {{"summary": "x"}}), *changes]
    return send("POST", mine + "/commit/main",
                b"".join(json.dumps({{"key": k, "value": v}}).encode() + b"\\n" for k, v in lines))
def by_hash(path, oid, size):
    return "lfsFile", {{"path": path, "algo": "sha256", "oid": oid, "size": size}}
def batch(oid, size):
    asked = {{"operation": "upload", "objects": [{{"oid": oid, "size": size}}]}}
    return send("POST", "/alice/mine.git/info/lfs/objects/batch", asked).json()["objects"][0]
data, oid = {DATA!r}, {OID!r}

print("stolen", commit(by_hash("x", {secret.sha256!r}, {secret.size})).status_code,
      "actions" in batch({secret.sha256!r}, {secret.size}), api.file_exists("alice/mine", "x"),
      send("GET", "/bob/his/resolve/main/adapter_model.safetensors").headers["X-Error-Code"])
text = base64.b64encode(data).decode()
for path in ("../x", "/etc/x", "a//b", "a/../b", "", "a\\\\b", "a\\0b", ".git/x"):
    inline = "file", {{"content": text, "path": path, "encoding": "base64"}}
    for change in (inline, by_hash(path, oid, len(data))):
        assert commit(change).status_code in (400, 422), path
    assert send("GET", "/alice/mine/resolve/main/" + path.replace("\\0", "%00")).status_code == 404
href = batch(oid, len(data))["actions"]["upload"]["href"]
print("ticket", *(send("PUT", href, sent, token=False).status_code
                  for sent in (data[:-1], data[:-1] + b"!", data + b"!", b"", data, data)),
      send("PUT", href[:-1] + "x", data).status_code,
      send("POST", href + "/verify", token=False).status_code)
print("foreign", *(send(way, path, body, token).status_code for token in (None, False)
    for way, path, body in (
        ("POST", "/api/repos/create", {{"organization": "bob", "name": "x"}}),
        ("DELETE", "/api/repos/delete", {{"organization": "bob", "name": "his"}}),
        ("POST", "/api/repos/move", {{"fromRepo": "bob/his", "toRepo": "alice/his"}}),
        ("PUT", "/api/models/bob/his/settings", {{"private": False}}),
        ("POST", "/api/models/bob/his/commit/main", b""),
        ("POST", "/bob/his.git/info/lfs/objects/batch", {{"operation": "upload"}}),
        ("GET", "/api/models/bob/his/xet-write-token/main", b""))))
done = commit(by_hash("a.txt", oid, len(data)))
print("mine", done.status_code, api.list_repo_files("alice/mine"))
""").splitlines()
    assert out == [
        "stolen 422 True False RepoNotFound",
        "ticket 422 422 413 422 200 403 403 401",
        "foreign 403 404 404 404 404 404 404 401 401 401 401 401 401 401",
        "mine 200 ['a.txt']",
    ]
    assert hashlib.sha256(DATA).hexdigest() == OID
    assert not CommitFile.objects.filter(commit__repo__name="mine", blob=secret).exists()
    assert his.head() is not None and Repo.objects.get(pk=his.pk).is_private
