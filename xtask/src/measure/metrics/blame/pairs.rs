//! brisk of commits with kernels of commits, built and measured. What was once is not again: it is kept
//! by what went into it.

use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

use super::{Pair, Question};
use crate::cache::Inputs;
use crate::guest::kernel;
use crate::lab::On;
use crate::measure::bench::cases::{Case, Vmm};
use crate::measure::metrics::collect;
use crate::measure::metrics::history::Metric;
use crate::measure::metrics::revision::{Built, sum};

impl Question {
    /// The metric of each pair, or why it does not build. What was measured once is not again.
    pub(super) fn measure(&self, pairs: &[Pair]) -> Result<Vec<Result<Metric, String>>> {
        self.all(pairs, true)
    }

    /// The same, measured now.
    pub(super) fn fresh(&self, pairs: &[Pair]) -> Result<Vec<Result<Metric, String>>> {
        self.all(pairs, false)
    }

    fn all(&self, pairs: &[Pair], kept: bool) -> Result<Vec<Result<Metric, String>>> {
        let (scenario, step) = self.metric.find()?;
        let mut results: Vec<Option<Result<Metric, String>>> = Vec::new();
        let (mut cases, mut files) = (Vec::new(), Vec::new());
        for pair in pairs {
            let (brisk, kernel) = match self.build(pair)? {
                Ok(found) => found,
                Err(why) => {
                    results.push(Some(Err(why)));
                    continue;
                }
            };
            let mut inputs =
                Inputs::new().with("metric", self.metric.name).with("brisk", sum(&brisk)?);
            if let Some(kernel) = &kernel {
                inputs = inputs.with("kernel", sum(kernel)?);
            }
            let own = collect::config_of(self.metric)?;
            inputs = inputs.with(
                "own",
                kernel::ensure(&self.cache, own)?.vmlinux.to_string_lossy().as_bytes(),
            );
            let file = self.cache.root().join("metrics/measured").join(inputs.key());
            match fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
                Some(metric) if kept => results.push(Some(Ok(metric))),
                _ => {
                    results.push(None);
                    cases.push(Case { vmm: Vmm::Brisk(brisk), scenario, step, kernel });
                    files.push(file);
                }
            }
        }
        let found = match cases.is_empty() {
            true => Vec::new(),
            false => collect::of_cases(&vec![self.metric; cases.len()], &cases, On::Lab)?,
        };
        let mut found = found.into_iter().zip(files);
        let filled = results.into_iter().map(|result| match result {
            Some(result) => Ok(result),
            None => {
                let (metric, file) = found.next().context("not measured")?;
                let metric = match metric {
                    Ok(metric) => metric,
                    // A commit at which the guest does not boot says nothing of how long that takes.
                    Err(why) => return Ok(Err(format!("does not boot: {why:#}"))),
                };
                fs::create_dir_all(file.parent().context("a file in no directory")?)?;
                fs::write(file, serde_json::to_vec(&metric)?)?;
                Ok(Ok(metric))
            }
        });
        filled.collect()
    }

    fn build(&self, pair: &Pair) -> Result<Result<(PathBuf, Option<PathBuf>), String>> {
        let (scenario, _) = self.metric.find()?;
        let brisk = match self.brisk.checkout.brisk(&self.cache, &pair.brisk, scenario.features)? {
            Built::File(path) => path,
            Built::Fails(why) => return Ok(Err(why)),
        };
        let Some(commit) = &pair.kernel else { return Ok(Ok((brisk, None))) };
        let kernels = self.kernels.as_ref().context("no --kernel-git")?;
        Ok(match kernels.range.checkout.kernel(&self.cache, commit, &kernels.config)? {
            Built::File(path) => Ok((brisk, Some(path))),
            Built::Fails(why) => Err(why),
        })
    }
}
