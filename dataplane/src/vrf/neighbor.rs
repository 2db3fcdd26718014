//! MAC addresses of next hops: an open-addressing table, filled once with a snapshot, at most half full.

use crate::config::{InterfaceId, Neighbor};
use crate::flow::Addr;
use crate::shard::mix64;

/// Resolved neighbours of all interfaces.
#[derive(Debug, Default)]
pub struct Neighbors {
    cells: Box<[Option<Cell>]>,
    mask: usize,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    address: Addr,
    interface: InterfaceId,
    mac: [u8; 6],
}

impl Neighbors {
    /// Of two entries for one address the later one counts.
    #[must_use]
    pub fn new(neighbors: &[Neighbor]) -> Self {
        let capacity = (neighbors.len() * 2).next_power_of_two();
        let mut table = Self {
            cells: vec![None; capacity].into_boxed_slice(),
            mask: capacity - 1,
        };
        for n in neighbors {
            table.insert(Cell {
                address: n.address.into(),
                interface: n.interface,
                mac: n.mac,
            });
        }
        table
    }

    /// MAC address of `address` on the link of `interface`.
    #[must_use]
    #[inline]
    pub fn get(&self, interface: InterfaceId, address: &Addr) -> Option<[u8; 6]> {
        if self.cells.is_empty() {
            return None;
        }
        let mut at = self.home(interface, address);
        while let Some(cell) = &self.cells[at] {
            if cell.address == *address && cell.interface == interface {
                return Some(cell.mac);
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    fn insert(&mut self, new: Cell) {
        let mut at = self.home(new.interface, &new.address);
        while let Some(cell) = self.cells[at] {
            if cell.address == new.address && cell.interface == new.interface {
                break;
            }
            at = (at + 1) & self.mask;
        }
        self.cells[at] = Some(new);
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
    fn home(&self, interface: InterfaceId, address: &Addr) -> usize {
        let (high, low) = address.halves();
        mix64(mix64(high ^ u64::from(interface.0)).wrapping_add(low)) as usize & self.mask
    }
}
