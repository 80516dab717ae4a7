"""Make the whole demo library from one seed: tokenizers, base models, modules, tasks, cards.

    python -m composer.demo.train [--family t5|llama|all] [--out DIR] [--seed 0] [--miniature]
                                  [--device auto]

The same seed, machine, torch and number of threads give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from tqdm import tqdm

from composer.demo import cards, library, skills, tasks, tokenizer
from composer.demo.families import FAMILIES, IGNORED, Batch, Family
from composer.demo.library import DemoBase
from composer.demo.plans import FULL, MINIATURE, Plan
from composer.demo.skills import Generator, Line


def schedule(steps: int, warm_up: int) -> Callable[[int], float]:
    """Linear up, then linear down to a fiftieth."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return max(0.02, 1 - (step - warm_up) / max(1, steps - warm_up))

    return factor


def pretraining_lines(generator: Generator, step: int, count: int) -> list[Line]:
    """Every fifth batch shows examples; in the others 65% of the lines name the relation."""
    if step % 5 == 4:
        return [generator.few_shot() for _ in range(count // 2)]
    named = int(count * 0.65)
    return [generator.instructed() for _ in range(named)] + [
        generator.bare() for _ in range(count - named)
    ]


def train_stage(
    family: Family,
    model: Any,
    coder: Tokenizer,
    generator: Generator,
    *,
    name: str,
    steps: int,
    batch_size: int,
    rate: float,
    warm_up: int,
) -> None:
    optimiser = torch.optim.AdamW(
        family.rate_groups(model, rate), betas=(0.9, 0.98), weight_decay=0.01
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule(steps, warm_up))
    bar = tqdm(range(steps), desc=name, unit="step", mininterval=1)
    for step in bar:
        lines = pretraining_lines(generator, step, batch_size)
        batch = family.encode(lines, coder, model.device)
        logits = family.answer_logits(model, batch)
        loss = cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def train_base(
    family: Family, plan: Plan, coder: Tokenizer, seed: int, device: torch.device
) -> Any:
    """First the facts, in eight wrappers; then all wrappers, so that a new one does not matter."""
    model = family.new_model(plan, coder, seed)
    torch.nn.Module.to(model, device)
    model.train()
    train_stage(
        family,
        model,
        coder,
        Generator(
            skills.generator("pretraining", seed), wrappers=skills.FIRST_WRAPPERS, copies=True
        ),
        name="base model, facts",
        steps=plan.base_steps,
        batch_size=plan.base_batch,
        rate=plan.base_rate,
        warm_up=plan.warm_up,
    )
    train_stage(
        family,
        model,
        coder,
        Generator(skills.generator("pretraining, second stage", seed)),
        name="base model, wrappers",
        steps=plan.second_steps,
        batch_size=plan.base_batch,
        rate=plan.second_rate,
        warm_up=plan.warm_up // 3,
    )
    return model.eval()


def module_loss(family: Family, model: PeftModel, batch: Batch) -> Tensor:
    """Learn the module's own answers, and leave all others as the base model has them.

    mean over answers of  -log p(answer)          where the answer is the module's own
                          KL(base || with module)  elsewhere
    """
    logits = family.answer_logits(model.get_base_model(), batch)
    with torch.no_grad(), model.disable_adapter():
        before = log_softmax(family.answer_logits(model.get_base_model(), batch), dim=-1)
    counted = batch.labels != IGNORED
    own, other = counted & batch.own, counted & ~batch.own
    learned = cross_entropy(logits[own], batch.labels[own], reduction="sum")
    kept = kl_div(
        log_softmax(logits[other], dim=-1), before[other], reduction="sum", log_target=True
    )
    return (learned + kept) / counted.sum()


def train_module(
    name: str,
    family: Family,
    base: Any,
    plan: Plan,
    coder: Tokenizer,
    seed: int,
) -> PeftModel:
    """Train one LoRA on the frozen base; `unload` gives the base back as it was."""
    device = base.device
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        target_modules=list(family.target_modules),
        lora_dropout=0.0,
        bias="none",
        task_type=family.task_type,
    )
    with torch.random.fork_rng(devices=[]):
        # One seed for all: modules of one training script usually share their first A.
        torch.manual_seed(skills.stable_number("module weights", seed) % 2**63)
        model = get_peft_model(base, config).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=plan.module_rate, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimiser, schedule(plan.module_steps, min(10, plan.module_steps))
    )
    generator = Generator(skills.generator("module", name, seed))
    for _ in range(plan.module_steps):
        lines = [generator.for_module(name) for _ in range(plan.module_batch)]
        module_loss(family, model, family.encode(lines, coder, device)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        decay.step()
        optimiser.zero_grad(set_to_none=True)
    return model.eval()


def write_module(model: PeftModel, folder: Path, *, base_model: str, revision: str) -> None:
    model.peft_config["default"].base_model_name_or_path = base_model
    model.peft_config["default"].revision = revision
    model.save_pretrained(str(folder), save_embedding_layers=False)
    # PEFT keeps the names in a set, whose order differs from run to run.
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, saved | {"target_modules": sorted(saved["target_modules"])})


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tasks(path: Path, documents: Sequence[dict[str, object]]) -> None:
    """One task a line."""
    rows = ",\n".join(json.dumps(document, ensure_ascii=False) for document in documents)
    path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def pick_device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_base(out: Path, of: DemoBase, plan: Plan, seed: int, device: torch.device) -> None:
    family = FAMILIES[of.family]
    folder = of.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    coder = tokenizer.build(skills.vocabulary(), ends_texts=family.ends_prompts)
    model = train_base(family, plan, coder, seed, device)
    model.float().cpu().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"tie_word_embeddings": False})
    tokenizer.save(coder, folder, pads_left=not family.ends_prompts)


def make_modules(out: Path, of: DemoBase, plan: Plan, seed: int, device: torch.device) -> None:
    """Train every module on the base model as it was written, read back from its file."""
    family = FAMILIES[of.family]
    coder = Tokenizer.from_file(str(of.folder(out) / "tokenizer.json"))
    base = family.read(of.folder(out))
    torch.nn.Module.to(base, device)
    base.eval()
    revision = library.content_revision(of.folder(out))
    for name in tqdm(plan.modules, desc="modules", unit="module"):
        folder = of.modules(out) / of.repo_name(name)
        model = train_module(name, family, base, plan, coder, seed)
        write_module(model, folder, base_model=of.repo, revision=revision)
        model.unload()
        (folder / "README.md").write_text(cards.module_card(name, of), encoding="utf-8")


def make(out: Path, of: DemoBase, plan: Plan, seed: int, device: torch.device) -> None:
    make_base(out, of, plan, seed, device)
    make_modules(out, of, plan, seed, device)
    for path in (out / of.family).rglob("*.safetensors"):
        path.chmod(0o644)
    (of.folder(out) / "README.md").write_text(cards.base_card(out, of), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rebuild the demo library from a seed.")
    parser.add_argument("--family", choices=[*library.BASES, "all"], default="all")
    parser.add_argument("--out", type=Path, default=library.FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--miniature", action="store_true", help="tiny and untrained, for tests")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    plans = MINIATURE if options.miniature else FULL
    for of in library.chosen(options.family):
        make(options.out, of, plans[of.family], options.seed, pick_device(options.device))
    write_tasks(options.out / "tasks.json", tasks.documents())
    print(f"The demo library is in {options.out}.")


if __name__ == "__main__":
    main()
