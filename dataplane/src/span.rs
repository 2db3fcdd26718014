//! Memory of tables that may grow: where the pages lie that more room needs.
//!
//! A table that may grow is a vector with address space for more than it has, so that nothing in it ever moves. Pages for
//! the rest are had by the agent before the worker is given the room ([`crate::room`]): the worker itself never waits for one.

/// A stretch of memory: as numbers, since nobody reads or writes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub address: usize,
    /// How long it is.
    pub bytes: usize,
}

impl Span {
    /// The places from `from` to `to` of a vector, as far as it has address space.
    pub(crate) fn of<T>(places: &Vec<T>, from: usize, to: usize) -> Self {
        let to = to.min(places.capacity());
        let from = from.min(to);
        Self {
            address: places.as_ptr().addr() + from * size_of::<T>(),
            bytes: (to - from) * size_of::<T>(),
        }
    }
}

/// Memory behind the limits of tables: nothing is in it, and nobody touches it until the tables are given more room.
#[derive(Debug, Default)]
pub struct Vacated(Vec<Span>);

impl Vacated {
    /// The tables' own word for it: nobody else can make one.
    pub(crate) const fn new(spans: Vec<Span>) -> Self {
        Self(spans)
    }

    /// Where it is.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.0
    }
}

/// An empty vector with address space for `reserve` elements; for `len` where there is no such space to be had.
pub(crate) fn reserved<T>(len: usize, reserve: usize) -> Vec<T> {
    let mut places = Vec::new();
    if places.try_reserve_exact(reserve.max(len)).is_err() {
        places.reserve_exact(len);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_ends_with_the_address_space() {
        let places: Vec<u64> = reserved(2, 10);
        let whole = Span::of(&places, 0, usize::MAX);
        assert_eq!(whole.bytes, 8 * places.capacity());
        let part = Span::of(&places, 2, 5);
        assert_eq!((part.address - whole.address, part.bytes), (16, 24));
        assert_eq!(Span::of(&places, 11, 5).bytes, 0);
    }

    #[test]
    fn without_the_address_space_there_is_room_for_what_is_needed() {
        let places: Vec<u64> = reserved(2, usize::MAX / 16);
        assert!((2..100).contains(&places.capacity()));
    }
}
