"""The options that scripts share."""

from pathlib import Path

from llm_rec.experiment import bench_options, script_options


class TestScriptOptions:
    def test_tables_share_their_options(self) -> None:
        args = script_options("x", out="out/x", seeds=5).parse_args(["--data", "d", "--quick"])
        assert (args.data, args.out, args.quick, args.seeds) == (Path("d"), Path("out/x"), True, 5)

    def test_a_benchmark_needs_no_seeds(self) -> None:
        assert set(vars(script_options("x", out="o", data=False).parse_args([]))) == {"out", "quick"}

    def test_benchmarks_without_data_share_threads_and_seed(self) -> None:
        args = bench_options("x", out="o").parse_args(["--threads", "1"])
        assert (args.threads, args.seed, args.quick, args.out) == (1, 0, False, Path("o"))
