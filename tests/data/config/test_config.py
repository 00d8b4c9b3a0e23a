import logging
import tomllib

import pytest

from radpref.data.config import study_config
from radpref.data.config.data import DataConfig
from radpref.data.config.downstream import TaskConfig
from radpref.data.config.generation import GeneratorConfig
from radpref.data.config.study_config import StudyConfig, load_config, newest_format, parse_config
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.study.study import Study
from radpref.data.study.templates import named_template, read_template, template_names
from tests.support import ROOT
from tests.support.errors import refuses


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_are_the_study_design():
    config = parse_config({})
    assert config.sets.mix == (75, 15, 10)
    assert config.downstream.fractions == (0.01, 0.1, 1.0)
    assert config.data.columns.labels == ()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"dataa": {}}, ("unknown key 'dataa'", "did you mean 'data'")),
        ({"data": {"imagesize": 64}}, ("data.imagesize", "did you mean 'image_size'")),
        ({"data": {"columns": {"imag": "x"}}}, ("data.columns.imag", "did you mean 'image'")),
        ({"align": {"betta": 1}}, ("align.betta", "did you mean 'beta'")),
        (
            {"downstream": {"tasks": [{"nam": "x", "kind": "binary"}]}},
            ("downstream.tasks.0.nam", "did you mean 'name'"),
        ),
        ({"simulate": {"raters": [{"name": "a", "network": "b", "noize": 1}]}}, ("noize", "did you mean 'noise'")),
        ({"data": {"zzzzz": 1}}, ("data.zzzzz", "valid here:", "n_train")),
    ],
)
def test_unknown_key_names_the_nearest(content, names):
    with pytest.raises(InvalidInput) as error:
        parse_config(content)
    assert all(name in one_line(error) for name in names)


@pytest.mark.parametrize(
    "content",
    [
        {"data": {"image_size": 8}},
        {"data": {"image_size": "big"}},
        {"sets": {"mix": [50, 25, 10]}},
        {"sets": {"mix": [-5, 100, 5]}},
        {"align": {"beta": 0}},
        {"name": "../x"},
        {"data": {"columns": {"uncertain": "2"}}},
        {"data": 3},
    ],
)
def test_bad_value_is_one_line(content):
    with pytest.raises(InvalidInput) as error:
        parse_config(content)
    assert one_line(error).startswith("study.toml: ")


def test_a_key_that_stands_where_its_name_should_is_not_repeated():
    with pytest.raises(InvalidInput) as error:
        parse_config({"captions": {"key_env": "sk-123-secret"}})
    assert "captions.key_env" in one_line(error)
    assert "secret" not in one_line(error)


def test_config_is_frozen():
    with refuses(ValueError, "frozen_instance"):
        parse_config({}).data.image_size = 3  # type: ignore[misc]


@pytest.mark.parametrize("content", ["name = ", "[data\n", "name = 'a'\nname = 'b'\n"])
def test_broken_toml_is_one_line(tmp_path, content):
    (tmp_path / "study.toml").write_text(content)
    with refuses(InvalidInput, "study.toml") as error:
        load_config(tmp_path / "study.toml")
    one_line(error)


def test_binary_toml_and_folder_and_missing(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with refuses(InvalidInput, "a.toml"):
        load_config(tmp_path / "a.toml")
    (tmp_path / "b.toml").mkdir()
    with refuses(InvalidInput, "b.toml"):
        load_config(tmp_path / "b.toml")
    with refuses(NotFound, "study new", "study.toml"):
        load_config(tmp_path / "study.toml")


def test_default_template_states_the_defaults(tmp_path):
    (tmp_path / "study.toml").write_text(read_template("default"))
    assert load_config(tmp_path / "study.toml") == StudyConfig()


def test_templates_parse_and_take_a_name(tmp_path):
    assert template_names() == ["default", "demo", "demo-cxr128", "table"]
    for name in template_names():
        (tmp_path / "study.toml").write_text(named_template(name, "Größe 7/x"))
        assert load_config(tmp_path / "study.toml").name == "Gr-e 7-x"
    with refuses(InvalidInput, "nope", "default", "demo", "demo-cxr128", "table"):
        read_template("nope")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("uncertain", "mgcq", ("data.uncertain", "mgcq", "blank", "zeros", "ones", "mgca")),
        ("uncertain", {"edema": 2}, ("edema", 2, "blank", 0, 1)),
        ("blank", "1", ("data.blank", 1)),
        ("rle", "row-major", ("data.rle", "row-major", "relative", "absolute")),
        ("rle", {"chest_tubes": "both"}, ("chest_tubes", "both")),
        ("split_fractions", [0.7, 0.1, 0.1], ("data.split_fractions", 0.7, 0.1)),
        ("reader", "chexpret", ("data.reader", "chexpret")),
    ],
)
def test_policies_of_data_sets_are_checked_in_one_line(key, value, named):
    with refuses(InvalidInput, *named):
        parse_config({"data": {key: value}})


# ---- formats of study.toml


def test_templates_and_examples_are_of_the_newest_format():
    examples = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "examples").glob("*.toml"))]
    assert len(examples) > 5
    for text in [*map(read_template, template_names()), *examples]:
        assert tomllib.loads(text)["format"] == newest_format()


def test_an_older_format_opens_with_one_line_on_what_changed_since(tmp_path, monkeypatch, caplog):
    opened = Study.create(tmp_path / "study", 'name = "x"\n')
    opened.db.close()
    assert not caplog.records  # nothing changed meaning up to now
    changes = {2: "align.beta counts each image once", 3: "sets.n counts conditions"}
    monkeypatch.setattr(study_config, "CHANGES", changes)
    for toml, told in (("", (2, 3)), ("format = 2\n", (3,)), ("format = 3\n", ())):
        (opened.root / "study.toml").write_text(toml)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            Study(opened.root).db.close()
        assert len(caplog.records) == bool(told)
        for number, text in changes.items():
            assert (text in caplog.text) == (number in told)
        assert caplog.text.count("\n") == bool(told)


def test_a_newer_format_is_refused_before_its_keys_are(monkeypatch):
    with pytest.raises(InvalidInput) as error:
        parse_config({"format": newest_format() + 1, "key_to_come": 1})
    assert f"format = {newest_format() + 1}" in one_line(error)
    assert "key_to_come" not in one_line(error)
    for bad in (0, "two"):
        with pytest.raises(InvalidInput) as error:
            parse_config({"format": bad})
        assert "format" in one_line(error)


# ---- dumps of older versions


def test_a_dump_is_completed_with_defaults_at_every_depth():
    whole = DataConfig().model_dump(mode="json")
    assert DataConfig.completed({}) == whole
    assert DataConfig.completed({"columns": {}, "phantom": {"normal_fraction": 0.15}}) == whole
    assert DataConfig.completed({"phantom": {"normal_fraction": 0.2}})["phantom"]["normal_fraction"] == 0.2
    task = {"name": "x", "kind": "binary"}
    full = TaskConfig(**task).model_dump(mode="json")
    content = parse_config({"downstream": {"tasks": [task]}}).downstream
    assert type(content).completed({"tasks": [task]}) == content.model_dump(mode="json")
    assert type(content).completed({"tasks": [task]})["tasks"] == [full]
    assert TaskConfig.completed({"kind": "binary"}).keys() == full.keys() - {"name"}  # no default, nothing made up


def test_a_removed_key_counts_only_where_it_was_not_at_its_default():
    class Later(GeneratorConfig):
        REMOVED = {"old_key": 3}  # noqa: RUF012

    assert Later.completed({"old_key": 3}) == Later.completed({})
    assert Later.completed({"old_key": 4}) == {**Later.completed({}), "old_key": 4}
    assert GeneratorConfig.completed({"unheard_of": 1})["unheard_of"] == 1


def test_what_changes_no_result_is_left_out():
    assert GeneratorConfig.completed({"compile": True, "compile_mode": "default"}) == GeneratorConfig.completed({})
