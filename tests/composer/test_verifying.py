"""Recipes run again on a tiny model: honest ones match, and tampering is called by its name."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from composer import model_cache, proof, verifications
from composer.engine.recipe import config_of
from composer.engine.search import search as run_search
from composer.limits import OverLimit
from composer.models import Generation, Recipe, Search, Verification
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from hub_site.jobs.worker import run
from modules.models import BaseModel
from modules.storage import local
from tests import tiny
from tests.composer import verified
from tests.composer.conftest import make_user
from tests.keepsake import Keepsake, keep

pytestmark = pytest.mark.django_db
KINDS = [Verification.EVALUATION, Verification.SEARCH]


@pytest.fixture(scope="module")
def kept_recipe(
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_setup: None,
    django_db_blocker: Any,
) -> Keepsake:
    """Searched for and published once, because it takes seconds."""

    def make() -> None:
        tiny.load_library(tiny_folder)
        torch.set_num_threads(1)
        model_cache.forget()
        carol = make_user("carol")
        verified.publish(verified.search_for(carol, BaseModel.objects.get()), carol)

    with django_db_blocker.unblock():
        return keep(tmp_path_factory.mktemp("verified"), make)


@pytest.fixture
def recipe(db: None, settings: Any, tmp_path: Path, kept_recipe: Keepsake) -> Recipe:
    settings.BLOB_DIR, settings.CACHE_DIR = tmp_path / "blobs", tmp_path / "cache"
    kept_recipe.put_back()
    model_cache.forget()
    torch.set_num_threads(1)
    return Recipe.objects.select_related("published_search", "base_model", "published_by").get()


def parts_of(row: Verification) -> set[str]:
    return {each["what"] for each in row.differs}


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_recipe_matches(recipe: Recipe, bob: User, kind: str) -> None:
    row = verified.verify(recipe, bob, kind)
    assert (row.differs, row.unchecked) == ([], [])
    assert row.outcome == Verification.MATCHED
    assert row.environment == recipe.published_search.evidence["environment"]
    said = " ".join(row.checked)
    for part in ("byte for byte", "held-out", "losses of the base model", "hash of its examples"):
        assert part in said
    assert ("same weights" in said) == (kind == Verification.SEARCH)
    assert row.records == [] and row.finished_at is not None


@pytest.mark.parametrize("settings_of_it", [
    {"optimiser": "cobyla"},
    {"optimiser": "lbfgs"},
    {"combination": "lorahub", "blocks": "sides"},
    {"selection": "folds", "folds": 2, "optimiser": "random"},
    {"rank": 2},
    {"objective": "exact_match"},
], ids=str)  # fmt: skip
def test_so_does_one_of_any_settings(
    recipe: Recipe, alice: User, settings_of_it: dict[str, Any]
) -> None:
    # With nothing held out, which is much quicker.
    search = verified.search_for(alice, recipe.base_model, held_out=(), **settings_of_it)
    row = verified.verify(search.recipe, alice, Verification.SEARCH)
    assert (row.outcome, row.differs, row.unchecked) == (Verification.MATCHED, [], [])


@pytest.mark.parametrize("what", proof.TWELVE)
def test_a_file_changed_by_hand_says_what_was_changed(recipe: Recipe, what: str) -> None:
    from composer import artifacts

    document = verified.tampered(artifacts.recipe_json(recipe), what)
    named = {each.what for each in proof.why_not_its_id(document)}
    assert what in named
    with_it = {"rank rule", proof.SCALING} if what == proof.COMBINATION else set()
    assert named <= {what} | with_it


@pytest.mark.parametrize("what", proof.TWELVE)
def test_tampering_is_named_though_the_id_and_its_digests_fit(
    recipe: Recipe, bob: User, what: str
) -> None:
    other = verified.put_in_place(recipe, what, of_everything=False)
    row = verified.verify(other, bob)
    assert row.outcome == Verification.DIFFERS
    assert what in parts_of(row), row.differs


@pytest.mark.parametrize("what", proof.TWELVE)
def test_and_though_all_that_is_written_down_fits(recipe: Recipe, bob: User, what: str) -> None:
    """The search's record, the last generation and the adapter are made to fit: only what was
    measured tells."""
    other = verified.put_in_place(recipe, what, of_everything=True)
    row = verified.verify(other, bob)
    assert row.outcome == Verification.DIFFERS
    assert parts_of(row) == {what}, row.differs


@pytest.mark.parametrize("what", [proof.WEIGHT, proof.SIGN, proof.ORDER])
def test_the_whole_search_names_the_module_and_both_values(
    recipe: Recipe, bob: User, what: str
) -> None:
    other = verified.put_in_place(recipe, what, of_everything=False)
    row = verified.verify(other, bob, Verification.SEARCH)
    assert what in parts_of(row)
    if what == proof.WEIGHT:
        (said,) = {each["stated"] for each in row.differs if each["what"] == what}
        name, _, value = said.partition(": ")
        changed = max(other.document["weights"], key=abs)
        assert name in {each["repo"] for each in other.document["spec"]["ingredients"]}
        assert float(value) == pytest.approx(abs(changed), rel=1e-5)


def test_weights_that_the_search_does_not_find_are_named(recipe: Recipe, bob: User) -> None:
    """Where no loss tells, since the evidence has none."""
    search = recipe.published_search
    del search.evidence["search"]
    search.save()
    other = verified.put_in_place(recipe, proof.WEIGHT, of_everything=True)
    assert verified.verify(other, bob).outcome == Verification.MATCHED
    row = verified.verify(other, bob, Verification.SEARCH)
    assert parts_of(row) == {proof.WEIGHT}
    assert "the search found" in row.differs[0]["found"]


def test_a_file_of_other_bytes_is_named(recipe: Recipe, bob: User, settings: Any) -> None:
    shutil.rmtree(settings.CACHE_DIR)
    ingredient = recipe.ingredients.first()
    path = local.local_path(ingredient.weights_sha256)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    row = verified.verify(recipe, bob)
    assert proof.FILE in parts_of(row)
    assert ingredient.name in row.differs[0]["stated"]


def test_scores_that_are_not_measured_again_are_named(recipe: Recipe, bob: User) -> None:
    search = recipe.published_search
    search.evidence["methods"][0]["hits"] = "111"
    search.save()
    assert parts_of(verified.verify(recipe, bob)) == {"answers"}


def rounded_otherwise(search: Search) -> None:
    """What the same search would have written down on a machine that rounds otherwise."""
    search.evidence["environment"]["torch"] = "1.0"
    search.evidence["search"]["loss_after"] *= 1 + 1e-7
    first = search.evidence["proof"]["first"]
    first["zero"] *= 1 - 1e-7
    losses = np.array([first["zero"], *(row["loss"] for row in first["singles"])])
    there = run_search(lambda weights: losses[: len(weights)], 4, config_of(search.spec))
    first["digest"] = next(iter(there)).digest
    search.save()


def test_other_hardware_rounds_otherwise(recipe: Recipe, bob: User) -> None:
    rounded_otherwise(recipe.published_search)
    row = verified.verify(recipe, bob)
    assert (row.outcome, row.differs, row.unchecked) == (Verification.WITHIN, [], [])
    assert verifications.in_words(row) == "matched within tolerance"


def test_its_seed_is_told_there_all_the_same(recipe: Recipe, bob: User) -> None:
    rounded_otherwise(recipe.published_search)
    other = verified.put_in_place(recipe, proof.SEED, of_everything=True)
    row = verified.verify(other, bob)
    assert parts_of(row) == {proof.SEED}
    assert row.differs[0]["found"] == "the search that was measured began with seed 3"


def test_weights_as_good_are_enough_there(recipe: Recipe, bob: User) -> None:
    """Steps that begin with other last bits lead elsewhere."""
    rounded_otherwise(recipe.published_search)
    Generation.objects.filter(search=recipe.published_search).delete()
    search = recipe.published_search
    before = search.evidence["search"]["loss_after"]
    other = verified.put_in_place_of_weights(recipe, lambda weight: weight * (1 + 1e-6))
    row = verified.verify(other, bob, Verification.SEARCH)
    assert row.outcome == Verification.WITHIN, row.differs
    assert "weights as good, which differ by up to" in " ".join(row.checked)
    assert before == pytest.approx(search.evidence["search"]["loss_after"])


def test_without_examples_the_rest_is_checked(recipe: Recipe, bob: User) -> None:
    """As when whoever published it has left."""
    search = recipe.published_search
    search.examples = {"shots": [], "held_out": []}
    search.save()
    row = verified.verify(recipe, bob)
    assert row.outcome == Verification.MATCHED
    assert [each["what"] for each in row.unchecked] == [proof.EXAMPLE]
    assert "byte for byte" in " ".join(row.checked)
    assert "in the parts that could be checked" in verifications.in_words(row)
    with pytest.raises(verifications.NotReady, match="examples are not here"):
        verifications.submit_verification(recipe=recipe, user=bob, kind=Verification.SEARCH)


def test_nobody_can_read_the_examples_from_it(recipe: Recipe, bob: User) -> None:
    row = verified.verify(recipe, bob)
    kept = str([row.differs, row.checked, row.unchecked, verifications.public_rows(recipe)])
    assert all(each.input not in kept for each in verified.SHOTS if len(each.input) > 3)


def test_one_at_a_time_and_within_limits(recipe: Recipe, bob: User, settings: Any) -> None:
    def ask(kind: str) -> Verification:
        return verifications.submit_verification(recipe=recipe, user=bob, kind=kind)

    settings.USER_QUEUED_JOBS = 1
    first = ask(Verification.EVALUATION)
    assert ask(Verification.EVALUATION) == first
    with pytest.raises(OverLimit):
        ask(Verification.SEARCH)


def test_a_search_costs_what_a_guest_may_spend(recipe: Recipe, guest: User, settings: Any) -> None:
    settings.GUEST_MAX_BUDGET = 10
    with pytest.raises(OverLimit, match="budget"):
        verifications.submit_verification(recipe=recipe, user=guest, kind=Verification.SEARCH)
    assert verified.verify(recipe, guest).outcome == Verification.MATCHED


def test_a_module_that_has_gone_is_told(recipe: Recipe, bob: User) -> None:
    recipe.ingredients.first().lora_module.repo.delete()
    with pytest.raises(Exception, match="is not here any more"):
        verified.verify(recipe, bob)


@pytest.mark.django_db(transaction=True)
def test_a_worker_stamps_it_and_tells_who_asked(recipe: Recipe, bob: User) -> None:
    row = verifications.submit_verification(recipe=recipe, user=bob, kind=Verification.SEARCH)
    claimed = queue.claim_next("test")
    assert claimed is not None
    run(claimed)
    job = Job.objects.get(pk=row.job_id)
    assert (job.state, job.error_message) == ("done", "")
    row.refresh_from_db()
    assert row.outcome == Verification.MATCHED
    assert job.result == {"recipe": recipe.pk, "outcome": "matched"}
    assert bob.notices.get().text == "Verifying “Opposites” matched."


def test_a_search_goes_on_from_its_last_generation(recipe: Recipe, bob: User) -> None:
    from composer import verifying
    from hub_site.jobs.worker import Lease

    row = verifications.submit_verification(recipe=recipe, user=bob, kind=Verification.SEARCH)
    claimed = queue.claim_next("test")
    assert claimed is not None
    search = Search.objects.get(pk=recipe.published_search_id)
    known = [each.record for each in search.generations.filter(round="")]
    Verification.objects.filter(pk=row.pk).update(
        records=known[:2], environment=search.evidence["environment"]
    )
    asked: list[int] = []
    again = verifying.Verifying(claimed, Lease(claimed), Verification.objects.get(pk=row.pk))
    measured = again._objective

    def counted(*args: Any) -> Any:
        objective = measured(*args)
        plain = objective.task_loss
        objective.task_loss = lambda weights: asked.append(len(weights)) or plain(weights)
        return objective

    again._objective = counted  # type: ignore[method-assign]
    again.run()
    row.refresh_from_db()
    assert row.outcome == Verification.MATCHED
    # Generation 0 and the weights are measured apart from the search.
    assert sum(asked) == 30 + 2 - known[1]["evaluations"] + len(known[0]["losses"])


def test_what_an_account_stamped_stays_without_its_name(recipe: Recipe, bob: User) -> None:
    from hub_site.accounts.leaving import delete_account

    row = verified.verify(recipe, bob)
    delete_account(bob, keep_public=False)
    row.refresh_from_db()
    assert (row.user, row.job, row.outcome) == (None, None, Verification.MATCHED)
    assert verifications.public_rows(recipe)[0]["by"] is None


def test_its_worker_may_fetch_what_it_reads(recipe: Recipe, bob: User) -> None:
    row = verifications.submit_verification(recipe=recipe, user=bob, kind=Verification.EVALUATION)
    found = {commit.sha for commit in verifications.commits_of(row.job)}
    spec = recipe.document["spec"]
    assert {each["revision"] for each in spec["ingredients"]} < found
    assert spec["base_model"]["revision"] in found
    assert len(found) == len(spec["ingredients"]) + 1
    hidden = recipe.ingredients.first().lora_module.repo
    hidden.hidden_at = hidden.created_at
    hidden.save()
    assert verifications.commits_of(row.job).count() == len(found) - 1
