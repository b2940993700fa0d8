"""Replies: what is used of them, what is dropped, and what is an error."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis.recipes import Recipe, load
from engine.analysis.recipes import parse as parse_recipe
from engine.analysis.replies import MAX_ITEMS, parse, schema
from engine.errors import CallError, EmptyReplyError, NotJsonError, SchemaError

GOOD = {"cues": [1], "quote": "so it is", "title": "A", "summary": "B"}
CHAPTERS = load("chapters")


def recipe(fields: str, extra: str = "") -> Recipe:
    return parse_recipe(f'name = "x"\nprompt = "y"\n{extra}\n{fields}'.encode(), "x.toml")


def reply(*items: Any) -> str:
    return json.dumps({"items": items})


def test_items_that_fit_come_back_with_cues_and_quote() -> None:
    parsed = parse(CHAPTERS, reply(GOOD))
    assert parsed.items == [GOOD]
    assert parsed.dropped == 0


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{reply(GOOD)}\n```",
        f"```\n{reply(GOOD)}\n```  ",
        f"Here you are:\n{reply(GOOD)}\nHope this helps!",
        f"<think>the set {{a, b}} or [1]?</think>{reply(GOOD)}",
        f"I found [] at first, but:\n```json\n{reply(GOOD)}\n```",
        json.dumps([GOOD]),
        f"```json\n{json.dumps([GOOD])}\n```",
        json.dumps(GOOD),
        f"\ufeff  {reply(GOOD)}".replace("\ufeff", ""),
    ],
)
def test_answer_is_found_whatever_stands_around_it(text: str) -> None:
    assert parse(CHAPTERS, text).items == [GOOD]


@pytest.mark.parametrize(
    "text", ['{"items": []}', "[]", "```json\n[]\n```", '{"items": [], "a": 1}']
)
def test_nothing_found_is_an_answer(text: str) -> None:
    assert parse(CHAPTERS, text).items == []


def test_good_items_of_a_bad_list_are_kept_and_the_rest_counted() -> None:
    bad: list[Any] = [
        {**GOOD, "title": ""},
        {**GOOD, "title": 3},
        {**GOOD, "cues": ["one"]},
        {**GOOD, "quote": "x" * 5_000},
        {key: value for key, value in GOOD.items() if key != "quote"},
        "text",
        None,
    ]
    parsed = parse(CHAPTERS, reply(*bad, GOOD))
    assert parsed.items == [GOOD]
    assert parsed.dropped == len(bad)


def test_list_without_a_good_item_is_an_error_that_says_why() -> None:
    with pytest.raises(SchemaError, match=r"None of the 2 items .* title: Field required"):
        parse(CHAPTERS, reply({"cues": [1], "quote": "a", "summary": "b"}, {}))


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_text_is_an_empty_reply(text: str) -> None:
    with pytest.raises(EmptyReplyError):
        parse(CHAPTERS, text)


@pytest.mark.parametrize(
    "text",
    [
        "<html><body>502 Bad Gateway</body></html>",
        "I cannot find any.",
        "{'items': []}",
        reply(GOOD, GOOD)[:-3],  # cut off: the first item can be read, but it is not the answer
        json.dumps([GOOD, GOOD])[:-3],
        '{"items": [NaN]}',
        '{"items": [' + "9" * 5_000 + "]}",
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_what_is_not_json_is_an_error(text: str) -> None:
    with pytest.raises(NotJsonError):
        parse(CHAPTERS, text)


@pytest.mark.parametrize(
    "text", ["null", "3", '"items"', "{}", '{"items": null}', '{"items": {}}', '{"items": "x"}']
)
def test_json_of_another_shape_is_an_error(text: str) -> None:
    with pytest.raises(SchemaError):
        parse(CHAPTERS, text)


def test_a_model_that_repeats_itself_is_cut_off() -> None:
    parsed = parse(CHAPTERS, reply(*[GOOD] * (MAX_ITEMS + 7)))
    assert (len(parsed.items), parsed.dropped) == (MAX_ITEMS, 7)


def test_a_lone_cue_number_and_numbers_as_text_are_understood() -> None:
    parsed = parse(CHAPTERS, reply({**GOOD, "cues": 4}, {**GOOD, "cues": ["5", 6.0]}))
    assert [item["cues"] for item in parsed.items] == [[4], [5, 6]]


def test_fields_are_checked_as_the_recipe_says() -> None:
    asked = recipe(
        """
        [fields.n]
        type = "integer"
        minimum = 1
        maximum = 9
        [fields.x]
        type = "number"
        [fields.level]
        type = "string"
        enum = ["low", "high"]
        [fields.tags]
        type = "array"
        items = { type = "string", maxLength = 3 }
        maxItems = 2
        [fields.schema]
        type = "boolean"
        """
    )
    good = {
        "n": 1, "x": 0.5, "level": "low", "tags": ["a"], "schema": True, "cues": [0], "quote": "q",
    }  # fmt: skip
    wrong = [("n", 0), ("n", 1.5), ("x", "nan"), ("level", "mid"), ("tags", ["long"]),
             ("tags", ["a", "b", "c"]), ("tags", "a"), ("schema", "perhaps")]  # fmt: skip
    parsed = parse(asked, reply(good, *({**good, name: value} for name, value in wrong)))
    assert parsed.items == [good]
    assert parsed.dropped == len(wrong)


def test_field_that_is_not_required_may_be_missing_or_null() -> None:
    asked = recipe(
        '[fields.a]\ntype = "string"\n[fields.b]\ntype = "string"\nenum = ["x"]',
        'required = ["a"]',
    )
    item = {"a": "1", "cues": [0], "quote": "q"}
    assert parse(asked, reply(item, {**item, "b": None})).items == [item, item]
    sent = schema(asked)["properties"]["items"]["items"]
    assert sent["properties"]["b"] == {"type": ["string", "null"], "enum": ["x", None]}
    assert sent["required"] == ["cues", "quote", "a", "b"]


def test_schema_sent_has_no_keyword_that_strict_servers_refuse() -> None:
    for name in ("expressions", "summary", "chapters"):
        text = json.dumps(schema(load(name)))
        assert "Length" not in text
        assert "minimum" not in text


@given(st.text() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["items", "cues", "quote",
                                                                     "title", "summary"]), inner),
).map(json.dumps))  # fmt: skip
def test_any_text_gives_items_or_an_error_of_the_family(text: str) -> None:
    try:
        parsed = parse(CHAPTERS, text)
    except CallError:
        return
    json.dumps(parsed.items, allow_nan=False)


def test_work_on_a_hostile_reply_is_bounded() -> None:
    began = time.process_time()
    for text in (
        "{" * 1_000_000,
        '{"a' * 300_000,
        "```" * 300_000,
        "[[{" * 300_000,
        "{ " * 500_000,
    ):
        with pytest.raises(NotJsonError):
            parse(CHAPTERS, text)
    assert time.process_time() - began < 20  # it takes 0.05 s; quadratic work would take hours
