"""Deleting an account: what goes, what stays, who may ask; and taking everything along first."""

import io
import json
import time
import zipfile
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth import SESSION_KEY
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.test import Client

from composer import publishing, task_writing
from composer.engine.examples import Example
from composer.models import FewShotTask, Ingredient, Recipe, Search
from hub_site.accounts import guests, leaving, names
from hub_site.accounts.models import Namespace, User
from hub_site.accounts.notices import notify
from hub_site.accounts.tokens import create_token
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.community import likes
from modules.models import BaseModel, Collection, CollectionItem, LoraModule, Repo
from modules.repos import gate
from modules.services import update_listed
from tests.composer import finished

pytestmark = pytest.mark.django_db

PAGE, EXPORT = "/accounts/delete/", "/accounts/export/"
PASSWORD = "a-long-walk-home"
SECRET = "a secret example"


@pytest.fixture(autouse=True)
def _no_limits_of_other_tests() -> None:
    cache.clear()


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD)


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob", password=PASSWORD)


@pytest.fixture
def adas_modules(ada: User, lora_modules: list[LoraModule]) -> list[LoraModule]:
    """All but the last are public."""
    pks = [module.repo_id for module in lora_modules]
    Repo.objects.filter(pk__in=pks).update(owner=ada.namespace)
    Repo.objects.filter(pk=pks[-1]).update(visibility=Repo.PRIVATE)
    found = list(LoraModule.objects.filter(repo__in=pks).order_by("repo_id"))
    for module in found:
        update_listed(module)
    return found


def search_of(user: User, base_model: BaseModel, number: int = 0) -> Search:
    task = task_writing.create_task(
        user=user,
        name="Opposites",
        base_model=base_model,
        shots=[Example(SECRET, "small"), Example(f"hot {number}", "cold")],
        held_out=[Example("up", "down"), Example("left", "right"), Example("old", "new")],
    )
    search = finished.start(task, user)
    return finished.finish(Search.objects.get(pk=search.pk))


def published(user: User, base_model: BaseModel, *, shows: bool = False, number: int = 0) -> Recipe:
    search = search_of(user, base_model, number)
    return publishing.publish(search=search, user=user, title="Turns around", show_examples=shows)


def delete(client: Client, user: User, **data: str) -> Any:
    client.force_login(user)
    return client.post(PAGE, {"password": PASSWORD, **data})


# --- the page ----------------------------------------------------------------------------------
def test_the_page_says_what_happens_and_lets_choose(
    client: Client, ada: User, adas_modules: list[LoraModule], base_model: BaseModel
) -> None:
    client.force_login(ada)
    page = client.get(PAGE)
    assert page.status_code == 200
    assert f"Your {len(adas_modules) - 1} public module" in page.text
    assert "1 module that nobody else sees" in page.text
    assert "checked" not in page.text.split("<form")[-1]


def test_gated_modules_that_nobody_could_open_any_more_go_too(
    client: Client, ada: User, bob: User, adas_modules: list[LoraModule]
) -> None:
    """Where people are let in at once, nobody needs to answer: those stay as they are."""
    by_word, at_once = adas_modules[0].repo, adas_modules[1].repo
    gate.set_gate(by_word, Repo.MANUAL)
    gate.set_gate(at_once, Repo.AUTO)
    gate.ask(by_word, bob)
    client.force_login(ada)
    page = client.get(PAGE)
    assert f"Your {len(adas_modules) - 2} public module" in page.text
    assert "1 gated module where you answer the requests" in page.text
    assert "1 module that nobody else sees" in page.text
    assert delete(client, ada, modules="keep").status_code == 302
    assert not Repo.objects.filter(pk=by_word.pk).exists()
    assert gate.ask(Repo.objects.get(pk=at_once.pk), bob).state == "accepted"
    assert bob.notices.count() == 0


def test_nothing_happens_without_a_choice(
    client: Client, ada: User, adas_modules: list[LoraModule]
) -> None:
    answer = delete(client, ada)
    assert answer.status_code == 422
    assert "Choose what happens to your public modules" in answer.text
    assert User.objects.filter(pk=ada.pk).exists()


def test_nothing_happens_with_a_wrong_password(client: Client, ada: User) -> None:
    answer = delete(client, ada, password="wrong")
    assert answer.status_code == 422
    assert "not your password" in answer.text
    assert "wrong" not in answer.text.split("<form")[-1].split('name="password"')[1].split(">")[0]
    assert User.objects.filter(pk=ada.pk).exists()


def test_it_cannot_be_guessed(client: Client, ada: User) -> None:
    answers = [delete(client, ada, password=f"guess {n}").status_code for n in range(12)]
    assert answers[-1] == 429
    assert delete(client, ada).status_code == 429
    assert User.objects.filter(pk=ada.pk).exists()


def test_strangers_and_guests_have_nothing_to_delete(client: Client) -> None:
    assert client.get(PAGE).headers["Location"].startswith("/accounts/login/")
    client.force_login(User.objects.create(username="guest-1", is_guest=True))
    assert client.post(PAGE).headers["Location"] == "/accounts/signup/"
    assert User.objects.exists()


def test_whoever_has_no_password_must_have_just_signed_in(client: Client, ada: User) -> None:
    ada.set_unusable_password()
    ada.save()
    answer = delete(client, ada, name="ada")
    assert "You signed in a while ago" in answer.text
    session = client.session
    session["account_authentication_methods"] = [{"method": "socialaccount", "at": time.time()}]
    session["account_authentication_methods_user"] = str(ada.pk)
    session.save()
    assert "your own name" in client.post(PAGE, {"name": "bob"}).text
    client.post(PAGE, {"name": "ada"})
    assert not User.objects.exists()


def test_the_last_administrator_stays(client: Client, ada: User, bob: User) -> None:
    User.objects.filter(pk=ada.pk).update(is_superuser=True)
    assert "only administrator" in delete(client, ada).text
    User.objects.filter(pk=bob.pk).update(is_superuser=True)
    delete(client, ada)
    assert list(User.objects.all()) == [bob]


def test_an_administrator_makes_and_deletes_accounts(
    client: Client, ada: User, adas_modules: list[LoraModule]
) -> None:
    """Where registration is closed, accounts are made in the admin."""
    client.force_login(User.objects.create_superuser("grace"))
    new = {"username": "carol", "password1": PASSWORD, "password2": PASSWORD}
    client.post("/admin/accounts/user/add/", new | {"usable_password": "true"})
    carol = User.objects.get(username="carol")
    assert carol.namespace.name == "carol"
    page = client.get(f"/admin/accounts/user/{carol.pk}/change/")
    assert 'name="username"' not in page.text
    client.post(f"/admin/accounts/user/{ada.pk}/delete/", {"post": "yes"})
    assert not User.objects.filter(pk=ada.pk).exists()
    assert not LoraModule.objects.exists()
    assert Namespace.objects.get(name="ada").kind == Namespace.FORMER


def test_many_accounts_deleted_at_once_leave_as_one_does(
    client: Client, ada: User, bob: User, adas_modules: list[LoraModule]
) -> None:
    module = adas_modules[0]
    likes.of_modules.set(module, bob, True)
    client.force_login(User.objects.create_superuser("grace"))
    data = {"action": "delete_selected", "_selected_action": [bob.pk], "post": "yes"}
    client.post("/admin/accounts/user/", data)
    assert not User.objects.filter(pk=bob.pk).exists()
    module.refresh_from_db()
    assert module.likes == 0
    space = f"/admin/accounts/namespace/{ada.namespace.pk}/delete/"
    assert client.post(space, {"post": "yes"}).status_code == 403
    assert LoraModule.objects.filter(pk=module.pk).exists()


# --- what goes ---------------------------------------------------------------------------------
def test_everything_private_goes(
    client: Client, ada: User, bob: User, base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    search_of(ada, base_model)
    create_token(ada, name="laptop", scope="read")
    EmailAddress.objects.create(user=ada, email="ada@example.org")
    notify(ada, "Done.")
    likes.of_modules.set(lora_modules[0], ada, True)
    likes.of_modules.set(lora_modules[0], bob, True)
    other = Client()
    other.force_login(ada)
    delete(client, ada)
    assert list(User.objects.all()) == [bob]
    assert SESSION_KEY not in client.session
    assert other.get("/accounts/settings/").status_code == 302
    for model in (FewShotTask, Search, Job, Recipe, EmailAddress):
        assert not model.objects.exclude(pk=None).filter(**_but_checks(model)).exists(), model
    lora_modules[0].refresh_from_db()
    assert lora_modules[0].likes == 1


def _but_checks(model: type) -> dict[str, str]:
    return {"kind": "compose"} if model is Job else {}


def test_a_recipe_that_two_found_stays_with_the_other(
    ada: User, bob: User, base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    mine, theirs = search_of(ada, base_model), search_of(bob, base_model)
    Search.objects.filter(pk=theirs.pk).update(recipe=mine.recipe)
    Recipe.objects.exclude(pk=mine.recipe_id).delete()
    leaving.delete_account(ada, keep_public=False)
    assert Recipe.objects.get().pk == mine.recipe_id


def test_a_job_that_runs_ends_cleanly(ada: User, base_model: BaseModel, lora_modules: Any) -> None:
    Job.objects.all().delete()
    job = queue.submit("test_idle", user=ada, params={})
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == job.pk
    leaving.delete_account(ada, keep_public=False)
    with pytest.raises(queue.LeaseLost):
        queue.heartbeat(claimed)
    with pytest.raises(queue.LeaseLost), queue.finish(claimed, {}):
        pass


# --- published recipes -------------------------------------------------------------------------
@pytest.mark.parametrize("shows", [True, False])
def test_a_published_recipe_stays_without_the_name(
    client: Client, ada: User, base_model: BaseModel, lora_modules: Any, shows: bool
) -> None:
    recipe = published(ada, base_model, shows=shows)
    before = Client().get(recipe.get_absolute_url())
    assert before.status_code == 200 and 'href="/ada"' in before.text
    delete(client, ada)
    after = Client().get(recipe.get_absolute_url())
    assert after.status_code == 200
    assert 'href="/ada"' not in after.text
    assert (SECRET in after.text) == shows
    assert after.context["recipe"].published_search.job.user is None
    kept = Search.objects.get()
    assert (SECRET in json.dumps([kept.examples, kept.evidence])) == shows
    assert Client().get(f"{recipe.get_absolute_url()}recipe.json").json()["evidence"]["methods"]


# --- modules -----------------------------------------------------------------------------------
def test_public_modules_are_left_to_the_community(
    client: Client, ada: User, bob: User, adas_modules: list[LoraModule], base_model: BaseModel
) -> None:
    *public, private = adas_modules
    address, hers = public[0].get_absolute_url(), private.get_absolute_url()
    assert Client().get(hers).status_code == 404
    assert delete(client, ada, modules="keep").status_code == 302
    assert set(LoraModule.objects.values_list("pk", flat=True)) == {m.pk for m in public}
    space = Namespace.objects.get(name="ada")
    assert (space.kind, space.user) == (Namespace.FORMER, None)
    assert Client().get(address).status_code == 200
    assert "deleted the account" in Client().get("/ada").text
    client.force_login(bob)
    assert client.get(hers).status_code == 404


def test_all_modules_go_and_recipes_keep_their_names(
    client: Client, ada: User, bob: User, adas_modules: list[LoraModule], base_model: BaseModel
) -> None:
    Repo.objects.update(visibility=Repo.PUBLIC)
    recipe = published(bob, base_model)
    ingredients = list(recipe.ingredients.values_list("name", "weights_sha256"))
    delete(client, ada, modules="delete")
    assert not LoraModule.objects.exists()
    assert Repo.objects.filter(kind=Repo.BASE).exists()
    assert list(recipe.ingredients.values_list("name", "weights_sha256")) == ingredients
    assert set(Ingredient.objects.values_list("lora_module", flat=True)) == {None}
    assert Client().get(recipe.get_absolute_url()).status_code == 200


@pytest.mark.parametrize("choice", ["keep", "delete"])
def test_nobody_takes_the_name_of_whoever_shared_something(
    client: Client, ada: User, adas_modules: list[LoraModule], choice: str
) -> None:
    delete(client, ada, modules=choice)
    with pytest.raises(Exception, match="is taken"):
        names.check_free("Ada")
    assert Client().get("/ada").status_code == 200


def test_a_name_that_a_collection_or_a_recipe_had_is_never_free_again(
    ada: User, bob: User, base_model: BaseModel, adas_modules: list[LoraModule]
) -> None:
    Collection.objects.create(owner=bob.namespace, name="best", title="The best")
    Repo.objects.update(visibility=Repo.PUBLIC)
    published(bob, base_model)
    Repo.objects.filter(owner=ada.namespace).delete()
    assert Ingredient.objects.filter(lora_module=None, name__startswith="ada/").exists()
    for user in (ada, bob):
        leaving.delete_account(user, keep_public=True)
        with pytest.raises(ValidationError, match="taken"):
            names.check_free(user.username.title())


def test_the_name_of_whoever_shared_nothing_is_free(client: Client, ada: User) -> None:
    delete(client, ada)
    names.check_free("ada")


def test_a_check_on_its_way_still_ends_for_a_module_that_stays(
    ada: User, adas_modules: list[LoraModule]
) -> None:
    Job.objects.all().delete()
    module = adas_modules[0]
    params = {"lora_module": module.pk, "commit": module.commit.sha}
    job = queue.submit("check_module", user=ada, params=params)
    LoraModule.objects.filter(pk=module.pk).update(check_job=job, status="checking")
    leaving.delete_account(ada, keep_public=True)
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == job.pk
    queue.fail(claimed, "crashed", "It died.")
    module.refresh_from_db()
    assert module.status == "rejected"


def test_a_hidden_module_is_not_left_behind(ada: User, adas_modules: list[LoraModule]) -> None:
    module = adas_modules[0]
    Repo.objects.filter(pk=module.repo_id).update(hidden_at="2026-01-01T00:00Z")
    module = LoraModule.objects.select_related("repo").get(pk=module.pk)
    update_listed(module)
    leaving.delete_account(ada, keep_public=True)
    assert not LoraModule.objects.filter(pk=module.pk).exists()


# --- guests ------------------------------------------------------------------------------------
def test_a_guests_likes_and_recipes_go_with_them(
    base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    guest = User.objects.create(username="guest-1", is_guest=True)
    search_of(guest, base_model)
    likes.of_modules.set(lora_modules[0], guest, True)
    guests.forget(guest)
    lora_modules[0].refresh_from_db()
    assert lora_modules[0].likes == 0
    assert not Recipe.objects.exists()


def test_a_search_of_a_guest_who_signs_in_meanwhile_ends_as_the_accounts(
    bob: User, base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    guest = User.objects.create(username="guest-1", is_guest=True)
    task = task_writing.create_task(
        user=guest,
        name="Opposites",
        base_model=base_model,
        shots=[Example("big", "small"), Example("hot", "cold")],
        held_out=[Example("up", "down"), Example("left", "right"), Example("old", "new")],
    )
    search = finished.start(task, guest)
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == search.pk
    guests.hand_over(guest, bob)
    queue.fail(claimed, "crashed", "It died.")
    claimed.refresh_from_db()
    assert claimed.state == "failed"
    assert "It died." in bob.notices.get().text


# --- taking it along ---------------------------------------------------------------------------
def test_the_export_has_everything_and_no_secret(
    client: Client, ada: User, bob: User, adas_modules: list[LoraModule], base_model: BaseModel
) -> None:
    Repo.objects.update(visibility=Repo.PUBLIC)
    _, plain = create_token(ada, name="laptop", scope="write")
    EmailAddress.objects.create(user=ada, email="ada@example.org", verified=True)
    published(ada, base_model)
    notify(ada, "Something ended.", "/recipes/")
    likes.of_modules.set(adas_modules[0], ada, True)
    collection = Collection.objects.create(owner=ada.namespace, name="best", title="The best")
    CollectionItem.objects.create(
        collection=collection, lora_module=adas_modules[1], position=0, note="strong"
    )
    notify(bob, "Not hers.")
    gate.set_gate(adas_modules[1].repo, Repo.MANUAL)
    gate.ask(adas_modules[1].repo, bob, "Not hers, either.")
    client.force_login(ada)
    answer = client.get(EXPORT)
    assert 'filename="lora-commons-ada.zip"' in answer.headers["Content-Disposition"]
    archive = zipfile.ZipFile(io.BytesIO(b"".join(answer.streaming_content)))
    texts = {name: archive.read(name).decode() for name in archive.namelist()}
    found = {name: json.loads(text) for name, text in texts.items() if name.endswith(".json")}
    assert found["profile.json"][0]["email_addresses"][0]["email"] == "ada@example.org"
    assert found["tasks.json"][0]["examples"][1]["input"] == "up" or SECRET in texts["tasks.json"]
    assert found["searches.json"][0]["recipe"]["weights"]
    assert found["searches.json"][0]["evidence"]["answers"]
    assert found["recipes.json"][0]["title"] == "Turns around"
    assert found["collections.json"][0]["modules"][0]["note"] == "strong"
    assert found["likes.json"][0]["name"] == str(adas_modules[0].repo)
    notices = [each["text"] for each in found["notices.json"]]
    assert notices == ["bob asks for access to ada/module-1.", "Something ended."]
    assert found["tokens.json"][0]["name"] == "laptop"
    everything = "".join(texts.values())
    ada.refresh_from_db()
    token = ada.tokens.get()
    for secret in (plain, token.digest, ada.password, "Not hers"):
        assert secret not in everything
    assert set(archive.read("README.txt").decode().split()) >= set(found)
    file = found["modules.json"][0]["versions"][0]["files"][0]
    path = file["url"].removeprefix("http://testserver")
    assert len(b"".join(client.get(path).streaming_content)) == file["size"]


def test_the_export_tells_no_names_that_others_made_private(
    client: Client, bob: User, adas_modules: list[LoraModule]
) -> None:
    """What bob liked, collected and asked access to while everybody saw it."""
    repo = adas_modules[0].repo
    gate.set_gate(repo, Repo.MANUAL)
    gate.ask(repo, bob, "For a study.")
    likes.of_modules.set(adas_modules[0], bob, True)
    collection = Collection.objects.create(owner=bob.namespace, name="best", title="The best")
    CollectionItem.objects.create(collection=collection, lora_module=adas_modules[0], position=0)
    Repo.objects.filter(pk=repo.pk).update(visibility=Repo.PRIVATE, name="a-new-secret")
    client.force_login(bob)
    archive = zipfile.ZipFile(io.BytesIO(b"".join(client.get(EXPORT).streaming_content)))
    assert json.loads(archive.read("likes.json")) == []
    assert json.loads(archive.read("collections.json"))[0]["modules"] == []
    (asked,) = json.loads(archive.read("access.json"))
    assert (asked["name"], asked["message"]) == (None, "For a study.")


def test_the_export_of_an_empty_account_is_whole(client: Client, ada: User) -> None:
    client.force_login(ada)
    archive = zipfile.ZipFile(io.BytesIO(b"".join(client.get(EXPORT).streaming_content)))
    assert json.loads(archive.read("tasks.json")) == []
    assert json.loads(archive.read("profile.json"))[0]["name"] == "ada"


def test_the_export_is_for_its_owner(client: Client) -> None:
    assert client.get(EXPORT).headers["Location"].startswith("/accounts/login/")
    client.force_login(User.objects.create_user("ada"))
    assert client.post(EXPORT).status_code == 405
