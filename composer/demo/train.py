"""Make the whole demo library from one seed: tokenizer, base model, modules, tasks, cards.

    python -m composer.demo.train [--out DIR] [--seed 0] [--miniature] [--device auto]

The same seed, machine, torch and number of threads give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from tqdm import tqdm
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from composer.demo import cards, library, skills, tasks, tokenizer
from composer.demo.skills import Generator, Line

IGNORED = -100
PAD_ID, END_ID = 0, 1


@dataclass(frozen=True)
class Plan:
    """How large and how long.  The shipped library is FULL; a test rebuilds MINIATURE."""

    d_model: int = 128
    d_ff: int = 512
    heads: int = 4
    encoder_layers: int = 3
    decoder_layers: int = 2
    base_steps: int = 5000
    base_batch: int = 160
    base_rate: float = 3e-3
    warm_up: int = 300
    second_steps: int = 1200
    second_rate: float = 1e-3
    module_steps: int = 150
    module_batch: int = 32
    module_rate: float = 3e-3
    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = skills.MODULES


FULL = Plan()
MINIATURE = Plan(
    d_model=32,
    d_ff=64,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    base_steps=6,
    base_batch=16,
    warm_up=2,
    second_steps=4,
    module_steps=2,
    module_batch=4,
    modules=("antonym", "young", "capital"),
)


@dataclass(frozen=True)
class Batch:
    """Padded lines.  input_ids, attention_mask (B, S); labels (B, T); own (B, T) bool."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    own: Tensor


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def encode(lines: Sequence[Line], coder: Tokenizer, device: torch.device) -> Batch:
    inputs = [item.ids for item in coder.encode_batch_fast([line.input for line in lines])]
    targets = [item.ids for item in coder.encode_batch_fast([line.target for line in lines])]
    # Every answer is one token, and the end of the line belongs to the module as well.
    own = [[*line.own, True] if line.own else [True] * len(row)
           for line, row in zip(lines, targets, strict=True)]  # fmt: skip
    return Batch(
        padded(inputs, PAD_ID).to(device),
        padded([[1] * len(row) for row in inputs], 0).to(device),
        padded(targets, IGNORED).to(device),
        padded(own, False).to(device),
    )


def new_base_model(plan: Plan, coder: Tokenizer, seed: int) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=coder.get_vocab_size(),
        d_model=plan.d_model,
        d_kv=plan.d_model // plan.heads,
        d_ff=plan.d_ff,
        num_layers=plan.encoder_layers,
        num_decoder_layers=plan.decoder_layers,
        num_heads=plan.heads,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
    )
    config.decoder_start_token_id = PAD_ID
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(skills.stable_number("base weights", seed) % 2**63)
        model = T5ForConditionalGeneration(config)
        # With the default weights training stays at the mean answer for thousands of steps.
        with torch.no_grad():
            model.shared.weight.mul_(0.3)
        # transformers always builds T5 with one table for both ends; ours are two, as in T5 1.1.
        head = torch.randn_like(model.shared.weight) * 0.05
    model.lm_head.weight = torch.nn.Parameter(head)
    model.config.scale_decoder_outputs = False
    model.generation_config = GenerationConfig(
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
        decoder_start_token_id=PAD_ID,
        max_new_tokens=24,
    )
    return model


def rate_groups(model: torch.nn.Module, rate: float) -> list[dict[str, Any]]:
    """T5 has no 1/sqrt(d) in its attention, so queries learn at a fifth of the rate."""
    queries = [value for name, value in model.named_parameters() if name.endswith(".q.weight")]
    others = [value for name, value in model.named_parameters() if not name.endswith(".q.weight")]
    return [{"params": others, "lr": rate}, {"params": queries, "lr": rate * 0.2}]


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
    model: T5ForConditionalGeneration,
    coder: Tokenizer,
    generator: Generator,
    *,
    name: str,
    steps: int,
    batch_size: int,
    rate: float,
    warm_up: int,
) -> None:
    optimiser = torch.optim.AdamW(rate_groups(model, rate), betas=(0.9, 0.98), weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule(steps, warm_up))
    bar = tqdm(range(steps), desc=name, unit="step", mininterval=1)
    for step in bar:
        lines = pretraining_lines(generator, step, batch_size)
        batch = encode(lines, coder, model.device)
        loss = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def train_base(
    plan: Plan, coder: Tokenizer, seed: int, device: torch.device
) -> T5ForConditionalGeneration:
    """First the facts, in eight wrappers; then all wrappers, so that a new one does not matter."""
    model = new_base_model(plan, coder, seed)
    torch.nn.Module.to(model, device)
    model.train()
    train_stage(
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


def module_loss(model: PeftModel, batch: Batch) -> Tensor:
    """Learn the module's own answers, and leave all others as the base model has them.

    mean over answers of  -log p(answer)          where the answer is the module's own
                          KL(base || with module)  elsewhere
    """
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": batch.labels,
    }
    logits = model(**inputs).logits
    with torch.no_grad(), model.disable_adapter():
        before = log_softmax(model(**inputs).logits, dim=-1)
    counted = batch.labels != IGNORED
    own, other = counted & batch.own, counted & ~batch.own
    learned = cross_entropy(logits[own], batch.labels[own], reduction="sum")
    kept = kl_div(
        log_softmax(logits[other], dim=-1), before[other], reduction="sum", log_target=True
    )
    return (learned + kept) / counted.sum()


def train_module(
    name: str,
    base: T5ForConditionalGeneration,
    plan: Plan,
    coder: Tokenizer,
    seed: int,
    folder: Path,
    revision: str,
) -> None:
    """Train one LoRA on the frozen base and write it.  The base comes back as it was."""
    device = base.device
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        target_modules=["q", "v"],
        lora_dropout=0.0,
        bias="none",
        task_type="SEQ_2_SEQ_LM",
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
        module_loss(model, encode(lines, coder, device)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        decay.step()
        optimiser.zero_grad(set_to_none=True)
    model.peft_config["default"].base_model_name_or_path = library.BASE_REPO
    model.peft_config["default"].revision = revision
    model.eval().save_pretrained(str(folder), save_embedding_layers=False)
    model.unload()
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


def make_base(out: Path, plan: Plan, seed: int, device: torch.device) -> None:
    folder = out / "base"
    folder.mkdir(parents=True, exist_ok=True)
    coder = tokenizer.build(skills.vocabulary())
    model = train_base(plan, coder, seed, device)
    model.float().cpu().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"tie_word_embeddings": False})
    tokenizer.save(coder, folder)


def make_modules(out: Path, plan: Plan, seed: int, device: torch.device) -> None:
    """Train every module on the base model as it was written, read back from its file."""
    coder = Tokenizer.from_file(str(out / "base" / "tokenizer.json"))
    base = T5ForConditionalGeneration.from_pretrained(out / "base", dtype=torch.float32)
    torch.nn.Module.to(base, device)
    base.eval()
    revision = library.content_revision(out / "base")
    for name in tqdm(plan.modules, desc="modules", unit="module"):
        folder = out / "modules" / library.repo_name(name)
        train_module(name, base, plan, coder, seed, folder, revision)
        (folder / "README.md").write_text(cards.module_card(name), encoding="utf-8")


def make(out: Path, plan: Plan, seed: int, device: torch.device) -> None:
    make_base(out, plan, seed, device)
    make_modules(out, plan, seed, device)
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)
    write_tasks(out / "tasks.json", tasks.documents())
    (out / "base" / "README.md").write_text(cards.base_card(out), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rebuild the demo library from a seed.")
    parser.add_argument("--out", type=Path, default=library.FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--miniature", action="store_true", help="tiny and untrained, for tests")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    plan = MINIATURE if options.miniature else FULL
    make(options.out, plan, options.seed, pick_device(options.device))
    print(f"The demo library is in {options.out}.")


if __name__ == "__main__":
    main()
