//! `cargo xtask`: everything around brisk that is not the VMM itself: guest kernels and images,
//! the lab (a real KVM in software), benchmarks and the tests. One file a task.

mod build;
mod cache;
mod debian;
mod guest;
mod lab;
mod measure;
mod parallel;
mod paths;
mod setup;
mod space;
mod test;
mod ui;

use anyhow::Result;
use argh::FromArgs;
use std::env;
use std::process::{self, ExitCode};

/// Build, run, measure and test brisk.
#[derive(FromArgs)]
struct Xtask {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs)]
#[argh(subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, once")]
enum Task {
    Setup(setup::Args),
    Kernel(guest::kernel::Args),
    Images(guest::images::Args),
    Image(guest::oci::Args),
    Bundle(build::bundle::Args),
    Place(guest::place::Args),
    Lab(lab::command::Args),
    Boot(lab::boot::Args),
    Run(lab::run::Args),
    Build(build::Args),
    Matrix(build::matrix::Args),
    Size(build::size::Args),
    Docs(build::docs::Args),
    Dist(build::dist::Args),
    Readme(measure::readme::Args),
    Bench(measure::bench::Args),
    Filters(measure::filters::Args),
    Metrics(measure::metrics::Args),
    Trace(measure::trace::Args),
    Test(test::Args),
    Fuzz(test::fuzz::Args),
    Linux(test::linux::Args),
    Calls(test::calls::Args),
    Mutants(test::mutants::Args),
}

fn main() -> ExitCode {
    match run(arguments().task) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The process's arguments. A switch of argh's takes no value, which `--static` may have.
fn arguments() -> Xtask {
    let mut words: Vec<String> = env::args().skip(1).collect();
    if words.first().is_some_and(|task| task == "build") {
        for word in &mut words {
            match word.as_str() {
                "--static=musl" => "--static".clone_into(word),
                "--static=glibc" => "--static-glibc".clone_into(word),
                _ => {}
            }
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Xtask::from_args(&["cargo xtask"], &words).unwrap_or_else(|early| match early.status {
        Ok(()) => {
            println!("{}", early.output);
            process::exit(0)
        }
        Err(()) => {
            eprintln!("{}", early.output);
            process::exit(1)
        }
    })
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Kernel(args) => guest::kernel::run(&args),
        Task::Images(args) => guest::images::run(&args),
        Task::Image(args) => guest::oci::run(&args),
        Task::Bundle(args) => build::bundle::run(&args),
        Task::Place(args) => guest::place::run(&args),
        Task::Lab(args) => lab::command::command(&args),
        Task::Boot(args) => lab::boot::run(&args),
        Task::Run(args) => lab::run::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Matrix(args) => build::matrix::run(&args),
        Task::Size(args) => build::size::run(&args),
        Task::Docs(args) => build::docs::run(&args),
        Task::Dist(args) => build::dist::run(&args),
        Task::Readme(args) => measure::readme::run(&args),
        Task::Bench(args) => measure::bench::run(&args),
        Task::Filters(args) => measure::filters::run(&args),
        Task::Metrics(args) => measure::metrics::run(&args),
        Task::Trace(args) => measure::trace::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => test::fuzz::run(&args),
        Task::Linux(args) => test::linux::run(&args),
        Task::Calls(args) => test::calls::run(&args),
        Task::Mutants(args) => test::mutants::run(&args),
    }
}
