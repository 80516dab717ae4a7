from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('modules', '0010_hub_homes'),
    ]

    operations = [
        migrations.AddField(
            model_name='basemodel',
            name='files',
            field=models.JSONField(blank=True, default=dict),
        ),
    ]
