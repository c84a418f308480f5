"""`darec bench`: its subcommands. Each is one file."""

from pipelines.cli import (
    bench_batch_growth,
    bench_cold_start,
    bench_dislikes,
    bench_fold_in,
    bench_lists,
    bench_nights,
    bench_plot,
    bench_refit,
    bench_run,
    bench_scale,
    bench_serve,
    bench_slices,
    bench_speed,
    bench_table,
)
from pipelines.cli.options import Commands

app = Commands(help="Run grids of training runs, make tables and plots, and measure speed.", no_args_is_help=True)
for command in (
    bench_run.run,
    bench_table.table,
    bench_slices.slices,
    bench_plot.plot,
    bench_cold_start.cold_start,
    bench_nights.nights,
    bench_refit.refit,
    bench_fold_in.fold_in,
    bench_dislikes.dislikes,
    bench_speed.speed,
    bench_serve.serve,
    bench_lists.lists,
    bench_scale.scale,
    bench_batch_growth.batch_growth,
):
    app.command()(command)
