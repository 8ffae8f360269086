"""``--part.kind NAME`` chooses a member of a union from the command line, as ``kind`` does in a file."""

import pytest

from llm_rec.cli import main


def show(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(["config", "show", *words])
    return capsys.readouterr().out.splitlines()


def test_a_kind_may_be_chosen_and_its_options_set(capsys: pytest.CaptureFixture[str]) -> None:
    lines = show(capsys, "train", "--material.split.kind", "global-time", "--material.split.test-from", "0.95")
    at = lines.index("    kind: global_time  # command line")
    assert lines[at + 1 : at + 3] == ["    validation_from: 0.8  # default", "    test_from: 0.95  # command line"]


def test_deep_kinds_and_the_form_with_equals(capsys: pytest.CaptureFixture[str]) -> None:
    lines = show(
        capsys, "train", "--method.model.backbone.kind=gru4rec", "--method.loss.kind=gbce", "--method.loss.t=1"
    )
    assert "      kind: gru4rec  # command line" in lines
    assert "    t: 1.0  # command line" in lines


def test_naming_the_kind_that_is_there_keeps_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with_kind = show(capsys, "train", "--method.negatives.kind", "shared_negatives")
    assert "    number: 2048  # default" in with_kind


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--material.split.kind", "globaltime"),
            "material.split.kind: 'globaltime' is not one of 'leave_one_out', 'glo",
        ),
        (("--material.split.kind",), "--material.split.kind: needs a value"),
        (("--material.splt.kind", "x"), "material.splt: unknown key; did you mean 'split'?"),
    ],
)
def test_a_wrong_kind_is_one_line(words, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["config", "show", "train", *words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
