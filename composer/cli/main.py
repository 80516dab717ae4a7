"""LoRA Commons without a server: mix LoRA modules for a task from a few examples.

    python -m composer.cli inspect  ADAPTER …              what an adapter is; can it be mixed?
    python -m composer.cli rank     --base … --modules … --examples …       each module alone
    python -m composer.cli compose  --base … --modules … --examples … --out …    search and save
    python -m composer.cli evaluate --base … --adapter … --held-out …       how good it is
    python -m composer.cli apply    RECIPE --base … --modules … --out …     build its adapter
    python -m composer.cli verify   RECIPE --base … --modules … --examples …     search again

Base models and modules are folders, or repos of the Hugging Face Hub: owner/name,
owner/name@revision, and 'owner/*' for all of an author's modules of this base model. HF_ENDPOINT
leads to another Hub, such as a LoRA Commons site. Every command has --help with an example, and
--json for programs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from composer.cli import apply, compose, evaluate, inspecting, rank, verify
from composer.engine.errors import CommonsError

COMMANDS = (inspecting, rank, compose, evaluate, apply, verify)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when it worked, 1 for an error of the user's, 2 for arguments that make no sense,
    3 for a recipe that does not match."""
    parser = argparse.ArgumentParser(
        prog="python -m composer.cli",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        ended = int(options.run(options))
        sys.stdout.flush()
        return ended
    except BrokenPipeError:  # whoever reads has seen enough, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CommonsError as error:
        print(f"Error: {error.user_message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
