//! The load generator on its own: `cargo run --release -p mynah-bench --example bench -- run --help`.

use clap::Parser;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    bench: mynah_bench::BenchArgs,
}

fn main() -> anyhow::Result<()> {
    mynah_bench::run(&Cli::parse().bench)
}
