"""Checking again, and whom a module repeats."""

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from safetensors.numpy import save

from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from hub_site.jobs.worker import Lease
from modules import services, tasks
from modules.checks import checking
from modules.models import BaseModel, LoraModule, Repo
from modules.repos import ownership
from tests.modules.conftest import BASE, config_bytes, factors


def page(module: LoraModule, user: User | None = None) -> str:
    client = Client()
    if user is not None:
        client.force_login(user)
    answer = client.get(module.get_absolute_url())
    assert answer.status_code == 200
    return answer.content.decode()


def test_it_checks_all_modules_again_and_keeps_them_ready_meanwhile(
    opposites: LoraModule, secret: LoraModule, run_job: Any
) -> None:
    LoraModule.objects.update(checks=[], tensors_sha256="", variant={"odd": 1})
    call_command("recheck_modules", verbosity=0)
    assert Job.objects.filter(kind="check_module", priority__lt=0).count() == 2
    opposites.refresh_from_db()
    assert opposites.is_composable
    run_job(opposites)
    opposites.refresh_from_db()
    assert opposites.is_composable and len(opposites.checks) == 6
    assert opposites.tensors_sha256 and opposites.variant == {}


def test_it_checks_named_ones_or_rejected_ones(opposites: LoraModule, secret: LoraModule) -> None:
    call_command("recheck_modules", "Alice/Opposites", verbosity=0)
    assert [job.params["lora_module"] for job in Job.objects.all()] == [opposites.pk]
    secret.reject("It was broken.")
    call_command("recheck_modules", rejected=True, verbosity=0)
    assert Job.objects.latest("created_at").params["lora_module"] == secret.pk
    assert Job.objects.count() == 2
    with pytest.raises(CommandError, match="no module 'alice/opposite'"):
        call_command("recheck_modules", "alice/opposite")


def test_a_rule_that_changed_rejects_what_was_ready(opposites: LoraModule, run_job: Any) -> None:
    BaseModel.objects.update(layers={"encoder.other": [8, 8]})
    call_command("recheck_modules", verbosity=0)
    opposites.refresh_from_db()
    run_job(opposites)
    opposites.refresh_from_db()
    assert opposites.status == LoraModule.REJECTED and "has no layer" in opposites.rejected_reason
    assert not opposites.is_listed


def test_a_new_alias_matches_modules_that_named_it(
    alice: User, base_model: BaseModel, publish: Any, run_job: Any
) -> None:
    module = publish(alice, "m", base_model_name_or_path="other/name")
    assert module.base_model is None
    BaseModel.objects.update(aliases=["other/name"])
    call_command("recheck_modules", verbosity=0)
    module.refresh_from_db()
    assert module.base_model == base_model and not module.is_composable  # not before its check
    run_job(module)
    module.refresh_from_db()
    assert module.is_composable and module.base_model_name == BASE


def test_a_base_model_that_comes_during_a_check_is_compared_all_the_same(
    alice: User, base_model: BaseModel, publish: Any, run_job: Any
) -> None:
    module = publish(alice, "m", base_model_name_or_path="other/name")
    checking.recheck(module)

    class Meanwhile(Lease):
        def check(self) -> None:
            super().check()
            LoraModule.objects.update(base_model=base_model, status=LoraModule.CHECKING)

    job = queue.claim_next("test")
    assert job is not None
    with Meanwhile(job) as lease:
        tasks.check_module(job, lease)
    module.refresh_from_db()
    assert module.status == LoraModule.CHECKING and module.check_job != job
    run_job(module)
    module.refresh_from_db()
    assert module.is_composable


def test_its_author_hears_of_a_check_that_was_asked_for(
    alice: User, base_model: BaseModel, run_job: Any
) -> None:
    repo = services.create_repo(owner=alice.namespace, name="m", kind=Repo.LORA)
    files = {"adapter_config.json": config_bytes(), "adapter_model.safetensors": save(factors())}
    additions = {path: io.BytesIO(data) for path, data in files.items()}
    module = services.publish_module(repo=repo, author=alice, title="First", additions=additions)
    run_job(module)
    assert "alice/m passed" in alice.notices.get().text
    call_command("recheck_modules", verbosity=0)
    module.refresh_from_db()
    run_job(module)
    assert alice.notices.count() == 1  # nothing new
    BaseModel.objects.update(layers={"encoder.other": [8, 8]})
    call_command("recheck_modules", verbosity=0)
    module.refresh_from_db()
    run_job(module)
    assert alice.notices.count() == 2


def test_a_copy_is_called_one_by_the_name_of_the_first(
    opposites: LoraModule, bob: User, publish: Any
) -> None:
    """Another config, another card, the same tensors."""
    copy = publish(bob, "my-own", lora_alpha=16, card="Mine.")
    assert copy.is_ready
    assert "the same tensors as" in page(copy) and opposites.get_absolute_url() in page(copy)
    assert "the same tensors as" not in page(opposites)
    (line,) = [line for line in checking.checks_shown(copy, bob) if line["name"] == "twin"]
    assert line["state"] == "warning" and "alice/opposites" in line["detail"]


def test_an_original_whose_card_is_edited_stays_the_original(
    opposites: LoraModule, alice: User, bob: User, publish: Any
) -> None:
    copy = publish(bob, "my-own")
    ownership.edit_card(user=alice, repo=opposites.repo, changes={}, body="Better.", parent=None)
    opposites.refresh_from_db()
    assert "the same tensors as" in page(copy)
    assert "the same tensors as" not in page(opposites)
    assert [*LoraModule.objects.all()] == [copy, opposites]  # newest first


def test_a_copy_of_a_private_module_does_not_tell_strangers(
    secret: LoraModule, alice: User, bob: User, publish: Any
) -> None:
    copy = publish(bob, "guess", seed=7)
    assert copy.tensors_sha256 == secret.tensors_sha256
    for who in (None, bob):
        assert "same tensors" not in page(copy, who) and "alice" not in page(copy, who)
    address = "/api/v1/modules/bob/guess/"
    assert "alice" not in Client().get(address).content.decode()
    client = Client()
    client.force_login(alice)
    assert client.get(address).json()["checks"][-1]["detail"].endswith("as alice/secret.")
    assert "alice/secret" in page(copy, alice)


def test_a_copy_of_what_was_rejected_or_is_gone_is_none(
    opposites: LoraModule, bob: User, publish: Any
) -> None:
    copy = publish(bob, "my-own")
    opposites.reject("It was broken.")
    assert "the same tensors as" not in page(copy)


def test_a_recheck_that_dies_leaves_what_was_found_and_says_so(
    opposites: LoraModule, secret: LoraModule, run_job: Any
) -> None:
    for _ in range(2):
        call_command("recheck_modules", "alice/opposites", verbosity=0)
        job = queue.claim_next("test")
        assert job is not None
        queue.fail(job, "crashed", "It used more memory than it may.")
        opposites.refresh_from_db()
        assert opposites.is_composable and opposites.is_listed
        assert [line["state"] for line in opposites.checks] == ["ok"] * 6 + ["warning"]
    assert "It did not come to an end: It used more memory than it may." in page(opposites)
    Job.objects.all().delete()
    call_command("recheck_modules", unfinished=True, verbosity=0)
    assert [job.params["lora_module"] for job in Job.objects.all()] == [opposites.pk]
    opposites.refresh_from_db()
    run_job(opposites)
    opposites.refresh_from_db()
    assert [line["state"] for line in opposites.checks] == ["ok"] * 6
