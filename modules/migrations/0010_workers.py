from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('modules', '0007_upload_tickets'),
    ]

    operations = [
        migrations.AddField(
            model_name='basemodel',
            name='files',
            field=models.JSONField(blank=True, default=dict),
        ),
    ]
