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


def test_a_kind_in_an_entry_of_a_list_may_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    network = "method.model.towers.0.interactions.0"
    lines = show(capsys, "train", "ctr", "--preset", "fm", f"--{network}.function.kind", "weighted")
    assert "          kind: weighted  # command line" not in lines  # entries of a list are shown in one piece
    assert any("kind: weighted" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method.model.towers.3.function.kind", "x"), "entry 3 of 1: there is none; entries are counted from 0"),
        (("--method.loss.kind", "pairwise", "--method.loss.alpha", "x"), "method.loss.alpha: expected float, got 'x'"),
        (("--method.loss.kind", "pairwise", "--method.loss.alpha", "2"), "alpha must lie in 0..1, got 2.0"),
        (("--method.loss.kind", "pairwise", "--method.loss.alpha"), "--method.loss.alpha: needs a value"),
    ],
)
def test_options_of_a_named_kind_are_checked(words, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["config", "show", "train", "ctr", "--preset", "fm", *words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_options_of_a_named_kind_show_their_origin(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--method.loss.kind", "pairwise", "--method.loss.alpha=0.25", "--method.loss.tile", "64")
    lines = show(capsys, "train", "ctr", *words)
    assert "    alpha: 0.25  # command line" in lines
    assert "    tile: 64  # command line" in lines
    assert "    pos_weight: 1.0  # default" in lines
