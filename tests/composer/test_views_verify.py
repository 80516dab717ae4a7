"""A recipe's page: its stamps, its versions, likes, licences and exports."""

from typing import Any

import pytest
import yaml
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from composer import attribution, exports, publishing
from composer.liking import of_recipes
from composer.models import FewShotTask, Ingredient, Recipe, Search, Verification
from composer.verdict import verdict
from hub_site.accounts.leaving import delete_account
from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules.licence_terms import COMMERCIAL, DERIVATIVES, NOT_STATED, UNKNOWN, terms
from modules.licences import KNOWN
from modules.models import LoraModule
from tests.composer import finished


@pytest.fixture
def search(task: FewShotTask, alice: User) -> Search:
    return finished.finish(finished.start(task, alice))


@pytest.fixture
def recipe(search: Search, alice: User) -> Recipe:
    return publishing.publish(search=search, user=alice, title="Opposites")


def stamp(recipe: Recipe, user: User | None, **fields: Any) -> Verification:
    fields = {"outcome": Verification.MATCHED, "kind": Verification.EVALUATION, **fields}
    return Verification.objects.create(
        recipe=recipe, user=user, finished_at=timezone.now(),
        environment={"device": "cpu", "machine": "x86_64", "torch": "2"}, **fields,
    )  # fmt: skip


# --- verifying -----------------------------------------------------------------------------------


def test_a_button_has_a_worker_run_it_again(client: Client, recipe: Recipe, bob: User) -> None:
    client.force_login(bob)
    url = f"{recipe.get_absolute_url()}verify"
    answer = client.post(url, {"kind": "search"})
    assert (answer.status_code, answer.url) == (302, f"{recipe.get_absolute_url()}#verified")
    job = Job.objects.get(kind="verify")
    assert (job.user, job.state, job.params["kind"]) == (bob, "queued", "search")
    page = client.get(recipe.get_absolute_url()).text
    assert "waiting for a worker" in page and 'hx-trigger="load delay:2s"' in page
    client.post(url, {"kind": "search"})
    assert Job.objects.filter(kind="verify").count() == 1
    assert client.get(url).status_code == 405


def test_a_guest_may_too_and_a_private_one_is_not_there(
    client: Client, search: Search, alice: User
) -> None:
    url = f"{search.recipe.get_absolute_url()}verify"
    assert client.post(url).status_code == 404
    publishing.publish(search=search, user=alice, title="T")
    assert client.post(url).status_code == 302
    assert Job.objects.get(kind="verify").user.is_guest


def test_it_is_counted_as_a_job(client: Client, recipe: Recipe, bob: User, settings: Any) -> None:
    from hub_site.env import Rate

    settings.THROTTLES = {**settings.THROTTLES, "submit": Rate(1, 3600)}
    client.force_login(bob)
    url = f"{recipe.get_absolute_url()}verify"
    assert client.post(url).status_code == 302
    assert client.post(url).status_code == 429


def test_the_page_tells_who_when_and_what_differs(
    client: Client, recipe: Recipe, bob: User
) -> None:
    stamp(recipe, bob, checked=["its adapter, byte for byte"])
    page = client.get(recipe.get_absolute_url()).text
    assert "verified once" in page and 'href="/bob"' in page
    assert "on cpu (x86_64), torch 2" in page and "byte for byte" in page
    row = {"what": "seed", "stated": "4", "found": "it began with 3"}
    stamp(recipe, None, outcome=Verification.DIFFERS, differs=[row])
    page = client.get(recipe.get_absolute_url()).text
    assert "not matched: seed" in page and "it began with 3" in page
    assert "by somebody who has left" in page


def test_lists_say_what_came_of_the_last_time(client: Client, recipe: Recipe, bob: User) -> None:
    badge = "</svg> verified</span>"
    assert badge not in client.get("/recipes/").text
    stamp(recipe, bob)
    assert badge in client.get("/recipes/").text
    stamp(recipe, bob, outcome=Verification.DIFFERS)
    page = client.get("/recipes/").text
    assert badge not in page and ">not matched</span>" in page
    stamp(recipe, bob)
    assert badge in client.get("/recipes/").text


def test_a_failed_run_is_told_to_who_asked(client: Client, recipe: Recipe, bob: User) -> None:
    client.force_login(bob)
    client.post(f"{recipe.get_absolute_url()}verify")
    Job.objects.filter(kind="verify").update(state="failed", error_message="The disk burnt.")
    assert "The disk burnt." in client.get(recipe.get_absolute_url()).text
    client.logout()
    assert "The disk burnt." not in client.get(recipe.get_absolute_url()).text


def test_its_json_carries_the_stamps(client: Client, recipe: Recipe, bob: User) -> None:
    stamp(recipe, bob)
    document = client.get(f"{recipe.get_absolute_url()}recipe.json").json()
    (row,) = document["evidence"]["verifications"]
    assert (row["kind"], row["outcome"], row["by"]) == ("evaluation", "matched", "bob")


def test_the_api_asks_for_one_and_lists_them(client: Client, recipe: Recipe, bob: User) -> None:
    url = f"/api/v1/recipes/{recipe.pk}/verifications/"
    assert client.post(url, {}, content_type="application/json").status_code == 401
    client.force_login(bob)
    answer = client.post(url, {"kind": "search"}, content_type="application/json")
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["outcome"]) == ("queued", "")
    wrong = client.post(url, {"kind": "all"}, content_type="application/json")
    assert wrong.status_code == 422 and "kind" in wrong.json()["fields"]
    Job.objects.filter(kind="verify").delete()
    stamp(recipe, bob, job=None)
    (row,) = client.get(url).json()["results"]
    assert (row["state"], row["by"], row["job"]) == ("done", "bob", None)


def test_a_private_recipes_stamps_are_each_ones_own(
    client: Client, search: Search, alice: User, bob: User
) -> None:
    stamp(search.recipe, bob)
    client.force_login(alice)
    assert 'href="/bob"' not in client.get(search.recipe.get_absolute_url()).text


def test_it_asks_as_often_for_two_stamps_as_for_ten(
    client: Client, recipe: Recipe, bob: User, django_assert_num_queries: Any
) -> None:
    for _ in range(2):
        stamp(recipe, bob)
    with CaptureQueriesContext(connection) as seen:
        client.get(recipe.get_absolute_url())
    for _ in range(8):
        stamp(recipe, bob)
    with django_assert_num_queries(len(seen)):
        client.get(recipe.get_absolute_url())


# --- never changed, and versions -----------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"document": {}}, {"title": "Another"}, {"description": "x"}, {"shows_examples": True},
])  # fmt: skip
def test_a_published_recipe_never_changes(recipe: Recipe, change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="never change"), transaction.atomic():
        Recipe.objects.filter(pk=recipe.pk).update(**change)
    with pytest.raises(IntegrityError, match="never change"), transaction.atomic():
        Ingredient.objects.filter(recipe=recipe).update(weight=1.0)


def test_publishing_again_changes_nothing(search: Search, recipe: Recipe, alice: User) -> None:
    publishing.publish(search=search, user=alice, title="Another", show_examples=True)
    recipe.refresh_from_db()
    assert (recipe.title, recipe.shows_examples) == ("Opposites", False)


def test_a_published_recipe_keeps_its_verdict_whatever_the_rules_become(
    client: Client, search: Search, recipe: Recipe
) -> None:
    search.refresh_from_db()
    figures = {key: value for key, value in search.evidence.items() if key != "verdict"}
    said = verdict(figures)
    assert said is not None
    # Other rules read other sentences from the same figures; here there are none left to read.
    Search.objects.filter(pk=search.pk).update(evidence={**search.evidence, "methods": []})
    page = client.get(recipe.get_absolute_url())
    assert page.context["verdict"] == said
    assert said.sentence in page.content.decode()


def test_a_new_version_and_the_old_one_link_to_each_other(
    client: Client, recipe: Recipe, task: FewShotTask, alice: User
) -> None:
    newer = finished.finish(finished.start(task, alice, seed=7))
    client.force_login(alice)
    url = f"/jobs/{newer.pk}/publish/"
    form = client.get(url)
    assert form.context["form"].initial["version_of"] == recipe
    client.post(url, {"title": "Better opposites", "version_of": recipe.pk})
    newer.recipe.refresh_from_db()
    assert newer.recipe.parent == recipe
    page = client.get(newer.recipe.get_absolute_url()).text
    assert f'A version of <a href="{recipe.get_absolute_url()}">Opposites</a>' in page
    page = client.get(recipe.get_absolute_url()).text
    assert "Later version: " in page and "Better opposites" in page


def test_a_remix_by_hand_is_offered_as_a_version(
    recipe: Recipe, demo_task: FewShotTask, bob: User, lora_modules: list[LoraModule]
) -> None:
    from composer import services
    from composer.module_choice import ModuleChoice

    choice = ModuleChoice("hand", modules=tuple(lora_modules))
    job = services.submit_job(task=demo_task, user=bob, modules=choice)
    remix = finished.finish(Search.objects.get(pk=job.pk))
    assert publishing.earlier_versions(remix, bob) == ([recipe], recipe)
    unasked = finished.finish(finished.start(demo_task, bob, seed=9))
    assert publishing.earlier_versions(unasked, bob) == ([recipe], None)


def test_the_api_names_the_version_it_goes_on_from(
    client: Client, recipe: Recipe, task: FewShotTask, alice: User
) -> None:
    newer = finished.finish(finished.start(task, alice, seed=7))
    client.force_login(alice)
    url = f"/api/v1/jobs/{newer.pk}/publish/"
    body = {"title": "T", "version_of": "0" * 64}
    assert client.post(url, body, content_type="application/json").status_code == 422
    body["version_of"] = recipe.pk
    answer = client.post(url, body, content_type="application/json")
    assert answer.status_code == 201 and answer.json()["version_of"] == recipe.pk


# --- likes ---------------------------------------------------------------------------------------


def test_it_is_liked_once_and_no_longer(client: Client, recipe: Recipe, bob: User) -> None:
    url = f"{recipe.get_absolute_url()}like"
    assert client.post(url, {"want": "1"}).url.endswith(f"?next={recipe.get_absolute_url()}")
    client.force_login(bob)
    for _ in range(2):
        client.post(url, {"want": "1"})
    recipe.refresh_from_db()
    assert recipe.likes == 1
    part = client.post(url, {"want": "0"}, headers={"HX-Request": "true", "HX-Target": "like"})
    assert part.text.startswith('<div id="like">')
    recipe.refresh_from_db()
    assert recipe.likes == 0
    assert client.get(url).status_code == 405


def test_likes_go_with_their_account(recipe: Recipe, bob: User) -> None:
    of_recipes.set(recipe, bob, True)
    delete_account(bob, keep_public=False)
    recipe.refresh_from_db()
    assert recipe.likes == 0


def test_the_api_likes(client: Client, recipe: Recipe, bob: User) -> None:
    url = f"/api/v1/recipes/{recipe.pk}/like/"
    client.force_login(bob)
    assert client.put(url).json() == {"liked": True, "likes": 1}
    assert client.delete(url).json() == {"liked": False, "likes": 0}


# --- licences ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("licence", "flags"), [
    ("mit", ()), ("apache-2.0", ()), ("cc-by-sa-4.0", ()), ("lgpl-3.0", ()), ("gemma", ()),
    ("", (NOT_STATED,)), ("other", (UNKNOWN,)), ("my-own", (UNKNOWN,)), ("cc", (UNKNOWN,)),
    ("CC-BY-NC-4.0", (COMMERCIAL,)), ("cc-by-nd-4.0", (DERIVATIVES,)),
    ("cc-by-nc-nd-4.0", (DERIVATIVES, COMMERCIAL)),
    ("cc-by-nc-5.0", (UNKNOWN, COMMERCIAL)),
])  # fmt: skip
def test_licences_that_forbid_something_are_flagged(licence: str, flags: tuple[str, ...]) -> None:
    assert terms(licence).flags == flags


def test_no_permissive_licence_is_flagged_by_its_letters() -> None:
    for licence in ("postgresql", "bsd-3-clause", "isc", "zlib", "unlicense", "cc0-1.0", "ncsa"):
        assert licence in KNOWN and terms(licence).says == ()


def test_page_and_card_name_authors_and_licences_and_what_to_mind(
    client: Client, recipe: Recipe, lora_modules: list[LoraModule]
) -> None:
    names = [str(module) for module in lora_modules]
    LoraModule.objects.filter(pk=lora_modules[0].pk).update(licence="cc-by-nc-4.0")
    LoraModule.objects.filter(pk=lora_modules[1].pk).update(licence="mit")
    lora_modules[3].repo.delete()
    page = client.get(recipe.get_absolute_url()).text
    from composer import artifacts

    card = artifacts.card(Recipe.objects.get(), {}, "")
    for text in (page, card):
        assert f"The licence of {names[0]} {COMMERCIAL}." in text
        assert f"The licence of {names[2]} {NOT_STATED}." in text
        assert f"The licence of {names[3]} cannot be looked up" in text
        assert f"of {names[1]}" not in text
    assert "| author | licence |" in card and "| tiny-lab | cc-by-nc-4.0 |" in card
    assert len(attribution.of_recipe(recipe)) == 4


# --- exports -------------------------------------------------------------------------------------


def lines(recipe: Recipe) -> dict[str, exports.Export]:
    return {each.key: each for each in exports.exports(recipe, "https://commons.example")}


def test_a_t5_is_served_by_neither_and_the_page_says_so(client: Client, recipe: Recipe) -> None:
    found = lines(recipe)
    assert not any(each.code for each in found.values())
    assert "does not serve encoder-decoder models" in found["vllm"].note
    page = client.get(recipe.get_absolute_url()).text
    assert "vLLM does not serve encoder-decoder models" in page


def llama(recipe: Recipe, rank: int = 20) -> Recipe:
    base = recipe.base_model
    assert base is not None
    base.is_encoder_decoder = False
    base.config = {"architectures": ["LlamaForCausalLM"]}
    recipe.adapter_config = {"r": rank}
    return recipe


@pytest.mark.parametrize(("rank", "needed"), [(1, 8), (8, 8), (20, 32), (257, 320), (512, 512)])
def test_vllm_is_told_the_rank_that_it_needs(recipe: Recipe, rank: int, needed: int) -> None:
    code = lines(llama(recipe, rank))["vllm"].code
    assert f"--max-lora-rank {needed} " in code
    assert f"https://commons.example{recipe.get_absolute_url()}adapter.zip" in code


def test_a_rank_that_it_does_not_take_is_said(recipe: Recipe) -> None:
    found = lines(llama(recipe, 513))["vllm"]
    assert found.code == "" and "up to rank 512; this one has 513" in found.note


def test_unknown_architectures_are_not_promised(recipe: Recipe) -> None:
    llama(recipe).base_model.config = {"architectures": ["NewForCausalLM"]}
    found = lines(recipe)
    assert "not known to serve NewForCausalLM" in found["vllm"].note
    assert "not known to serve NewForCausalLM" in found["lorax"].note


def test_mergekit_sums_the_same_modules_with_the_same_weights(recipe: Recipe) -> None:
    text = lines(llama(recipe))["mergekit"].code
    assert "--lora-merge-cache" in text.splitlines()[0]
    assert "merge_method: task_arithmetic" in text and "normalize: false" in text
    spec, weights = recipe.document["spec"], recipe.document["weights"]
    for pinned, weight in zip(spec["ingredients"], weights, strict=True):
        name = pinned["repo"].rpartition("/")[2]
        entry = f'  - model: "tiny-t5+{name}"\n    parameters: {{weight: {weight!r}}}\n'
        assert entry in text


def test_it_is_offered_for_exact_sums_alone(recipe: Recipe) -> None:
    llama(recipe)
    for change in ({"combination": "lorahub"}, {"search": {"blocks": "sides"}}):
        recipe.document = {**recipe.document, "spec": {**recipe.document["spec"], **change}}
        assert lines(recipe)["mergekit"].code == ""
    recipe.document["spec"] |= {"combination": "sum", "search": {}}
    assert lines(recipe)["mergekit"].code
    recipe.adapter_facts = {"errors": {"layer": 0.1}}
    assert "cut down" in lines(recipe)["mergekit"].note


# --- modules' pages ------------------------------------------------------------------------------


def test_a_modules_page_says_how_much_recipes_use_it(
    client: Client, recipe: Recipe, task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    private = finished.finish(finished.start(task, alice, seed=5))
    assert private.recipe.ingredients.exists()
    module = lora_modules[2]
    weight = abs(recipe.ingredients.get(lora_module=module).weight)
    page = client.get(module.get_absolute_url()).text
    assert f"used in 1 recipe, mean |weight| {weight:.3f}" in page


def test_modules_of_one_name_and_tiny_weights_stay_what_they_are(recipe: Recipe) -> None:
    llama(recipe)
    pinned = [{**each} for each in recipe.document["spec"]["ingredients"]]
    pinned[0]["repo"], pinned[1]["repo"] = "alice/antonyms", "bob/antonyms"
    spec = {**recipe.document["spec"], "ingredients": pinned}
    recipe.document = {**recipe.document, "spec": spec, "weights": [1e-05, -1.0, 0.5, 1e22]}
    document = yaml.safe_load(lines(recipe)["mergekit"].code)
    models = {each["model"]: each["parameters"]["weight"] for each in document["models"]}
    assert models == {
        "tiny-t5+alice-antonyms": 1e-05,
        "tiny-t5+bob-antonyms": -1.0,
        "tiny-t5+module-2": 0.5,
        "tiny-t5+module-3": 1e22,
    }


def test_who_asked_may_end_it_on_the_page_and_by_a_program(
    client: Client, recipe: Recipe, alice: User, bob: User
) -> None:
    """It takes one of their places in the queue, and a whole search takes long."""
    url = f"{recipe.get_absolute_url()}verify"
    client.force_login(bob)
    client.post(url, {"kind": "search"})
    job = Job.objects.get(kind="verify")
    assert 'name="cancel"' in client.get(recipe.get_absolute_url()).text
    client.force_login(alice)
    assert 'name="cancel"' not in client.get(recipe.get_absolute_url()).text
    client.post(url, {"cancel": "1"})
    job.refresh_from_db()
    assert job.state == "queued"
    client.force_login(bob)
    assert client.post(url, {"cancel": "1"}).url == f"{recipe.get_absolute_url()}#verified"
    job.refresh_from_db()
    assert job.state == "cancelled" and "cancelled" in client.get(recipe.get_absolute_url()).text
    client.post(url, {"kind": "evaluation"})
    again = Job.objects.get(kind="verify", state="queued")
    assert client.get(f"/api/v1/jobs/{again.pk}/").json()["kind"] == "verify"
    assert client.post(f"/api/v1/jobs/{again.pk}/cancel/").json()["state"] == "cancelled"
    client.logout()
    client.post(url, {"cancel": "1"})
    assert not User.objects.filter(is_guest=True).exists()
