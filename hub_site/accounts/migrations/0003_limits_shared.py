from django.core.management import call_command
from django.db import migrations


def make_table(apps, schema_editor):
    call_command("createcachetable", database=schema_editor.connection.alias, verbosity=0)


class Migration(migrations.Migration):
    """The table of the cache, by which allauth counts its limits."""

    dependencies = [("accounts", "0002_notices_and_bans")]
    operations = [migrations.RunPython(make_table, migrations.RunPython.noop)]
