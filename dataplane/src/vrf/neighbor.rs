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

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn neighbor(interface: u16, host: u16, mac: u8) -> Neighbor {
        let [high, low] = host.to_be_bytes();
        Neighbor {
            interface: InterfaceId(interface),
            address: IpAddr::from([10, 0, high, low]),
            mac: [2, 0, 0, 0, mac, low],
        }
    }

    #[test]
    fn every_neighbour_is_found_on_its_own_link_only() {
        let list: Vec<Neighbor> = (0..5_000)
            .flat_map(|h| [neighbor(0, h, 1), neighbor(1, h, 2)])
            .collect();
        let table = Neighbors::new(&list);
        for n in &list {
            assert_eq!(table.get(n.interface, &n.address.into()), Some(n.mac));
            assert_eq!(table.get(InterfaceId(2), &n.address.into()), None);
        }
        assert_eq!(
            table.get(InterfaceId(0), &Ipv4Addr::new(10, 1, 0, 0).into()),
            None
        );
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one_and_an_empty_table_answers() {
        let table = Neighbors::new(&[neighbor(0, 1, 1), neighbor(0, 1, 9)]);
        assert_eq!(
            table.get(InterfaceId(0), &Addr::v4([10, 0, 0, 1])),
            Some([2, 0, 0, 0, 9, 1])
        );
        for empty in [Neighbors::new(&[]), Neighbors::default()] {
            assert_eq!(empty.get(InterfaceId(0), &Addr::v4([10, 0, 0, 1])), None);
        }
    }
}
