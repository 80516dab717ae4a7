"""Ranks and alphas that differ between layers are composed exactly now: modules that were kept
back for nothing else are free."""

import re

from django.db import migrations

PLAIN_NAME = re.compile(r"\^?[\w.-]+\$?")
REASONS = (
    "its rank differs between layers (rank_pattern)",
    "its alpha differs between layers (alpha_pattern)",
)
TEXTS = [
    f"It cannot be composed exactly: {reason}. Train it as a plain LoRA."
    for reason in (*REASONS, "; ".join(REASONS))
]


def free(apps, schema_editor):
    """Alphas named by regular expressions are still in the way."""
    LoraModule = apps.get_model("modules", "LoraModule")
    for module in LoraModule.objects.filter(not_composable__in=TEXTS).iterator():
        alphas = module.variant.get("alpha_pattern", {})
        if isinstance(alphas, dict) and all(PLAIN_NAME.fullmatch(name) for name in alphas):
            LoraModule.objects.filter(pk=module.pk).update(not_composable="")


class Migration(migrations.Migration):
    dependencies = [("modules", "0011_workers")]
    operations = [migrations.RunPython(free, migrations.RunPython.noop)]
