"""Tables and benchmarks: grids of cells that survive interruption, tests between models, peers run apart.

A table is a grid of cells (model, setting, seed). Each finished cell is one file, written at once and atomically;
running the grid again does only what is missing or failed. A cell measures `Record`s; `table` condenses them to mean
and standard deviation over seeds, `compare` tests one model against another over the seeds they share. A ledger keeps
finished cells of any number of runs in one file. A benchmark sets one of our figures beside a peer's: `run_peer` builds
the peer's environment once and runs its script there.
"""

from llm_rec.experiment.bench import Measured, in_milliseconds, machine, take_turns, write_bench
from llm_rec.experiment.cells import Cell, CellResult, Record, cell_name, read_cell, write_cell
from llm_rec.experiment.comparison import TEST_COLUMNS, Comparison, compare, comparison_cells
from llm_rec.experiment.grid import run_grid
from llm_rec.experiment.ledger import Ledger
from llm_rec.experiment.options import bench_options, script_options
from llm_rec.experiment.peers import PeerError, default_peer_cache, peer_environment, peer_folder, run_peer
from llm_rec.experiment.results import Row, markdown, markdown_lines, table, write_table

__all__ = [
    "TEST_COLUMNS",
    "Cell",
    "CellResult",
    "Comparison",
    "Ledger",
    "Measured",
    "PeerError",
    "Record",
    "Row",
    "bench_options",
    "cell_name",
    "compare",
    "comparison_cells",
    "default_peer_cache",
    "in_milliseconds",
    "machine",
    "markdown",
    "markdown_lines",
    "peer_environment",
    "peer_folder",
    "read_cell",
    "run_grid",
    "run_peer",
    "script_options",
    "table",
    "take_turns",
    "write_bench",
    "write_cell",
    "write_table",
]
