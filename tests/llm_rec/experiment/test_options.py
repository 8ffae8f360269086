"""The options that scripts share."""

from pathlib import Path

from llm_rec.experiment import (
    script_options,
)


class TestScriptOptions:
    def test_tables_share_their_options(self) -> None:
        args = script_options("x", out="out/x", seeds=5).parse_args(["--data", "d", "--quick"])
        assert (args.data, args.out, args.quick, args.seeds) == (Path("d"), Path("out/x"), True, 5)

    def test_a_benchmark_needs_no_seeds(self) -> None:
        assert set(vars(script_options("x", out="o", data=False).parse_args([]))) == {"out", "quick"}
