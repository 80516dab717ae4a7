import io
import json
import zipfile
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from composer import publishing
from composer.models import FewShotTask, Recipe, Search
from hub_site.accounts.models import User
from tests.composer import finished

SECRET = "the old"  # an input of the task's examples


@pytest.fixture
def search(task: FewShotTask, alice: User) -> Search:
    return finished.finish(finished.start(task, alice))


@pytest.fixture
def recipe(search: Search, alice: User) -> Recipe:
    return publishing.publish(search=search, user=alice, title="Opposites & more")


def url_of(name: str, recipe: Recipe) -> str:
    return reverse(f"composer:{name}", args=[recipe.pk])


def test_the_list_says_what_would_stand_there(client: Client, db: None) -> None:
    assert "No recipe is published yet." in client.get("/recipes/").text


def test_the_list_shows_published_recipes_to_everybody(
    client: Client, recipe: Recipe, alice: User, task: FewShotTask
) -> None:
    private = finished.finish(finished.start(task, alice, seed=9))
    answer = client.get("/recipes/")
    assert "Opposites &amp; more" in answer.text and "2 of 3 right" in answer.text
    assert private.recipe_id not in answer.text


def test_it_asks_as_often_for_ten_recipes_as_for_twenty(
    client: Client, alice: User, task: FewShotTask, django_assert_num_queries: Any
) -> None:
    def add(first: int, count: int) -> None:
        for seed in range(first, first + count):
            found = finished.finish(finished.start(task, alice, seed=seed))
            publishing.publish(search=found, user=alice, title=f"Recipe {seed}")

    add(1, 10)
    with CaptureQueriesContext(connection) as seen:
        assert client.get("/recipes/").text.count('class="row-name"') == 10
    add(11, 10)
    with django_assert_num_queries(len(seen)):
        assert client.get("/recipes/").text.count('class="row-name"') == 20


def test_a_page_that_is_not_there_shows_the_nearest(client: Client, recipe: Recipe) -> None:
    assert client.get("/recipes/?page=999").status_code == 200
    assert client.get("/recipes/?page=x").status_code == 200


def test_the_page_tells_ingredients_use_evidence_and_citation(
    client: Client, recipe: Recipe
) -> None:
    answer = client.get(recipe.get_absolute_url())
    assert answer.status_code == 200
    for ingredient in recipe.ingredients.all():
        assert ingredient.name in answer.text
        assert ingredient.revision in answer.text
        assert ingredient.weights_sha256 in answer.text
    assert "PeftModel.from_pretrained" in answer.text
    assert "2 of 3" in answer.text
    assert "huang2024lorahub" in answer.text
    assert recipe.digest in answer.text


def test_examples_and_answers_stay_private(client: Client, recipe: Recipe) -> None:
    for name in ("recipe", "recipe_json"):
        assert SECRET not in client.get(url_of(name, recipe)).text
    files = client.get(url_of("recipe_adapter", recipe))
    archive = zipfile.ZipFile(io.BytesIO(b"".join(files.streaming_content)))
    assert all(SECRET.encode() not in archive.read(name) for name in archive.namelist())


def test_examples_are_shown_when_their_owner_shows_them(
    client: Client, search: Search, alice: User
) -> None:
    shown = publishing.publish(search=search, user=alice, title="T", show_examples=True)
    answer = client.get(shown.get_absolute_url())
    assert SECRET in answer.text
    assert "Answers on 3 held-out examples" in answer.text


@pytest.mark.parametrize("name", ["recipe", "recipe_json", "recipe_adapter"])
def test_an_unpublished_recipe_is_its_finders_alone(
    client: Client, search: Search, alice: User, bob: User, name: str
) -> None:
    url = url_of(name, search.recipe)
    assert client.get(url).status_code == 404
    client.force_login(bob)
    assert client.get(url).status_code == 404
    client.force_login(alice)
    assert client.get(url).status_code == 200


@pytest.mark.parametrize("name", ["recipe", "recipe_json", "recipe_adapter"])
def test_a_recipe_is_read_not_written(client: Client, recipe: Recipe, name: str) -> None:
    assert client.post(url_of(name, recipe)).status_code == 405
    assert client.get(url_of(name, recipe).replace(recipe.pk, "f" * 64)).status_code == 404


def test_the_json_names_itself_by_its_content(client: Client, recipe: Recipe) -> None:
    from composer.engine import recipe as engine_recipe

    document = json.loads(client.get(url_of("recipe_json", recipe)).text)
    assert engine_recipe.check(document).id == recipe.digest == document["id"]


def test_a_matching_run_is_counted(
    client: Client, alice: User, task: FewShotTask, recipe: Recipe
) -> None:
    assert "run once" in client.get(recipe.get_absolute_url()).text
    again = finished.finish(finished.start(task, alice))
    assert again.matched
    assert "matched in 1 more run" in client.get(recipe.get_absolute_url()).text


def test_a_module_that_went_away_keeps_its_name(
    client: Client, recipe: Recipe, alice: User
) -> None:
    gone = recipe.ingredients.first()
    gone.lora_module = None
    gone.save()
    answer = client.get(recipe.get_absolute_url())
    assert gone.name in answer.text and "deleted since" in answer.text


def test_the_citation_survives_signs_of_latex(client: Client, search: Search, alice: User) -> None:
    shown = publishing.publish(search=search, user=alice, title="100 % \\input{x} & $y_1$")
    text = client.get(shown.get_absolute_url()).text
    assert "title        = {100 \\% inputx \\&amp; \\$y\\_1\\$}" in text
