//! Whether the neighbours are known that the packets of a VRF's flows would need: asked by the role machine of a node that has
//! been told them, answered by each worker when it has gone through all of its conntracks ([`crate::stage`], foresee).
//!
//! A question has a number. A round of a worker answers it if it has begun after the question was seen; each later round
//! answers it again, until the question is taken back.

use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::flow::VrfId;

/// Questions per VRF, answers per worker and VRF.
#[derive(Debug)]
pub struct Outlook {
    /// Number of the question that is open; 0 for none.
    asked: Vec<AtomicU32>,
    /// Number of the question answered, and next hops missing, in one word.
    answers: Vec<AtomicU64>,
}

impl Outlook {
    /// Nothing is asked.
    #[must_use]
    pub fn new(workers: usize, vrfs: usize) -> Self {
        Self {
            asked: (0..vrfs).map(|_| AtomicU32::new(0)).collect(),
            answers: (0..workers * vrfs).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Asks; 0 takes the question back. To be stored behind the role, or a worker would answer for another one.
    pub fn ask(&self, vrf: VrfId, number: u32) {
        if let Some(cell) = self.asked.get(vrf.index()) {
            cell.store(number, Ordering::Release);
        }
    }

    /// Number of the question that is open; 0 for none.
    pub(crate) fn asked(&self, vrf: VrfId) -> u32 {
        let asked = self.asked.get(vrf.index());
        asked.map_or(0, |number| number.load(Ordering::Acquire))
    }

    /// A worker's answer.
    pub(crate) fn answer(&self, worker: u16, vrf: VrfId, number: u32, missing: u32) {
        let at = usize::from(worker) * self.asked.len() + vrf.index();
        if let Some(cell) = self.answers.get(at) {
            cell.store((u64::from(number) << 32) | u64::from(missing), Ordering::Release);
        }
    }

    /// How many next hops are missing, by the last answers to question `number`; none while a worker has not answered it.
    /// One that two workers miss counts twice.
    #[must_use]
    pub fn missing(&self, vrf: VrfId, number: u32) -> Option<u32> {
        let vrfs = self.asked.len();
        let of_vrf = self.answers.iter().skip(vrf.index()).step_by(vrfs.max(1));
        of_vrf
            .map(|cell| cell.load(Ordering::Acquire))
            .try_fold(0, |sum: u32, answer| {
                let (to, missing) = ((answer >> 32) as u32, (answer & 0xffff_ffff) as u32);
                (to == number).then(|| sum.saturating_add(missing))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_when_every_worker_has_answered_that_very_one() {
        let outlook = Outlook::new(2, 3);
        let (vrf, other) = (VrfId(1), VrfId(2));
        outlook.ask(vrf, 7);
        assert_eq!((outlook.asked(vrf), outlook.asked(other)), (7, 0));
        outlook.answer(0, vrf, 7, 2);
        assert_eq!(outlook.missing(vrf, 7), None, "the other worker has not");
        outlook.answer(1, other, 7, 0);
        outlook.answer(1, vrf, 6, 0);
        assert_eq!(outlook.missing(vrf, 7), None, "an answer to another question");
        outlook.answer(1, vrf, 7, 3);
        assert_eq!(outlook.missing(vrf, 7), Some(5));
        outlook.answer(0, vrf, 7, 0);
        outlook.answer(1, vrf, 7, 0);
        assert_eq!(outlook.missing(vrf, 7), Some(0));
    }
}
