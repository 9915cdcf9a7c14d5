//! Counts tests from the closing lines of test runners.

use std::ops::AddAssign;

/// How many tests did what.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were not run.
    pub skipped: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Count {
    /// The sum over all closing lines in `output`.
    pub fn of(output: &str) -> Self {
        let mut sum = Self::default();
        output.lines().filter_map(line).for_each(|count| sum += count);
        sum
    }
}

/// The count in a closing line: of libtest, `test result: ok. 3 passed; 0 failed; 1 ignored; ...`,
/// or nextest, `Summary [   0.1s] 9 tests run: 8 passed (1 slow), 1 failed, 2 skipped`.
fn line(line: &str) -> Option<Count> {
    // At the start of the line only: nextest shows the output of tests that failed, indented.
    let (_, counts) = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?,
        None => line.trim_start().strip_prefix("Summary [")?.split_once(" run: ")?,
    };
    let mut count = Count::default();
    for part in counts.split([';', ',']) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match what {
            "passed" => count.passed += number,
            // nextest: a test that cannot be started, that took too long
            "failed" | "exec" | "timed" => count.failed += number,
            "ignored" | "skipped" => count.skipped += number,
            _ => {}
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_libtest() {
        let text = "running 3 tests\ntest a ... ok\n\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.02s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n";
        assert_eq!(Count::of(text), Count { passed: 4, failed: 2, skipped: 1 });
    }

    #[test]
    fn reads_nextest() {
        let text = "        PASS [   0.006s] xtask cache::tests::x\n    \
            test result: FAILED. 0 passed; 1 failed; 0 ignored\n------------\n     \
            Summary [   0.042s] 10 tests run: 5 passed (1 slow, 1 flaky), 2 failed, 2 timed out, 1 exec failed, 7 skipped\n";
        assert_eq!(Count::of(text), Count { passed: 5, failed: 5, skipped: 7 });
        let one = "     Summary [   0.042s] 1 test run: 1 passed, 0 skipped";
        assert_eq!(Count::of(one), Count { passed: 1, failed: 0, skipped: 0 });
    }

    #[test]
    fn other_lines_count_nothing() {
        for text in ["", "3 passed; 1 failed", "test result: what", "Summary [x"] {
            assert_eq!(Count::of(text), Count::default(), "{text}");
        }
    }
}
