"""Recipe files from elsewhere: read strictly, kept for their importer, never believed."""

import copy
import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from composer import (
    artifacts,
    proof,
    publishing,
    recipe_import,
    services,
    verifications,
    verifying,
)
from composer.engine import recipe as engine_recipe
from composer.engine.errors import BadRecipe
from composer.limits import OverLimit
from composer.models import FewShotTask, Recipe, RecipeImport, Search
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.worker import Lease
from modules.models import LoraModule
from tests.composer import finished, verified
from tests.engine.test_recipe_schema import VALIDATOR

PAGE = "/recipes/import/"


@pytest.fixture
def document(task: FewShotTask, alice: User) -> dict[str, Any]:
    """What another site wrote: the search and the recipe are gone from here."""
    search = finished.finish(finished.start(task, alice))
    recipe = publishing.publish(search=search, user=alice, title="Opposites")
    found = artifacts.recipe_json(recipe)
    Search.objects.all().delete()
    Recipe.objects.all().delete()
    return found


STATED: dict[str, Any] = {}


@pytest.fixture
def stated(task: FewShotTask, alice: User) -> dict[str, Any]:
    """A file with all that a search here measured, its examples too; nothing of it is here. One
    search is enough: a file is the same whenever it was written."""
    if not STATED:
        search = verified.search_on(task, alice)
        STATED.update(artifacts.recipe_json(verified.publish(search, alice, show_examples=True)))
        search.job.delete()
        Recipe.objects.all().delete()
    return copy.deepcopy(STATED)


def anew(document: dict[str, Any]) -> dict[str, Any]:
    return verified.anew(document)


def bring(client: Client, document: Any, **fields: Any) -> Any:
    text = document if isinstance(document, str) else json.dumps(document)
    return client.post(PAGE, {"text": text, **fields})


def test_it_gets_a_page_that_only_its_importer_sees(
    client: Client, document: dict[str, Any], bob: User, alice: User
) -> None:
    client.force_login(bob)
    answer = bring(client, document, title="From afar")
    recipe = Recipe.objects.get()
    assert answer.status_code == 302 and answer.url == recipe.get_absolute_url()
    assert recipe.digest == document["id"] and "evidence" not in recipe.document
    page = client.get(answer.url).text
    assert "From afar" in page and "You brought this recipe as a file." in page
    assert "All of its modules are here" in page
    assert [each.lora_module is not None for each in recipe.ingredients.all()] == [True] * 4
    for other in (None, alice):
        client.logout()
        if other:
            client.force_login(other)
        assert client.get(answer.url).status_code == 404


def test_its_scores_are_shown_as_stated_and_not_as_measured(
    client: Client, document: dict[str, Any], bob: User
) -> None:
    client.force_login(bob)
    page = client.get(bring(client, document).url).text
    assert "Stated by the file, not checked here" in page
    assert "2 of 3" in page
    assert 'id="evidence-head"' not in page
    assert "evidence" not in client.get(f"/recipes/{document['id']}/recipe.json").json()


def test_modules_are_found_by_their_hash_whatever_they_are_called(
    document: dict[str, Any], bob: User, lora_modules: list[LoraModule]
) -> None:
    document["spec"]["ingredients"][0] |= {"repo": "elsewhere/mod", "revision": "ab" * 20}
    found = recipe_import.bring(user=bob, document=anew(document))
    assert recipe_import.missing(found) == []
    assert found.recipe.ingredients.first().lora_module == lora_modules[0]


def test_what_is_missing_is_listed_with_where_it_might_be(
    client: Client, document: dict[str, Any], bob: User, settings: Any
) -> None:
    settings.HUB_ENDPOINT = "https://hub.example"
    gone = {"repo": "lab/gone", "revision": "ab" * 20, "sha256": "cd" * 32}
    document["spec"]["ingredients"][1] = gone
    document["evidence"]["site"] = "https://other.example"
    client.force_login(bob)
    page = client.get(bring(client, anew(document)).url).text
    assert 'href="https://hub.example/lab/gone"' in page
    assert "https://other.example" in page
    assert "remixing it works with the modules that are" in page
    assert "Repeat the whole search" not in page
    fetch = re.search(r'href="(/import/[^"]*)">Import the missing modules', page)
    assert fetch
    assert ">\nlab/gone</textarea>" in client.get(fetch[1]).text


def test_a_base_model_that_is_not_here_keeps_nothing_else_from_working(
    client: Client, document: dict[str, Any], bob: User
) -> None:
    document["spec"]["base_model"]["repo"] = "lab/large"
    client.force_login(bob)
    answer = bring(client, anew(document))
    page = client.get(answer.url).text
    assert "lab/large" in page and "(base model)" in page
    assert client.get("/recipes/").status_code == 200
    assert client.get(f"/api/v1{answer.url}").json()["base_model"] == "lab/large"


def test_it_is_verified_where_everything_is_here(stated: dict[str, Any], bob: User) -> None:
    found = recipe_import.bring(user=bob, document=stated)
    row = verified.verify(found.recipe, bob, "search")
    assert (row.outcome, row.differs) == ("matched", [])
    assert [each["what"] for each in row.unchecked] == [proof.EXAMPLE]  # its hash is salted
    assert row.imported == found


@pytest.mark.parametrize("what", [each for each in proof.TWELVE if each not in (
    proof.REVISION, proof.BASE_REVISION, proof.SCALING,
)])  # fmt: skip
def test_a_tampered_file_is_found_out_when_it_is_run(
    stated: dict[str, Any], bob: User, what: str
) -> None:
    """Its id and digests fit; another site's revisions are its own, so they are only told."""
    document = verified.tampered(stated, what)
    if what == proof.EXAMPLE:
        document["evidence"]["examples"]["shots"][1] = ["hot", "a new"]
    found = recipe_import.bring(user=bob, document=verified.anew(document))
    row = verified.verify(found.recipe, bob)
    assert {each["what"] for each in row.differs} == {what}, row.differs


@pytest.mark.parametrize("what", proof.TWELVE)
def test_a_file_changed_by_hand_is_refused_by_the_parts_name(
    client: Client, document: dict[str, Any], bob: User, what: str
) -> None:
    client.force_login(bob)
    answer = bring(client, verified.tampered(document, what))
    assert answer.status_code == 422
    _, _, said = answer.text.partition("Changed in it since it was written: ")
    assert f"{what} (" in said[:400]
    assert not Recipe.objects.exists()


@pytest.mark.parametrize(("text", "said"), [
    ("", "Bring a file or paste its text"),
    ("{", "This is not JSON"),
    ("[1]", "A recipe is a JSON object"),
    ("[" * 3000, "This is not JSON"),
    ('{"schema": 3}', "schema is 3"),
    ('{"schema": 2, "spec": {}, "weights": []}', "has no &#x27;base_model&#x27;"),
    ('{"schema": 2, "x": "\\u0000"}', "characters that are not text"),
    ('{"schema": 2, "x": 1e999}', "infinite or none"),
], ids=lambda each: each[:20])  # fmt: skip
def test_a_bad_file_is_told_why(client: Client, bob: User, text: str, said: str) -> None:
    client.force_login(bob)
    answer = bring(client, text)
    assert answer.status_code == 422
    assert said in answer.text


def test_pins_must_be_pins(document: dict[str, Any]) -> None:
    for key, value in (("sha256", "x"), ("repo", "a" * 300), ("revision", "b" * 50)):
        wrong = copy.deepcopy(document)
        wrong["spec"]["ingredients"][0][key] = value
        with pytest.raises(BadRecipe):
            recipe_import.checked(anew(wrong))
        assert not VALIDATOR.is_valid(wrong)
    assert VALIDATOR.is_valid(document)


def test_an_adapters_zip_and_its_weights_carry_one(
    task: FewShotTask, alice: User, bob: User, client: Client
) -> None:
    recipe = verified.publish(verified.search_on(task, alice), alice)
    whole = b"".join(artifacts.zip_adapter(recipe))
    weights = zipfile.ZipFile(io.BytesIO(whole)).read("adapter_model.safetensors")
    client.force_login(bob)
    for name, data in (("adapter.zip", whole), ("adapter_model.safetensors", weights)):
        file = io.BytesIO(data)
        file.name = name
        answer = client.post(PAGE, {"file": file})
        assert answer.status_code == 302 and answer.url == recipe.get_absolute_url()
    for name, data in (("adapter.zip", b"PK no zip"), ("a.safetensors", b"12345678")):
        file = io.BytesIO(data)
        file.name = name
        assert client.post(PAGE, {"file": file}).status_code == 422


def test_a_file_opens_nothing(
    client: Client, document: dict[str, Any], bob: User, alice: User, lora_modules: list[LoraModule]
) -> None:
    """Neither a private module, nor an adapter that somebody made of it."""
    repo = lora_modules[0].repo
    found = recipe_import.bring(user=bob, document=document)
    Recipe.objects.update(adapter=lora_modules[0].weights_sha256, adapter_config={"r": 8})
    repo.visibility = "private"
    repo.save()
    client.force_login(bob)
    assert client.get(f"{found.recipe.get_absolute_url()}adapter.zip").status_code == 403
    client.post(f"{found.recipe.get_absolute_url()}verify", {"kind": "evaluation"})
    assert not found.recipe.verifications.exists()


def test_bringing_it_again_keeps_one_and_removing_it_leaves_none(
    client: Client, document: dict[str, Any], bob: User
) -> None:
    client.force_login(bob)
    bring(client, document, title="One")
    bring(client, document, title="Two")
    assert [each.title for each in RecipeImport.objects.all()] == ["Two"]
    assert "Two" in client.get(PAGE).text
    client.post(reverse("composer:recipe_import_remove", args=[document["id"]]))
    assert not Recipe.objects.exists() and not RecipeImport.objects.exists()


def test_what_others_have_too_stays_when_its_importer_leaves(
    document: dict[str, Any], alice: User, bob: User
) -> None:
    for user in (alice, bob):
        recipe_import.bring(user=user, document=document)
    services.forget_searches(bob)
    assert Recipe.objects.get().imports.get().user == alice
    services.forget_searches(alice)
    assert not Recipe.objects.exists()


def test_the_program_brings_one_too(client: Client, document: dict[str, Any], bob: User) -> None:
    client.force_login(bob)

    def post(body: Any) -> Any:
        return client.post("/api/v1/recipes/import/", body, content_type="application/json")

    answer = post({"document": document, "title": "By program"})
    assert answer.status_code == 201
    assert answer.json() == {"digest": document["id"], "title": "By program", "missing": []}
    changed = verified.tampered(document, proof.SEED)
    assert post({"document": changed}).json()["message"].endswith("written: seed (4).")
    client.logout()
    assert post({"document": document}).status_code == 401


def test_it_can_be_remixed(client: Client, document: dict[str, Any], bob: User) -> None:
    client.force_login(bob)
    recipe_import.bring(user=bob, document=document)
    page = client.get(f"/tasks/new/?recipe={document['id']}")
    assert page.status_code == 200
    assert engine_recipe.check(document).spec["template"] in page.text


def test_a_damaged_zip_is_told_as_one() -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recipe.json", json.dumps({"schema": 2, "text": "abc " * 500}))
    data = bytearray(whole.getvalue())
    start = data.index(b"recipe.json") + len(b"recipe.json")
    data[start : start + 12] = b"\xff" * 12
    with pytest.raises(BadRecipe, match="not a zip that can be read"):
        recipe_import.read(io.BytesIO(bytes(data)), "adapter.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_byte_of_a_zip_may_be_wrong(method: int) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        archive.writestr("recipe.json", json.dumps({"schema": 2, "text": "abc " * 50}))
        archive.writestr("größe.txt", "x")
    for place in range(4, len(whole.getvalue())):
        for value in (0, 255):
            data = bytearray(whole.getvalue())
            data[place] = value
            with pytest.raises(BadRecipe):
                recipe_import.read(io.BytesIO(bytes(data)), "adapter.zip")


def _too_large(document: dict[str, Any]) -> None:
    document["weights"][0] = 10**400


def _no_ingredients(document: dict[str, Any]) -> None:
    document["spec"]["ingredients"] = []
    document["spec"]["combination"] = "lorahub"


def _fewer_revisions(document: dict[str, Any]) -> None:
    document["evidence"]["proof"]["parts"]["revision"] = []


def _fewer_signs(document: dict[str, Any]) -> None:
    document["evidence"]["proof"]["parts"]["sign"] = "+"


@pytest.mark.parametrize("spoil", [_too_large, _no_ingredients, _fewer_revisions, _fewer_signs])
def test_whatever_is_wrong_in_it_is_told(
    client: Client, document: dict[str, Any], bob: User, spoil: Callable[[dict[str, Any]], None]
) -> None:
    spoil(document)
    document["id"] = "0" * 64
    client.force_login(bob)
    assert bring(client, document).status_code == 422
    answer = client.post(
        "/api/v1/recipes/import/", {"document": document}, content_type="application/json"
    )
    assert answer.status_code == 422


NONSENSE: list[Any] = [None, 0, -1, 1e300, "text", [], [[]], [None], {}, {"a": [1]}]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
def test_a_verification_survives_whatever_a_file_states(
    stated: dict[str, Any], bob: User, nonsense: Any
) -> None:
    evidence = stated["evidence"]
    spoilt: list[tuple[dict[str, Any], str]] = [
        *((evidence["proof"]["first"], key) for key in ("zero", "singles", "digest")),
        *((evidence["proof"], key) for key in ("parts", "split", "first")),
        *((evidence["search"], key) for key in ("loss_after", "best_loss", "trace")),
        (evidence["environment"], "chunk"),
        *((evidence, key) for key in ("methods", "example_losses", "examples", "environment")),
    ]
    # Half of the places for each nonsense, so that every place meets every other one.
    for where, key in spoilt[NONSENSE.index(nonsense) % 2 :: 2]:
        kept, where[key] = where[key], nonsense
        found = recipe_import.bring(user=bob, document=stated)
        assert verified.verify(found.recipe, bob).outcome, (key, nonsense)
        where[key] = kept


@pytest.mark.parametrize("chunk", [
    {"candidates": 0, "examples": 0},
    {"candidates": 1 << 19, "examples": 1 << 19},
], ids=["none", "far too many"])  # fmt: skip
def test_a_file_does_not_decide_how_much_memory_a_worker_takes(
    stated: dict[str, Any], bob: User, chunk: dict[str, int]
) -> None:
    own = stated["evidence"]["environment"]["chunk"]
    stated["evidence"]["environment"]["chunk"] = chunk
    found = recipe_import.bring(user=bob, document=stated)
    row = verified.verify(found.recipe, bob)
    assert row.outcome in ("matched", "within tolerance")
    assert row.environment["chunk"] == own


def test_a_file_shows_no_more_examples_than_a_task_has(stated: dict[str, Any], bob: User) -> None:
    stated["evidence"]["examples"]["held_out"] = [[f"word {n}", "x"] for n in range(2001)]
    found = recipe_import.bring(user=bob, document=stated)
    row = verified.verify(found.recipe, bob)
    assert [each["what"] for each in row.unchecked] == [proof.EXAMPLE]


def test_a_file_of_more_modules_than_a_search_mixes_is_not_verified(
    document: dict[str, Any], bob: User
) -> None:
    document["spec"]["ingredients"] *= 26
    document["weights"] *= 26
    found = recipe_import.bring(user=bob, document=anew(document))
    with pytest.raises(OverLimit, match="104 modules"):
        verifications.submit_verification(recipe=found.recipe, user=bob, kind="evaluation")


@pytest.mark.parametrize("is_running", [False, True])
def test_what_is_on_its_way_ends_when_its_file_is_removed(
    client: Client, document: dict[str, Any], bob: User, is_running: bool
) -> None:
    found = recipe_import.bring(user=bob, document=document)
    row = verifications.submit_verification(recipe=found.recipe, user=bob, kind="evaluation")
    assert row.job is not None
    claimed = queue.claim_next("test") if is_running else None
    client.force_login(bob)
    client.post(reverse("composer:recipe_import_remove", args=[document["id"]]))
    if claimed is not None:
        verifying.verify(claimed, Lease(claimed))  # the row has gone, and that is no bug
        assert not verifications.commits_of(claimed).exists()
    row.job.refresh_from_db()
    assert row.job.cancel_requested and row.job.state in ("cancelled", "running")


def test_other_claims_do_not_keep_the_stamp(stated: dict[str, Any], bob: User) -> None:
    found = recipe_import.bring(user=bob, document=stated)
    assert verified.verify(found.recipe, bob).outcome == "matched"
    recipe_import.bring(user=bob, document=stated, title="The same again")
    assert found.recipe.verifications.count() == 1
    stated["evidence"]["methods"][0]["correct"] = 3
    recipe_import.bring(user=bob, document=stated)
    assert found.recipe.verifications.count() == 0


def test_who_finds_it_by_a_search_has_it_as_found(
    task: FewShotTask, alice: User, bob: User, lora_modules: list[LoraModule]
) -> None:
    """Somebody brought the same recipe before, under a name of their own, and lacked a module."""
    search = verified.search_on(task, alice)
    document = artifacts.recipe_json(verified.publish(search, alice))
    search.job.delete()
    Recipe.objects.all().delete()
    found = recipe_import.bring(user=bob, document=document, title="Bob's secret")
    found.recipe.ingredients.filter(position=1).update(lora_module=None)
    again = verified.search_on(task, alice)
    assert again.recipe == found.recipe and not again.matched
    assert again.recipe.title == task.name
    assert all(each.lora_module for each in again.recipe.ingredients.all())
    assert publishing.publish(search=again, user=alice, title="Opposites").published_at


def test_a_module_that_came_later_is_linked_when_the_file_is_brought_again(
    document: dict[str, Any], bob: User, lora_modules: list[LoraModule]
) -> None:
    found = recipe_import.bring(user=bob, document=document)
    found.recipe.ingredients.filter(position=1).update(lora_module=None)
    recipe_import.bring(user=bob, document=document)
    linked = [each.lora_module for each in found.recipe.ingredients.all()]
    assert linked == lora_modules


def test_whoever_found_it_too_keeps_their_name_for_it(
    client: Client, task: FewShotTask, alice: User, bob: User
) -> None:
    search = finished.finish(finished.start(task, alice), title="Alice's secret")
    assert search.recipe is not None
    document = artifacts.recipe_json(search.recipe)
    found = recipe_import.bring(user=bob, document={**document, "evidence": {}}, title="Bob's")
    client.force_login(bob)
    address = found.recipe.get_absolute_url()
    answers = [client.get(address), client.get(f"/api/v1{address}")]
    zipped = b"".join(client.get(f"{address}adapter.zip").streaming_content)
    card = zipfile.ZipFile(io.BytesIO(zipped)).read("README.md").decode()
    for text in (*(each.text for each in answers), card):
        assert "Alice" not in text and "Bob" in text
    assert client.get(f"/api/v1{address}").json()["title"] == "Bob's"
