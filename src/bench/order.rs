//! In what order packets are of which flow. None is the order in which the flows were made: visited in that one, a table lies
//! in memory as it is read. None repeats within a run, or the processor would know what comes.

use dataplane::flow::FlowKey;

use super::random::Random;
use super::stats::as_f64;

/// How the next packet's flow is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Drawn, each as often as any other.
    Random,
    /// Drawn, the n-th most frequent one n times more seldom than the first (Zipf's law with exponent 1).
    Zipf,
    /// Subscriber after subscriber, port after port.
    Sequential,
}

impl Way {
    /// What the ids of its rows end with, before the unit.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Random => "",
            Self::Zipf => "_zipf",
            Self::Sequential => "_seq",
        }
    }

    /// As curves are called.
    pub(crate) const fn curve(self) -> &'static str {
        match self {
            Self::Random => "",
            Self::Zipf => ", Zipf",
            Self::Sequential => ", sequential",
        }
    }

    /// As notes say it.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Random => "drawn at random",
            Self::Zipf => "drawn by Zipf's law, exponent 1",
            Self::Sequential => "subscriber after subscriber, port after port, made in another order",
        }
    }
}

/// Draws flows.
#[derive(Debug)]
pub(crate) struct Order {
    way: Way,
    /// Flows by rank or by place; where each is as good as another, those that are meant, or none for all.
    flows: Vec<u32>,
    count: usize,
    random: Random,
    /// The next ones from inside and from outside, half a round apart: else the second would find what the first has read.
    next: [usize; 2],
}

impl Order {
    /// Of `count` flows with these tuples as they come from inside.
    pub(crate) fn new(way: Way, count: usize, key: impl Fn(usize) -> FlowKey, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut flows: Vec<u32> = if way == Way::Random {
            vec![]
        } else {
            (0..).take(count).collect()
        };
        match way {
            Way::Random => {}
            Way::Zipf => shuffle(&mut flows, &mut random),
            Way::Sequential => flows.sort_by_cached_key(|&n| {
                let key = key(n as usize);
                (key.src, key.src_port)
            }),
        }
        Self {
            way,
            flows,
            count,
            random,
            next: [0, count / 2],
        }
    }

    /// Some flows, at random.
    pub(crate) const fn among(flows: Vec<u32>, seed: u64) -> Self {
        Self {
            way: Way::Random,
            count: flows.len(),
            flows,
            random: Random::new(seed),
            next: [0; 2],
        }
    }

    /// The next `count` flows, of packets from inside (0) or outside (1).
    pub(crate) fn draw(&mut self, count: usize, side: usize) -> Vec<usize> {
        (0..count).map(|_| self.one(side)).collect()
    }

    fn one(&mut self, side: usize) -> usize {
        match self.way {
            Way::Random if self.flows.is_empty() => self.random.below(self.count),
            Way::Random => self.flows[self.random.below(self.count)] as usize,
            Way::Zipf => self.flows[rank(&mut self.random, self.count)] as usize,
            Way::Sequential => {
                let at = self.next[side];
                self.next[side] = (at + 1) % self.count;
                self.flows[at] as usize
            }
        }
    }
}

/// A rank below `count`, rank r with a weight of ln((r + 2) / (r + 1)), which is nearly 1 / (r + 1).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a power of at least 1 and at most count + 1"
)]
fn rank(random: &mut Random, count: usize) -> usize {
    let share = as_f64(random.next() >> 12) / as_f64(1 << 52);
    let place = as_f64(count as u64 + 1).powf(share) as usize;
    place.clamp(1, count) - 1
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(list: &mut [T], random: &mut Random) {
    for last in (1..list.len()).rev() {
        list.swap(last, random.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::flows::{Profile, draw};
    use super::*;

    #[test]
    fn a_sequence_visits_each_flow_once_a_round_and_no_subscriber_twice() {
        let keys = draw(Profile::Udp, 500, 10, 1);
        let mut order = Order::new(Way::Sequential, 500, |n| keys[n], 2);
        let mut round = order.draw(500, 0);
        let mut subscribers: Vec<_> = round.iter().map(|&n| keys[n].src).collect();
        subscribers.dedup();
        assert_eq!(subscribers.len(), 10);
        assert_ne!(round, (0..500).collect::<Vec<_>>());
        assert_eq!(order.draw(1, 0), round[..1]);
        assert_eq!(order.draw(1, 1), round[250..251]);
        round.sort_unstable();
        assert_eq!(round, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn by_zipfs_law_half_of_all_packets_are_of_few_flows() {
        let mut order = Order::new(Way::Zipf, 10_000, |_| FlowKey::default(), 2);
        let mut count = vec![0_usize; 10_000];
        for n in order.draw(100_000, 0) {
            count[n] += 1;
        }
        count.sort_unstable_by(|a, b| b.cmp(a));
        // H(100) / H(10,000) is 0.53.
        let of_hundred: usize = count[..100].iter().sum();
        assert!((45_000..60_000).contains(&of_hundred), "{of_hundred}");
        assert!(count[0] < 12_000 && count[1] < count[0], "{:?}", &count[..2]);
    }
}
