"""One YAML, its overlays, the environment and the command line become one checked value."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ranking.config import RunConfig, json_schema, load
from ranking.errors import InputError
from tests.workspace import content

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def write(tmp_path: Path):
    def written(data: Any, name: str = "run.yaml") -> Path:
        file = tmp_path / name
        file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
        return file

    return written


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    return content(tmp_path)


def test_later_files_overlay_earlier_ones_key_by_key(write, base) -> None:
    over = {"training": {"epochs": 5}, "schema": {"tables": {"tab": {"dim": 9}}}}
    config = load([write(base), write(over, "over.yaml")])
    assert (config.training.epochs, config.training.log_every) == (5, 3)
    assert config.schema.tables["tab"].model_dump(include={"rows", "dim"}) == {"rows": 5, "dim": 9}
    assert config.schema.tables["videos"].rows == 40


def test_regressions_alone_may_rank_checkpoints_by_some_of_them(write, base) -> None:
    tasks = [{"name": "watch", "label": "play_ms / 1000", "loss": "mse"}]
    over = {"schema": {"tasks": tasks}, "evaluation": {"tasks": ["watch"]}}
    assert load([write(base), write(over, "over.yaml")]).evaluation.tasks == ("watch",)
    tasks.append({"name": "click", "label": "is_click"})
    with pytest.raises(InputError, match=r"evaluation\.tasks: 'watch' is a regression task"):
        load([write(base), write(over, "over.yaml")])


def test_a_section_of_another_type_replaces_the_one_below(write, base) -> None:
    over = {"model": {"type": "shared_bottom", "bottom": [4]}}
    model = load([write(base), write(over, "over.yaml")]).model
    assert (model.type, model.bottom, model.tower) == ("shared_bottom", (4,), (64,))
    assert not hasattr(model, "experts")


def test_environment_over_files_and_command_line_over_both(write, base, monkeypatch) -> None:
    monkeypatch.setenv("RANKING_TRAINING__EPOCHS", "7")
    monkeypatch.setenv("RANKING_MODEL__EXPERTS", "6")
    monkeypatch.setenv("RANKING_SEED", "11")
    config = load([write(base)], ["--training.epochs=9", "--model.dropout", "0.1", "--data.order=chronological"])
    assert (config.training.epochs, config.model.experts, config.seed) == (9, 6, 11)
    assert (config.model.dropout, config.model.bottom, config.data.order) == (0.1, (16, 8), "chronological")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("RANKING_TRAINNIG__EPOCHS", "RANKING_TRAINING__EPOCHS"),
        ("RANKING_TRAINING__EPOCSH", "RANKING_TRAINING__EPOCHS"),
        ("RANKING_TRAINING_EPOCHS", "RANKING_TRAINING__EPOCHS"),
        ("RANKING_MODEL__EXPRTS", "RANKING_MODEL__EXPERTS"),
        ("RANKING_SEDE", "RANKING_SEED"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(write, base, monkeypatch, wrong, right) -> None:
    monkeypatch.setenv(wrong, "7")
    with pytest.raises(InputError, match=rf"^{wrong}: unknown environment variable; expected .* such as {right}$"):
        load([write(base)])


def test_names_of_ones_own_and_those_that_kubernetes_sets_are_no_misspellings(write, base, monkeypatch) -> None:
    monkeypatch.setenv("RANKING_GATE__MARGINS__CLICK", "0.1")
    for name in ("RANKING_SERVE_SERVICE_HOST", "RANKING_SERVE_PORT_8080_TCP_ADDR", "RANKING_SERVICE_PORT_HTTP"):
        monkeypatch.setenv(name, "10.0.0.1")
    assert load([write(base)]).gate.margins == {"click": 0.1}


def test_a_slice_of_new_ids_needs_a_feature_of_one_id(write, base) -> None:
    over = {"gate": {"slices": {"new": {"unseen": "user_id"}, "late": {"where": "duration > 3"}}}}
    assert load([write(base), write(over, "over.yaml")]).gate.slices["new"].unseen == "user_id"
    for feature in ("recent", "duration", "nobody"):
        with pytest.raises(
            InputError, match=rf"gate\.slices\.new\.unseen: got '{feature}'; expected one of \['user_id'"
        ):
            load([write(base), write({"gate": {"slices": {"new": {"unseen": feature}}}}, "over.yaml")])


def test_sections_hold_defaults_and_never_change(write, base) -> None:
    config = load([write(base)])
    assert config.checkpoints.keep_last == 2
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_the_resolved_configuration_is_itself_a_configuration(write, base) -> None:
    config = load([write(base)])
    assert load([write(json.loads(config.model_dump_json()), "resolved.yaml")]) == config


def _put(path: str, value: Any):
    def change(base: dict[str, Any]) -> None:
        *parents, key = path.split(".")
        section: Any = base
        for parent in parents:
            section = section[int(parent)] if isinstance(section, list) else section.setdefault(parent, {})
        section[int(key) if isinstance(section, list) else key] = value

    return change


HASH = r"schema.features.video_id.encoding.salt: unknown key; expected one of \['type', 'seed'\]$"
WATCH_GIVES_CLICK = [{"name": "click", "label": "c", "given": "like"}, {"name": "like", "label": "l", "given": "click"}]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.epoch", 3, r"training.epoch: unknown key; did you mean 'epochs'\?$"),
        ("model.expertz", 3, r"model.expertz: unknown key; did you mean 'experts'\?$"),
        ("colour", "red", r"colour: unknown key; expected one of \['name', 'seed', "),
        ("schema.features.1.encoding", {"type": "hash", "salt": 1}, HASH),
        ("schema.features.2.poolng", "sum", r"schema.features.recent.poolng: unknown key; did you mean 'pooling'\?$"),
        ("schema.features.2.pieces", 3, r"schema.features.recent.pieces: unknown key; expected one of \['name', 'col"),
        ("schema.features.4.name", "ärt icle", 'got .ärt icle.; expected a letter, .* column: "ärt icle"`$'),
        ("schema.tables.tab.size", 3, "schema.tables.tab.size: unknown key; expected one of .'rows', 'dim', "),
        ("training.epochs", "many", "training.epochs: got 'many'; expected a valid integer, unable to parse"),
        ("model.experts", 0, "model.experts: got 0; expected a number greater than or equal to 1"),
        (
            "model.bottom",
            [1 << 63, 64],
            "model.bottom.0: got 9223372036854775808; expected a number less than or equal",
        ),
        ("model.type", "transformer", "model.type: got 'transformer'; expected one of .*'mmoe'"),
        ("device", "tpu", "device: got 'tpu'; expected 'cpu' or 'cuda'$"),
        ("data.train", [], r"data.train: got \[\]; expected: .*at least 1 item"),
        ("schema.tasks.0.label", "a +", "schema.tasks.click.label: expression 'a [+]'"),
        ("schema.tasks.1.given", "view", "schema: task like: given: unknown task 'view'; expected one of"),
        ("schema.tasks", WATCH_GIVES_CLICK, "schema: task click: given: cycle click -> like -> click"),
        ("schema.tasks.1.given", 5, "schema.tasks.like.given: got 5"),
        ("evaluation.tasks", ["view"], "evaluation.tasks: unknown task 'view'"),
        ("fusion.powers", {"view": 1}, "fusion.powers: unknown task 'view'"),
        ("optimizer.sparse", {"type": "adam"}, "optimizer.sparse.type: got 'adam' on cpu; expected rowwise_adagrad"),
        ("schema.tables.tab.optimizer", "adam", "schema.tables.tab.optimizer: got 'adam' on cpu"),
        ("optimizer.dense.betas", [0.9, 1], "optimizer.dense.betas.1: got 1; expected a number less than 1"),
        ("data.lanes", 3, "data.lanes: got 3; expected a divisor of data.batch_size 128"),
        ("model.top_k", 9, "model: top_k: got 9 with 3 experts"),
        (
            "training.collective_timeout",
            600,
            "training: collective_timeout: got 600; expected more than hang_timeout, 600, after which the rank",
        ),
    ],
)
def test_one_line_names_the_path_the_value_and_what_was_expected(write, base, path, value, message) -> None:
    _put(path, value)(base)
    file = write(base)
    with pytest.raises(InputError, match=message) as caught:
        load([file])
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        ("data.batch_size", "batchsize", "data.batchsize: unknown key; did you mean 'batch_size'? (and 1 more)"),
        ("schema.tasks.0.label", "labl", "schema.tasks.click.labl: unknown key; did you mean 'label'? (and 1 more)"),
        ("schema.features.2.name", "nam", "schema.features.2.nam: unknown key; did you mean 'name'? (and 1 more)"),
        ("schema.features.2.kind", "kin", "schema.features.recent.kind: missing; expected a value"),
    ],
)
def test_a_misspelt_key_is_told_before_the_one_that_is_missing(write, base, path, wrong, message) -> None:
    section, (*parents, key) = base, path.split(".")
    for parent in parents:
        section = section[int(parent)] if isinstance(section, list) else section[parent]
    section[wrong] = section.pop(key)
    with pytest.raises(InputError, match=f": {re.escape(message)}$"):
        load([write(base)])


def test_a_missing_section_is_named(write, base) -> None:
    del base["data"]
    with pytest.raises(InputError, match="data: missing; expected a value"):
        load([write(base)])


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words"])
def test_a_file_without_sections_is_refused(write, text) -> None:
    with pytest.raises(InputError, match=r"run.yaml: got .* at the top; expected a mapping"):
        load([write(text)])


def test_a_key_that_stands_twice_is_refused(write, base) -> None:
    good = yaml.safe_dump(base, sort_keys=False)
    file = write(f"{good}training:\n  epochs: 3\n")
    last = good.count("\n") + 1
    first = good.splitlines().index("training:") + 1
    with pytest.raises(InputError) as caught:
        load([file])
    assert str(caught.value) == (
        f"{file}: line {last}: training: got the key again; expected it once, as in line {first}"
    )
    with pytest.raises(InputError, match=r"run\.yaml: line 3: epochs: got the key again; expected it once, as in"):
        load([write("training: {log_every: 2,\n\n  epochs: 2, epochs: 2}\n")])


def test_a_key_may_overlay_the_one_it_merges(write, base) -> None:
    tables = "tables: {videos: &videos {rows: 40, dim: 2}, tab: {<<: *videos, rows: 5}}\n"
    file = write(f"schema:\n  {tables}", "over.yaml")
    assert load([write(base), file]).schema.tables["tab"].model_dump(include={"rows", "dim"}) == {"rows": 5, "dim": 2}


def test_a_file_that_is_not_there_or_not_yaml_is_named(write, tmp_path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load([tmp_path / "nowhere.yaml"])
    with pytest.raises(InputError, match=r"run.yaml: not readable as YAML: .*line 2"):
        load([write("a: [1,\nb: }")])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--training.epocs=3", r"^command line: --training.epocs: unknown key; did you mean --training.epochs\?$"),
        ("--model.exprts=3", r"--model.exprts: unknown key; did you mean --model.experts\?$"),
        ("--training.epochs=many", "training.epochs: got 'many'"),
        ("--checkpoints.keep_last=one", "checkpoints.keep_last: got 'one'"),
        ("--gate.margins.click=0.1", r"""gate.margins.click.*, or --section.key='{"name": value}' where names are"""),
        ("--xyz=1", "--xyz: unknown key; expected --section.key=value or an option of --help$"),
        ("stray", "stray; expected --section.key=value$"),
    ],
)
def test_a_wrong_override_is_named_like_a_wrong_key(write, base, override, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load([write(base)], [override])
    assert "\n" not in str(caught.value)


def test_a_wrong_variable_is_named_by_its_path(write, base, monkeypatch) -> None:
    monkeypatch.setenv("RANKING_CHECKPOINTS__KEEP_LAST", "one")
    with pytest.raises(InputError, match=r"checkpoints\.keep_last: got 'one'"):
        load([write(base)])


def test_json_schema_accepts_what_the_code_accepts(write, base) -> None:
    schema = json.loads(json_schema())
    jsonschema.validate(base, schema)
    _put("training.epoch", 3)(base)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(base, schema)


def test_json_schema_describes_every_section() -> None:
    assert set(json.loads(json_schema())["properties"]) == set(RunConfig.model_fields)


BASES = {
    "models": ["quickstart.yaml"],
    "tune": ["quickstart.yaml"],
    "census/education.yaml": ["census/income.yaml"],
    "kuairand/retrain.yaml": ["quickstart.yaml"],
    "kuairand/conversions.yaml": ["quickstart.yaml"],
    "models/esmm.yaml": ["quickstart.yaml", "kuairand/conversions.yaml"],
}  # of files that are overlays
STUDIES = {"synthetic/study.yaml", "synthetic/fast.yaml", "synthetic/architectures.yaml", "kuairand/study.yaml"}
STUDIES |= {
    "census/study.yaml",
    "census/fast.yaml",
    "census/fp32.yaml",
    "kuairand/warm_start.yaml",
    "synthetic/architectures_fast.yaml",
    "kuairand/fast.yaml",
}


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_shipped_configuration_is_valid(file: Path) -> None:
    name = str(file.relative_to(CONFIGS))
    if name in STUDIES:
        assert isinstance(yaml.safe_load(file.read_text()), dict)
        return
    bases = BASES.get(name) or BASES.get(name.split("/")[0], [])
    assert load([*(CONFIGS / base for base in bases), file]).schema.tasks
