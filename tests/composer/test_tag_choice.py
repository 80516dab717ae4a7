"""Modules with a tag as the candidates of a composition."""

import pytest
from django.test import Client
from django.urls import reverse

from composer.engine.errors import IncompatibleModules
from composer.models import FewShotTask, Search
from composer.module_choice import ModuleChoice, choose_modules
from hub_site.accounts.models import User
from modules.models import BaseModel, LoraModule, Repo, Tag
from tests.composer.test_collection_choice import by_program


@pytest.fixture(autouse=True)
def tagged(lora_modules: list[LoraModule]) -> list[LoraModule]:
    """The first two carry "words"; the second cannot be mixed."""
    tag = Tag.objects.create(name="words")
    for module in lora_modules[:2]:
        module.tags.add(tag)
    LoraModule.objects.filter(pk=lora_modules[1].pk).update(status="checking")
    return lora_modules[:1]


def compose_url(task: FewShotTask) -> str:
    return reverse("composer:task_compose", args=[task.pk])


def test_those_that_fit_are_mixed(
    client: Client, alice: User, task: FewShotTask, tagged: list[LoraModule]
) -> None:
    client.force_login(alice)
    page = client.get(compose_url(task) + "?tag=words").text
    assert '<option value="words" selected>words (1)</option>' in page
    client.post(compose_url(task), {"preset": "recommended", "how": "tag", "tag": "Words"})
    search = Search.objects.get()
    assert [each["repo"] for each in search.spec["ingredients"]] == [str(tagged[0])]
    assert search.job.params["modules"]["tag"] == "Words"


@pytest.mark.parametrize(("tag", "said"), [
    ("", "Choose a tag."),
    ("nothing", "carries the tag &#x27;nothing&#x27;"),
])  # fmt: skip
def test_a_tag_of_nothing_says_so(
    client: Client, alice: User, task: FewShotTask, tag: str, said: str
) -> None:
    client.force_login(alice)
    answer = client.post(compose_url(task), {"preset": "recommended", "how": "tag", "tag": tag})
    assert answer.status_code == 422 and said in answer.text
    assert not Search.objects.exists()


def test_private_modules_of_others_are_neither_counted_nor_mixed(
    client: Client, alice: User, task: FewShotTask, base_model: BaseModel, tagged: list[LoraModule]
) -> None:
    Repo.objects.filter(pk=tagged[0].repo_id).update(visibility="private")
    client.force_login(alice)
    assert '<option value="words"' not in client.get(compose_url(task)).text
    choice = ModuleChoice("tag", tag="words")
    with pytest.raises(IncompatibleModules, match="carries the tag 'words'"):
        choose_modules(choice, base_model=base_model, user=alice, combination="sum")


def test_programs_choose_by_tag_too(
    client: Client, alice: User, task: FewShotTask, tagged: list[LoraModule]
) -> None:
    post = by_program(client, alice, task)
    answer = post({"how": "tag", "tag": "words"})
    assert answer.status_code == 202, answer.content
    used = [each["repo"] for each in answer.json()["spec"]["ingredients"]]
    assert used == [str(tagged[0])]
    for bad in ({"how": "tag"}, {"how": "tag", "tag": "nothing"}):
        answer = post(bad)
        assert answer.status_code == 422 and "tag" in str(answer.json()["fields"])
