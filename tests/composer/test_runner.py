"""The worker's side of a composition, on a tiny model, with the real queue, PEFT and files."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from django.test import Client
from django.utils import timezone
from peft import PeftModel
from safetensors.torch import load_file, save_file

from composer import artifacts, model_cache, module_choice, ranking, runner, services, task_writing
from composer.engine import base_model as engine_base
from composer.engine import compose as engine_compose
from composer.engine.adapter_file import CONFIG_NAME, WEIGHTS_NAME
from composer.engine.population import attached
from composer.engine.recipe import check as check_recipe
from composer.models import FewShotTask, Generation, Recipe, Search
from composer.module_choice import ModuleChoice
from composer.progress import progress
from composer.running import LARGEST_LOSS, Round
from composer.verdict import methods, verdict
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.queue import LeaseLost
from hub_site.jobs.worker import Lease, ShuttingDown, run
from modules.bases import base_models
from modules.models import BaseModel, LoraModule, Repo
from modules.services import commit
from modules.storage import local
from tests import tiny
from tests.composer.conftest import HELD_OUT, SHOTS
from tests.engine.conftest import make_llama

# What a composition is measured beside, in this order.
WAYS = [
    "zero_shot",
    "in_context",
    "best_single",
    "uniform",
    "uniform_scaled",
    "fresh_lora",
    "control",
]

# The jobs' lease beats in a thread with a connection of its own.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _cold_worker() -> None:
    model_cache.forget()
    torch.set_num_threads(1)


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"budget": 30, "seed": 3, "population": 6}


@pytest.fixture
def unmeasured(task: FewShotTask) -> FewShotTask:
    """Nothing is held out, so a composition ends with its search: much quicker."""
    task.examples.filter(split="held_out").delete()
    return task


@pytest.fixture
def job(task: FewShotTask, alice: User, overrides: dict[str, Any]) -> Job:
    """All modules, unranked: each look of the worker at its lease is then a generation's."""
    every = ModuleChoice("all")
    return services.submit_job(task=task, user=alice, modules=every, overrides=overrides)


def work(expected: Job) -> Search:
    """Claim and run the next job, as a worker's child does."""
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == expected.pk
    run(claimed)
    return Search.objects.select_related("job", "recipe__adapter").get(pk=expected.pk)


def events(search: Search) -> list[str]:
    return list(JobEvent.objects.filter(job=search.job).values_list("name", flat=True))


def test_it_ends_with_a_recipe_and_evidence(job: Job, lora_modules: list[LoraModule]) -> None:
    search = work(job)
    assert (search.job.state, search.job.error_message) == ("done", "")
    recipe = search.recipe
    assert recipe is not None and recipe.digest == search.job.result["recipe"]
    assert check_recipe(recipe.document).id == recipe.digest
    assert [each.lora_module for each in recipe.ingredients.all()] == lora_modules
    assert [each.weight for each in recipe.ingredients.all()] == recipe.document["weights"]

    evidence = search.evidence
    assert evidence["search"]["evaluations"] == 30
    assert evidence["search"]["loss_after"] <= evidence["search"]["loss_before"]
    ranked = [each["loss"] for each in evidence["search"]["singles"]]
    assert ranked == sorted(ranked) and len(ranked) == len(lora_modules)
    rows = {row.key: row for row in methods(evidence)}
    assert rows["best_single"].detail == evidence["search"]["singles"][0]["name"]
    assert list(rows) == ["composed", *WAYS]
    for key, row in rows.items():
        assert row.total == len(HELD_OUT) == len(row.values) == len(row.losses)
        assert row.correct == pytest.approx(sum(row.values))
        assert row.low <= row.value <= row.high
        assert set(row.metrics) == {"token_f1"}
        # "opposite of a good :" has one token more; three examples stand before it in context
        assert row.tokens == pytest.approx(5.3) if key != "in_context" else row.tokens > 3 * 5.3
    assert rows["in_context"].detail.startswith("3 orders of 3 examples: ")
    assert rows["zero_shot"].size == rows["in_context"].size == 0 < rows["best_single"].size
    assert evidence["comparator"]["key"] in WAYS
    found = verdict(evidence)
    assert found is not None and found.kind == "unsure" and found.missing == ()
    rounds = set(search.generations.values_list("round", flat=True))
    assert rounds == {"", "control"}
    assert evidence["adapter"]["max_difference"] < 1e-4
    assert set(evidence["seconds"]) == {"preparing", "searching", "measuring", "building"}
    rows = artifacts.predictions(search)
    assert [row["target"] for row in rows] == ["down", "bad", "right"]
    assert all({"composed", "zero_shot", "best_single"} <= set(row) for row in rows)


@pytest.mark.usefixtures("unmeasured")
def test_its_progress_can_be_read_from_its_rows(job: Job) -> None:
    before = progress(job.search)
    assert (before.state, before.queue_position, before.evaluations) == ("queued", 1, 0)
    after = progress(work(job))
    assert after.evaluations == after.budget == 30 and after.fraction == 1
    assert [point.evaluations for point in after.curve] == [5, 11, 17, 23, 29, 30]
    losses = [point.best_loss for point in after.curve]
    assert losses == sorted(losses, reverse=True)
    sizes = [abs(each.weight) for each in after.weights]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 4
    assert after.evaluations_per_second and after.evaluations_per_second > 0


@pytest.mark.usefixtures("unmeasured")
def test_the_downloaded_zip_loads_in_peft_and_computes_the_same(
    job: Job, tmp_path: Path, tiny_folder: Path
) -> None:
    search = work(job)
    data = b"".join(artifacts.zip_adapter(search.recipe, search))
    assert data == b"".join(artifacts.zip_adapter(search.recipe, search))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        names = {CONFIG_NAME, WEIGHTS_NAME, "README.md", "recipe.json"}
        assert set(archive.namelist()) == names
        archive.extractall(tmp_path / "adapter")
    document = json.loads((tmp_path / "adapter" / "recipe.json").read_text())
    assert document["id"] == search.recipe.digest
    assert "answers" not in document["evidence"] and "examples" not in document["evidence"]

    base = engine_base.load(tiny_folder / "base")
    inputs = base.tokenizer("opposite of hot :", return_tensors="pt")
    start = torch.tensor([[0]])
    stack, weights = (
        model_cache.stack_of(search, Lease(search.job)),
        search.recipe.document["weights"],
    )
    with torch.inference_mode():
        factors = engine_compose.compose([weights], stack, "sum")
        with attached(base, factors, rows=1):
            ours = base.model(**inputs, decoder_input_ids=start).logits
        loaded = PeftModel.from_pretrained(base.model, str(tmp_path / "adapter"))
        theirs = loaded(**inputs, decoder_input_ids=start).logits
        probe = base.tokenizer(document["evidence"]["adapter"]["probe"]["prompt"])
        again = loaded(input_ids=torch.tensor([probe.input_ids]), decoder_input_ids=start).logits[
            0, -1
        ]
    assert torch.allclose(ours, theirs, atol=1e-5)
    shown = document["evidence"]["adapter"]["probe"]
    assert again[shown["token_ids"]].tolist() == pytest.approx(shown["logits"], abs=1e-4)


@pytest.mark.usefixtures("unmeasured")
def test_checking_the_adapter_leaves_the_warm_base_model_as_it_was(job: Job) -> None:
    search = work(job)
    base = model_cache.base_of(search, Lease(search.job))
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    assert type(base.model).__name__ == "T5ForConditionalGeneration"
    assert not getattr(base.model, "peft_config", None)


def test_small_models_get_one_thread(job: Job, settings: Any) -> None:
    torch.set_num_threads(2)
    search = Search.objects.get(pk=job.pk)
    assert model_cache.base_of(search, Lease(search.job)).fingerprint()["threads"] == 1
    model_cache.forget()
    settings.ENGINE_THREADS = 2
    assert model_cache.base_of(search, Lease(search.job)).fingerprint()["threads"] == 2


class Dying:
    """A lease whose worker is told to end after so many looks."""

    def __init__(self, lease: Lease, looks: int) -> None:
        self.lease, self.looks = lease, looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise ShuttingDown("the test ends this worker")
        self.lease.check()

    give_way = check


def interrupt(job: Job, looks: int) -> None:
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == job.pk
    with Lease(claimed) as lease:
        with pytest.raises(ShuttingDown):
            runner.compose(claimed, Dying(lease, looks))  # type: ignore[arg-type]
        queue.release(claimed, "the test ended this worker")
    model_cache.forget()


def test_an_interrupted_search_ends_with_the_same_bits(
    task: FewShotTask, alice: User, bob: User, overrides: dict[str, Any]
) -> None:
    every = ModuleChoice("all")
    first = services.submit_job(task=task, user=alice, modules=every, overrides=overrides)
    whole = work(first)
    second = services.submit_job(task=task, user=alice, modules=every, overrides=overrides)
    for looks in (4, 5, 7, 7, 8):
        interrupt(second, looks)
    for looks in (12, 9, 5):  # while it measures, and searches over randomised modules
        interrupt(second, looks)
    resumed = work(second)
    assert resumed.job.attempts == 9
    assert resumed.recipe == whole.recipe and resumed.matched and not whole.matched
    records = [
        [
            {key: value for key, value in record.items() if key != "seconds"}
            for record in search.generations.order_by("round", "number").values_list(
                "record", flat=True
            )
        ]
        for search in (whole, resumed)
    ]
    assert records[0] == records[1]
    keys = ("correct", "detail", "forwards", "losses", "size", "tokens")
    measured = [
        [{key: row[key] for key in keys} for row in search.evidence["methods"]]
        for search in (whole, resumed)
    ]
    assert measured[0] == measured[1]
    assert whole.evidence["answers"] == resumed.evidence["answers"]
    assert "matched" in events(resumed) and "restarted" not in events(resumed)


@pytest.mark.usefixtures("unmeasured")
def test_a_search_from_another_machine_begins_again_and_says_so(job: Job) -> None:
    interrupt(job, 5)
    assert Generation.objects.count() >= 2
    search = Search.objects.get(pk=job.pk)
    search.fingerprint["threads"] = 99
    search.save()
    search = work(job)
    assert search.job.state == "done"
    restarted = JobEvent.objects.get(job=job, name="restarted")
    assert "threads differ" in restarted.detail["reason"]
    assert search.fingerprint["threads"] == 1


@pytest.mark.usefixtures("unmeasured")
def test_generations_that_are_not_its_own_are_not_continued(job: Job) -> None:
    interrupt(job, 5)
    row = Generation.objects.get(number=1, round="")
    row.record["losses"][0] = (0.5).hex()
    row.save()
    search = work(job)
    assert search.job.state == "done" and "restarted" in events(search)
    assert search.generations.get(number=1, round="").record["losses"][0] != (0.5).hex()


def test_a_stale_worker_can_write_nothing(job: Job) -> None:
    stale = queue.claim_next("stale")
    assert stale is not None
    lease = Lease(stale)
    late = runner.Composition(stale, lease, Search.objects.get(pk=job.pk))
    late.load_base()
    late.load_modules()
    Job.objects.filter(pk=job.pk).update(fence=stale.fence + 1)
    with pytest.raises(LeaseLost):
        late.find(Round("", late.given, late.objective))
    with pytest.raises(LeaseLost):
        late.note(search={})
    late.show(stage="searching")
    with pytest.raises(LeaseLost):
        late.restart("no reason")
    search = Search.objects.get(pk=job.pk)
    assert not search.generations.exists()
    assert (list(search.evidence), search.stage) == (["load"], "")


def test_a_cancelled_search_stops(job: Job) -> None:
    claimed = queue.claim_next("test")
    assert claimed is not None
    services.cancel(job.search)
    run(claimed)
    assert Job.objects.get(pk=job.pk).state == "cancelled"
    assert not Recipe.objects.exists()


@pytest.mark.usefixtures("unmeasured")
def test_two_users_who_find_the_same_share_a_recipe(
    demo_task: FewShotTask, alice: User, bob: User, overrides: dict[str, Any]
) -> None:
    first = work(services.submit_job(task=demo_task, user=alice, overrides=overrides))
    second = work(services.submit_job(task=demo_task, user=bob, overrides=overrides))
    assert first.recipe == second.recipe and second.matched
    assert Recipe.objects.count() == 1
    assert second.evidence["adapter"] == first.evidence["adapter"]


@pytest.mark.parametrize("preset", ["recommended", "paper"])
def test_it_composes_without_held_out_examples(task: FewShotTask, alice: User, preset: str) -> None:
    task.examples.filter(split="held_out").delete()
    job = services.submit_job(
        task=task, user=alice, preset=preset, modules=ModuleChoice("random", count=2, seed=1)
    )
    search = work(job)
    assert search.job.state == "done" and len(search.spec["ingredients"]) == 2
    assert methods(search.evidence) == []
    found = verdict(search.evidence)
    assert found is not None and found.kind == "unmeasured"


def test_it_composes_for_a_decoder_only_model(
    alice: User, tmp_path_factory: pytest.TempPathFactory, settings: Any, tmp_path: Path
) -> None:
    settings.BLOB_DIR, settings.CACHE_DIR = tmp_path / "blobs", tmp_path / "cache"
    root = tiny.make_library(tmp_path_factory.mktemp("llama"), make_llama)
    base_model, _ = tiny.load_library(root)
    task = task_writing.create_task(
        user=alice,
        name="Opposites",
        base_model=base_model,
        template="opposite of {input} :",
        shots=SHOTS,
        held_out=HELD_OUT,
    )
    search = work(services.submit_job(task=task, user=alice, overrides={"budget": 15}))
    assert (search.job.state, search.job.error_message) == ("done", "")
    assert search.evidence["adapter"]["max_difference"] < 1e-4
    rows = {row.key: row for row in methods(search.evidence)}
    assert list(rows) == ["composed", *WAYS]
    assert rows["in_context"].prefix_tokens and rows["in_context"].tokens
    assert rows["in_context"].prefix_tokens < rows["in_context"].tokens
    assert "AutoModelForCausalLM" in artifacts.snippet(search.recipe)


def test_it_chooses_among_answer_options(task: FewShotTask, alice: User) -> None:
    task.answer_options = ["small", "cold", "new", "down", "bad", "right"]
    task.save()
    search = work(services.submit_job(task=task, user=alice, overrides={"budget": 10}))
    assert search.job.state == "done"
    said = {answer for answers in search.evidence["answers"].values() for answer in answers}
    assert said <= set(task.answer_options)


@pytest.mark.usefixtures("unmeasured")
def test_a_warm_worker_tells_equal_weights_apart(
    unmeasured: FewShotTask, alice: User, overrides: dict[str, Any], lora_modules: list[LoraModule]
) -> None:
    """A new version may change the config alone, and two people may share the same file."""
    changed = lora_modules[0]

    def losses() -> dict[str, float]:
        by_hand = ModuleChoice("hand", modules=(changed,))
        job = services.submit_job(task=unmeasured, user=alice, modules=by_hand, overrides=overrides)
        search = work(job)
        assert search.job.state == "done", search.job.error_message
        return {row["name"]: row["loss"] for row in search.evidence["search"]["singles"]}

    before = losses()
    config = changed.commit.files.get(path=CONFIG_NAME)
    text = b"".join(local.open(config.blob_id)).replace(b'"lora_alpha": 4', b'"lora_alpha": 8')
    files = {CONFIG_NAME: io.BytesIO(text)}
    commit(repo=changed.repo, author=None, title="Scale it", additions=files, check_now=True)
    changed.refresh_from_db()
    assert changed.lora_alpha == 8
    assert losses() != before


def test_whoever_chose_a_module_is_told_that_it_has_gone(
    task: FewShotTask, alice: User, overrides: dict[str, Any], lora_modules: list[LoraModule]
) -> None:
    gone = str(lora_modules[0])
    choice = ModuleChoice("hand", modules=tuple(lora_modules))
    job = services.submit_job(task=task, user=alice, modules=choice, overrides=overrides)
    repo = lora_modules[0].repo
    repo.name = "elsewhere"
    repo.save()
    search = work(job)
    assert (search.job.state, search.job.error_code) == ("failed", "module_gone")
    assert gone in search.job.error_message


@pytest.mark.usefixtures("unmeasured")
def test_a_trial_answers_by_both_models(job: Job, alice: User) -> None:
    search = work(job)
    trial = services.submit_trial(search=search, user=alice, given="big")
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == trial.pk
    run(claimed)
    trial.refresh_from_db()
    assert trial.state == "done", trial.error_message
    assert set(trial.result) == {"input", "base", "composed", "seconds"}
    assert trial.result["input"] == "big"


# --- ranking, blocks, cut-down ranks and other optimisers ----------------------------------------


@pytest.mark.usefixtures("unmeasured")
def test_it_mixes_the_modules_that_do_best_alone(
    unmeasured: FewShotTask, alice: User, overrides: dict[str, Any], lora_modules: list[LoraModule]
) -> None:
    choice = ModuleChoice("ranked", count=2)
    job = services.submit_job(task=unmeasured, user=alice, modules=choice, overrides=overrides)
    candidates = [str(module) for module in lora_modules]
    assert [
        each["repo"] for each in Search.objects.get(pk=job.pk).spec["ingredients"]
    ] == candidates
    search = work(job)
    assert (search.job.state, search.job.error_message) == ("done", "")
    ranked = search.evidence["screening"]["modules"]
    assert sorted(row["name"] for row in ranked) == sorted(candidates)
    assert [row["loss"] for row in ranked] == sorted(row["loss"] for row in ranked)
    best = sorted(row["name"] for row in ranked[:2])
    assert [each["repo"] for each in search.recipe.document["spec"]["ingredients"]] == best
    # As candidates of the search they have the same loss, and the penalty of one weight.
    singles = {row["name"]: row["loss"] - 0.02 for row in search.evidence["search"]["singles"]}
    assert singles == pytest.approx({row["name"]: row["loss"] for row in ranked[:2]}, abs=1e-5)
    assert "screening" not in artifacts.public_evidence(search, show_examples=True)


@pytest.mark.usefixtures("unmeasured")
def test_a_ranking_is_made_once_whoever_ends_the_worker(
    unmeasured: FewShotTask, alice: User, overrides: dict[str, Any], lora_modules: list[LoraModule]
) -> None:
    choice = ModuleChoice("ranked", count=2)
    job = services.submit_job(task=unmeasured, user=alice, modules=choice, overrides=overrides)
    claimed = queue.claim_next("test")
    lease = Lease(claimed)
    first = runner.Composition(claimed, lease, Search.objects.get(pk=job.pk))
    first.load_base()
    ranking.rank(first, first.given)
    found = Search.objects.get(pk=job.pk)
    queue.release(claimed, "test")
    search = work(job)
    assert search.job.state == "done"
    assert search.evidence["screening"] == found.evidence["screening"]
    assert search.spec["ingredients"] == found.spec["ingredients"]


def test_more_modules_than_a_search_can_learn_about_are_ranked_unasked(
    unmeasured: FewShotTask,
    alice: User,
    overrides: dict[str, Any],
    lora_modules: list[LoraModule],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_mixed = work(services.submit_job(task=unmeasured, user=alice, overrides=overrides))
    assert all_mixed.evidence["screening"]["mixed"] == len(lora_modules)
    assert len(all_mixed.spec["ingredients"]) == len(lora_modules)
    monkeypatch.setattr(module_choice, "MIXED_UNASKED", 2)
    search = work(services.submit_job(task=unmeasured, user=alice, overrides=overrides))
    assert search.evidence["screening"]["mixed"] == len(search.spec["ingredients"]) == 2
    every = services.submit_job(
        task=unmeasured, user=alice, overrides=overrides, modules=ModuleChoice("all")
    )
    unranked = work(every)
    assert "screening" not in unranked.evidence
    assert len(unranked.spec["ingredients"]) == len(lora_modules)


@pytest.mark.usefixtures("unmeasured")
def test_modules_that_nobody_chose_are_left_out_once_they_have_gone(
    client: Client, task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    job = services.submit_job(task=task, user=alice, preset="paper")
    gone = str(lora_modules[0])
    lora_modules[0].repo.delete()
    search = work(job)
    assert search.job.state == "done", search.job.error_message
    assert [each["repo"] for each in search.spec["ingredients"]] == [
        str(module) for module in lora_modules[1:]
    ]
    assert "no longer here" in search.evidence["left_out"][gone]
    client.force_login(alice)
    page = client.get(search.get_absolute_url()).content.decode()
    assert "1 module could not take part" in page and gone in page


@pytest.mark.usefixtures("unmeasured")
def test_a_ranking_leaves_out_what_has_gone_meanwhile(
    unmeasured: FewShotTask, alice: User, overrides: dict[str, Any], lora_modules: list[LoraModule]
) -> None:
    choice = ModuleChoice("ranked", count=2)
    job = services.submit_job(task=unmeasured, user=alice, modules=choice, overrides=overrides)
    hidden, gone = (str(module) for module in lora_modules[:2])
    lora_modules[0].repo.hidden_at = timezone.now()
    lora_modules[0].repo.save()
    lora_modules[1].repo.delete()
    search = work(job)
    assert search.job.state == "done", search.job.error_message
    screening = search.evidence["screening"]
    assert set(screening["refused"]) == {hidden, gone}
    assert "A moderator has hidden" in screening["refused"][hidden]
    assert "no longer here" in screening["refused"][gone]
    assert {row["name"] for row in screening["modules"]} == {str(m) for m in lora_modules[2:]}
    # Two modules, and the base model alone.
    assert (screening["rough"], screening["known"], screening["forwards"]) == (0, 0, 3)


def test_ranking_and_measuring_go_on_in_smaller_pieces_too(
    task: FewShotTask, alice: User, overrides: dict[str, Any]
) -> None:
    choice = ModuleChoice("ranked", count=2)
    overrides = {**overrides, "budget": 4}
    work(services.submit_job(task=task, user=alice, modules=choice, overrides=overrides))
    assert model_cache._base is not None
    block = model_cache._base[1].model.encoder.block[0]
    most = 2  # of three examples and of three held out
    seen: list[int] = []

    def refuse(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(args[0].shape[0])
        if args[0].shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = block.register_forward_pre_hook(refuse)
    try:
        job = services.submit_job(task=task, user=alice, modules=choice, overrides=overrides)
        search = work(job)
    finally:
        handle.remove()
    assert search.job.state == "done", search.job.error_message
    assert max(seen) > most
    assert search.evidence["methods"][0]["total"] == len(HELD_OUT)
    assert "missing" not in search.evidence


@pytest.mark.parametrize(
    "changed",
    [
        {"blocks": "sides"},
        {"blocks": "layers:2", "combination": "lorahub"},
        {"optimiser": "cmaes"},
        {"optimiser": "lbfgs"},
        {"optimiser": "random", "selection": "folds", "folds": 2},
        {"objective": "exact_match"},
        {"combination": "linear"},
    ],
    ids=lambda changed: " ".join(map(str, changed.values())),
)
def test_every_setting_ends_in_a_recipe_that_peft_computes(
    unmeasured: FewShotTask,
    alice: User,
    overrides: dict[str, Any],
    lora_modules: list[LoraModule],
    changed: dict[str, Any],
) -> None:
    search = work(
        services.submit_job(task=unmeasured, user=alice, overrides={**overrides, **changed})
    )
    assert (search.job.state, search.job.error_message) == ("done", "")
    recipe = check_recipe(search.recipe.document)
    blocks = 1 if "blocks" not in changed else 2
    assert len(recipe.weights) == blocks * len(lora_modules)
    means = [sum(recipe.weights[n :: len(lora_modules)]) / blocks for n in range(len(lora_modules))]
    shown = [each.weight for each in search.recipe.ingredients.all()]
    assert shown == pytest.approx(means)
    facts = search.recipe.adapter_facts
    assert facts["max_difference"] < 1e-4 and facts["logit_difference"] < 1e-4


def test_a_cut_down_adapter_is_scored_as_it_is_handed_out(
    task: FewShotTask, alice: User, overrides: dict[str, Any], lora_modules: list[LoraModule]
) -> None:
    settings = {**overrides, "rank": 1, "penalty": 0.0}
    search = work(services.submit_job(task=task, user=alice, overrides=settings))
    assert (search.job.state, search.job.error_message) == ("done", "")
    facts = search.recipe.adapter_facts
    assert (facts["r"], search.recipe.adapter_config["r"]) == (1, 1)
    assert facts["exact_rank"] > 1 and 0 < facts["mean_error"] <= facts["largest_error"] < 1
    rows = [method.key for method in methods(search.evidence)]
    assert rows[:2] == ["composed", "exact"]
    assert search.recipe.document["spec"]["rank"] == "truncated to 1 by SVD"
    assert facts["max_difference"] < 1e-4
    assert "exact" not in str(verdict(search.evidence))


@pytest.mark.usefixtures("unmeasured")
def test_it_says_what_became_of_each_file(job: Job, lora_modules: list[LoraModule]) -> None:
    load = work(job).evidence["load"]
    assert [row["name"] for row in load] == [str(module) for module in lora_modules]
    assert all(row["used"] and not row["ignored"] for row in load)


def test_a_search_that_runs_out_of_memory_begins_again_in_smaller_pieces(
    unmeasured: FewShotTask, alice: User, overrides: dict[str, Any]
) -> None:
    work(
        services.submit_job(task=unmeasured, user=alice, overrides=overrides)
    )  # the model is warm now
    assert model_cache._base is not None
    model = model_cache._base[1].model

    def refuse(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[0] > 7:  # rows: three candidates on three examples are too many
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = model.encoder.block[0].register_forward_pre_hook(refuse)
    try:
        job = services.submit_job(task=unmeasured, user=alice, overrides=overrides)
        search = work(job)
    finally:
        handle.remove()
    assert search.job.state == "done", search.job.error_message
    reasons = [
        event.detail["reason"]
        for event in JobEvent.objects.filter(job=job, name="restarted").order_by("pk")
    ]
    assert reasons and all("began again in smaller pieces" in reason for reason in reasons)
    assert f"Start again with {search.fingerprint['chunk']['candidates']} on 3" in reasons[-1]
    assert search.fingerprint["chunk"]["candidates"] in (1, 2)
    assert search.generations.count() > 1


@pytest.mark.usefixtures("unmeasured")
def test_a_resumed_search_keeps_the_chunk_it_began_with(job: Job) -> None:
    interrupt(job, 5)
    search = Search.objects.get(pk=job.pk)
    assert search.fingerprint["chunk"]["candidates"] > 2
    search.fingerprint["chunk"]["candidates"] = 2
    search.save()
    search = work(job)
    assert search.job.state == "done" and "restarted" not in events(search)
    assert search.fingerprint["chunk"]["candidates"] == 2


def test_a_search_that_cannot_fit_ends_before_anything_is_loaded(
    job: Job, base_model: BaseModel
) -> None:
    BaseModel.objects.filter(pk=base_model.pk).update(parameters=10**14)
    search = work(job)
    assert (search.job.state, search.job.error_code) == ("failed", "does_not_fit")
    assert "400000.0 GB for the base model" in search.job.error_message
    assert "a smaller base model" in search.job.error_message
    assert model_cache._base is None


@pytest.fixture
def wild_module(lora_modules: list[LoraModule], tiny_folder: Path, tmp_path: Path) -> LoraModule:
    """Finite numbers, so its check lets it pass; what the model makes of them overflows."""
    folder = tmp_path / "wild"
    shutil.copytree(tiny_folder / "module-0", folder)
    wild = {name: value * 3e19 for name, value in load_file(folder / WEIGHTS_NAME).items()}
    save_file(wild, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    repo = base_models.repo_of(base_models.organisation(tiny.OWNER), "wild", Repo.LORA)
    base_models.mirror(repo, folder, "Add the module", check_now=True)
    return LoraModule.objects.get(repo=repo)


@pytest.mark.parametrize("how", ["all", "ranked"])
def test_a_module_whose_mixtures_overflow_ends_no_search(
    task: FewShotTask, alice: User, client: Client, wild_module: LoraModule, how: str
) -> None:
    assert wild_module.status == "ready", wild_module.rejected_reason
    found = work(
        services.submit_job(
            task=task, user=alice, modules=ModuleChoice(how, count=5), overrides={"budget": 12}
        )
    )
    assert (found.job.state, found.job.error_message) == ("done", "")
    client.force_login(alice)
    assert client.get(found.get_absolute_url()).status_code == 200
    if how == "all":
        losses = [way["loss"] for way in found.evidence["comparator"]["ways"].values()]
        assert LARGEST_LOSS in losses
    else:
        assert str(wild_module) in found.evidence["screening"]["refused"]


def test_moved_weights_are_measured_as_the_ablation_is(
    unmeasured: FewShotTask, alice: User
) -> None:
    overrides = {"budget": 12, "objective": "reference"}
    found = work(services.submit_job(task=unmeasured, user=alice, overrides=overrides))
    assert found.recipe is not None
    weights = found.recipe.document["weights"]
    asked = services.submit_weights(search=found, user=alice, weights=weights)
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == asked.pk
    run(claimed)
    claimed.refresh_from_db()
    assert claimed.result["loss"] == pytest.approx(found.evidence["ablation"]["whole"]["loss"])
