//! `cargo xtask`: everything around brisk that is not the VMM itself: guest kernels and images,
//! the lab (a real KVM in software), benchmarks and the tests. One file a task.

mod bench;
mod boot;
mod build;
mod cache;
mod cpio;
mod debian;
mod dist;
mod docs;
mod fuzz;
mod guest;
mod images;
mod kernel;
mod lab;
mod matrix;
mod paths;
mod place;
mod readme;
mod scenario;
mod setup;
mod size;
mod stock;
mod test;
mod trace;
mod ui;

use anyhow::Result;
use argh::FromArgs;
use std::process::ExitCode;

/// Build, run, measure and test brisk.
#[derive(FromArgs)]
struct Xtask {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Task {
    Setup(setup::Args),
    Kernel(kernel::Args),
    Images(images::Args),
    Place(place::Args),
    Lab(lab::Args),
    Boot(boot::Args),
    Build(build::Args),
    Matrix(matrix::Args),
    Size(size::Args),
    Docs(docs::Args),
    Dist(dist::Args),
    Readme(readme::Args),
    Bench(bench::Args),
    Trace(trace::Args),
    Test(test::Args),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    match run(argh::from_env::<Xtask>().task) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Kernel(args) => kernel::run(&args),
        Task::Images(args) => images::run(&args),
        Task::Place(args) => place::run(&args),
        Task::Lab(args) => lab::command(&args),
        Task::Boot(args) => boot::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Matrix(args) => matrix::run(&args),
        Task::Size(args) => size::run(&args),
        Task::Docs(args) => docs::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Readme(args) => readme::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Trace(args) => trace::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
    }
}
