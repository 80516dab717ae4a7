#!/usr/bin/env python
"""Django's command line for LoRA Commons."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hub_site.settings")
    from django.core.management import execute_from_command_line

    from hub_site.env import BadSetting

    try:
        execute_from_command_line(sys.argv)
    except BadSetting as error:
        sys.exit(f"Wrong setting: {error}")


if __name__ == "__main__":
    main()
