//! What many measurements of one thing come to: median and quartiles, and a cost from which interrupted batches
//! have been taken out.

/// Median with quartiles of several runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) q1: f64,
    pub(crate) q3: f64,
    pub(crate) runs: usize,
}

impl Spread {
    /// Of at least one value; of none it is all zero with no runs.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: quantile(&sorted, 0.5),
            q1: quantile(&sorted, 0.25),
            q3: quantile(&sorted, 0.75),
            runs: sorted.len(),
        }
    }
}

/// Linear interpolation between the two nearest values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = share * as_f64(last as u64);
    let low = (0..=last).rev().find(|&i| as_f64(i as u64) <= place).unwrap_or(0);
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (place - as_f64(low as u64))
}

/// One measurement.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) clocks: u64,
    /// The thread lost its core meanwhile.
    pub(crate) disturbed: bool,
}

/// Clocks of many equal batches. On a shared machine some batches are interrupted by other work for milliseconds, of
/// which the kernel or, when the hypervisor did it, only the duration tells. They say nothing about the code: they are
/// left out, and counted.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    clocks: Vec<u64>,
    /// Used only when there are no others.
    disturbed: Vec<u64>,
    /// Batches left out so far.
    pub(crate) interrupted: u64,
    /// Batches in all.
    pub(crate) total: u64,
}

/// A batch of more than this many medians was interrupted.
const INTERRUPTED: u64 = 4;

impl Batches {
    /// Of nothing yet.
    pub(crate) const EMPTY: Self = Self {
        clocks: Vec::new(),
        disturbed: Vec::new(),
        interrupted: 0,
        total: 0,
    };

    /// Adds a batch.
    pub(crate) fn add(&mut self, timed: Timed) {
        if timed.disturbed {
            self.disturbed.push(timed.clocks);
        } else {
            self.clocks.push(timed.clocks);
        }
    }

    /// Mean clocks per batch of those not interrupted since the last call.
    pub(crate) fn mean(&mut self) -> f64 {
        let all = self.clocks.len() + self.disturbed.len();
        if self.clocks.is_empty() {
            self.clocks.append(&mut self.disturbed);
        }
        self.clocks.sort_unstable();
        let median = self.clocks.get(self.clocks.len() / 2).copied().unwrap_or(0);
        let good = self.clocks.partition_point(|&c| c <= INTERRUPTED * median);
        let sum: u64 = self.clocks[..good].iter().sum();
        self.total += all as u64;
        self.interrupted += (all - good) as u64;
        self.clocks.clear();
        self.disturbed.clear();
        as_f64(sum) / as_f64(good.max(1) as u64)
    }
}

/// Of two measurements, slice by slice.
pub(crate) fn ratio(many: &[f64], few: &[f64]) -> Vec<f64> {
    many.iter().zip(few).map(|(many, few)| many / few).collect()
}

/// Counts and clocks are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts and clocks are far below 2^52")]
pub(crate) const fn as_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_the_values() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.q1, spread.median, spread.q3), (1.75, 2.5, 3.25));
        assert_eq!(Spread::of(&[7.0]).q3, 7.0);
        assert_eq!(Spread::of(&[]).runs, 0);
    }

    #[test]
    fn interrupted_batches_are_left_out_and_counted() {
        let mut batches = Batches::default();
        for clocks in [10, 12, 11, 9_000, 11] {
            let disturbed = false;
            batches.add(Timed { clocks, disturbed });
        }
        batches.add(Timed {
            clocks: 30,
            disturbed: true,
        });
        assert_eq!(batches.mean(), 11.0);
        assert_eq!((batches.interrupted, batches.total), (2, 6));
        batches.add(Timed {
            clocks: 40,
            disturbed: true,
        });
        assert_eq!(batches.mean(), 40.0);
    }
}
