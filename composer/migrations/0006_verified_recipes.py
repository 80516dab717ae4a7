import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

# A recipe is named by the hash of its content, so neither ever changes; nor does what its publisher
# said of it while it is public. An account or a search that goes away may still leave its row.
KEEP_RECIPES = """
CREATE FUNCTION composer_recipe_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.digest IS DISTINCT FROM OLD.digest OR NEW.document IS DISTINCT FROM OLD.document THEN
        RAISE EXCEPTION 'a recipe never changes: publish another version of it'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF OLD.published_at IS NOT NULL AND NEW.published_at IS NOT NULL AND (
        NEW.published_at <> OLD.published_at OR NEW.title <> OLD.title
        OR NEW.description <> OLD.description OR NEW.shows_examples <> OLD.shows_examples
        OR NEW.published_by_id <> OLD.published_by_id
        OR NEW.published_search_id <> OLD.published_search_id
    ) THEN
        RAISE EXCEPTION 'a published recipe never changes: publish another version of it'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER composer_recipe_stays BEFORE UPDATE ON composer_recipe
    FOR EACH ROW EXECUTE FUNCTION composer_recipe_stays();

CREATE FUNCTION composer_ingredient_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.recipe_id, NEW.position, NEW.name, NEW.revision, NEW.weights_sha256, NEW.weight)
        IS DISTINCT FROM
        (OLD.recipe_id, OLD.position, OLD.name, OLD.revision, OLD.weights_sha256, OLD.weight)
    THEN
        RAISE EXCEPTION 'the ingredients of a recipe never change'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER composer_ingredient_stays BEFORE UPDATE ON composer_ingredient
    FOR EACH ROW EXECUTE FUNCTION composer_ingredient_stays();
"""
LET_GO = """
DROP TRIGGER composer_recipe_stays ON composer_recipe;
DROP FUNCTION composer_recipe_stays();
DROP TRIGGER composer_ingredient_stays ON composer_ingredient;
DROP FUNCTION composer_ingredient_stays();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('composer', '0005_held_out_truth'),
        ('jobs', '0003_what_workers_have'),
        ('modules', '0012_patterns_compose'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='recipe',
            name='likes',
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='recipe',
            name='parent',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='versions', to='composer.recipe'),
        ),
        migrations.AlterField(
            model_name='recipe',
            name='base_model',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='recipes', to='modules.basemodel'),
        ),
        migrations.CreateModel(
            name='RecipeImport',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('title', models.CharField(max_length=120)),
                ('evidence', models.JSONField(default=dict)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('recipe', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='imports', to='composer.recipe')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='RecipeLike',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('recipe', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='liked', to='composer.recipe')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='Verification',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(choices=[('evaluation', 'evaluation'), ('search', 'search')], max_length=10)),
                ('outcome', models.CharField(blank=True, choices=[('matched', 'matched'), ('within tolerance', 'within tolerance'), ('differs', 'differs')], max_length=20)),
                ('differs', models.JSONField(blank=True, default=list)),
                ('checked', models.JSONField(blank=True, default=list)),
                ('unchecked', models.JSONField(blank=True, default=list)),
                ('environment', models.JSONField(blank=True, default=dict)),
                ('records', models.JSONField(blank=True, default=list)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('imported', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='verifications', to='composer.recipeimport')),
                ('job', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='verification', to='jobs.job')),
                ('recipe', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='verifications', to='composer.recipe')),
                ('search', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='verifications', to='composer.search')),
                ('user', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['-created_at', '-id'],
            },
        ),
        migrations.AddConstraint(
            model_name='recipeimport',
            constraint=models.UniqueConstraint(models.F('recipe'), models.F('user'), name='recipe_imported_once'),
        ),
        migrations.AddConstraint(
            model_name='recipelike',
            constraint=models.UniqueConstraint(models.F('user'), models.F('recipe'), name='recipe_like_once'),
        ),
        migrations.RunSQL(KEEP_RECIPES, LET_GO),
    ]
