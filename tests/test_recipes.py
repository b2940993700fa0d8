"""Recipes: the bundled ones, a user's own, and what is said about a broken one."""

import pickle
from pathlib import Path

import pytest

from engine.analysis import recipes
from engine.errors import RecipeError

JOKES = """\
name = "jokes"
prompt = \"\"\"
Find the jokes.
merge = "not a key, but part of the prompt"
\"\"\"
merge = "dedupe"
key = "punchline"

[fields.punchline]
type = "string"
description = "What makes it funny."

[fields.laughs]
type = "integer"
minimum = 0

[fields.tags]
type = "array"
items = { type = "string" }
"""


@pytest.fixture
def jokes(tmp_path: Path) -> Path:
    path = tmp_path / "jokes.toml"
    path.write_text(JOKES, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", recipes.BUNDLED)
def test_bundled_recipe_loads(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.min_words <= recipe.max_words
    assert recipe.needs_endpoint == (name != "expressions")


def test_expressions_asks_for_what_the_phrasebook_knows() -> None:
    recipe = recipes.load("expressions")
    assert list(recipe.fields) == ["phrase", "meaning", "example", "level"]
    assert (recipe.merge, recipe.key) == ("dedupe", "phrase")


def test_own_recipe_keeps_the_order_of_its_fields_and_gets_the_defaults(jokes: Path) -> None:
    recipe = recipes.load(str(jokes))
    assert list(recipe.fields) == ["punchline", "laughs", "tags"]
    assert recipe.required == ("punchline", "laughs", "tags")
    assert (recipe.min_words, recipe.max_words, recipe.max_tokens) == (150, 300, 1024)
    assert recipe.needs_endpoint


def test_recipe_survives_the_way_to_another_process(jokes: Path) -> None:
    recipe = recipes.load(str(jokes))
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Find the jokes", "Find all jokes"),
        ('merge = "dedupe"', 'merge = "join_adjacent"'),
        ("What makes", "Whatever makes"),
        ("minimum = 0", "minimum = 1"),
        ('key = "punchline"', 'key = "punchline"\nmax_tokens = 99'),
        ('key = "punchline"', 'key = "punchline"\nrequired = ["punchline"]'),
    ],
)
def test_whatever_changes_in_a_recipe_changes_its_digest(old: str, new: str) -> None:
    before = recipes.parse(JOKES.encode(), "jokes")
    after = recipes.parse(JOKES.replace(old, new).encode(), "jokes")
    assert before.digest != after.digest
    assert before != after


def test_order_of_fields_changes_the_digest_and_comments_do_not() -> None:
    recipe = recipes.parse(JOKES.encode(), "jokes")
    head, punchline, laughs, tags = JOKES.split("[fields.")
    swapped = f"{head}[fields.{laughs}[fields.{punchline}[fields.{tags}"
    assert recipes.parse(swapped.encode(), "jokes").digest != recipe.digest
    assert recipes.parse(b"# mine\n" + JOKES.encode(), "other").digest == recipe.digest


BROKEN = [
    ('merge = "dedupe"', "merge = dedupe", 6, "Invalid value"),
    ('merge = "dedupe"', 'merge = "union"', 6, "one of concat, dedupe, join_adjacent"),
    ('key = "punchline"', 'key = "laughs"', 7, "name of a string field"),
    ('key = "punchline"', 'color = "red"', 7, "'color' is not known"),
    ('key = "punchline"\n', "", 6, "needs key"),
    ('merge = "dedupe"', 'merge = "concat"', 7, "dedupe and join_adjacent only"),
    ('key = "punchline"', 'key = "punchline"\nrequired = ["laughs"]', 8, "must be required"),
    ('key = "punchline"', 'key = "punchline"\nrequired = ["weight"]', 8, "list of fields"),
    ('key = "punchline"', 'key = "punchline"\nmin_words = 400', 8, "must not exceed"),
    ('key = "punchline"', 'key = "punchline"\nmax_tokens = 0', 8, "from 1 to"),
    ('key = "punchline"', 'key = "punchline"\nmax_tokens = true', 8, "whole number"),
    ('key = "punchline"', 'key = "punchline"\ntimes = "mine"', 8, "one of quote, cues"),
    ("[fields.laughs]", "[fields.quote]", 13, "'quote' is taken"),
    ("[fields.laughs]", '[fields."how many"]', 13, "letters, digits and _ only"),
    ('type = "integer"', 'type = "object"', 14, "type must be one of"),
    ('type = "integer"', "", 13, "type must be one of"),
    ("minimum = 0", 'pattern = "(a+)+"', 15, "'pattern' is not known"),
    ("minimum = 0", 'minimum = "none"', 15, "must be a number"),
    ("minimum = 0", 'enum = ["a"]', 15, "values of type integer"),
    ('items = { type = "string" }', "", 17, "must be a table with type"),
    ('{ type = "string" }', '{ type = "array" }', 19, "type must be one of"),
    ('name = "jokes"', 'name = "a/b"', 1, "letters, digits"),
    ('name = "jokes"', "", 1, "name must be given"),
]


@pytest.mark.parametrize(("old", "new", "line", "reason"), BROKEN)
def test_broken_recipe_is_refused_with_line_and_reason(
    jokes: Path, old: str, new: str, line: int, reason: str
) -> None:
    assert old in JOKES
    jokes.write_text(JOKES.replace(old, new), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        recipes.load(str(jokes))
    assert f"{jokes}, line {line}: " in str(caught.value)
    assert reason in str(caught.value)


def test_unclosed_string_at_the_end_names_a_line(jokes: Path) -> None:
    jokes.write_text('name = "jokes"\nprompt = """\nFind', encoding="utf-8")
    with pytest.raises(RecipeError, match="line 3: "):
        recipes.load(str(jokes))


def test_recipe_that_is_not_utf8_is_refused_with_the_line(jokes: Path) -> None:
    jokes.write_bytes(b'name = "x"\nprompt = "caf\xe9"\n')
    with pytest.raises(RecipeError, match="line 2: this is not UTF-8"):
        recipes.load(str(jokes))


def test_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="expressions, summary, chapters"):
        recipes.load("expresions")
