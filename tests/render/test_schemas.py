"""The JSON Schemas that ship with the package."""

import json
from typing import get_args

import pytest
from jsonschema import Draft202012Validator, ValidationError

from mpo.records import Report
from mpo.schemas import Name, build, dump, load, path_of


@pytest.mark.parametrize("name", get_args(Name))
def test_the_shipped_schema_is_the_one_of_the_records(name: Name) -> None:
    assert path_of(name).read_text(encoding="utf-8") == dump(name), "run python -m mpo.schemas"
    assert load(name) == build(name)


@pytest.mark.parametrize("name", get_args(Name))
def test_the_schema_is_valid_and_names_no_address(name: Name) -> None:
    schema = load(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].startswith("urn:mpo:")


def test_a_written_report_and_its_plan_are_valid(report: Report) -> None:
    written = json.loads(report.model_dump_json())
    Draft202012Validator(load("report")).validate(written)
    Draft202012Validator(load("plan")).validate(written["plan"])
    assert Report.model_validate(written) == report


def test_a_report_with_a_missing_or_an_unknown_field_is_refused(reports: dict[str, Report]) -> None:
    check = Draft202012Validator(load("report"))
    written = json.loads(reports["good"].model_dump_json())
    with pytest.raises(ValidationError):
        check.validate(written | {"colour": "red"})
    del written["ratio"]
    with pytest.raises(ValidationError):
        check.validate(written)
