from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Throttle",
            fields=[
                ("key", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("free_at", models.DateTimeField()),
            ],
        ),
        # Counts are no loss: without the log behind them a request does not wait for the disk. Free
        # space in each page lets a row change where it lies.
        migrations.RunSQL(
            [
                "ALTER TABLE hub_site_throttle SET UNLOGGED",
                "ALTER TABLE hub_site_throttle SET (fillfactor = 70)",
            ],
            migrations.RunSQL.noop,
        ),
    ]
