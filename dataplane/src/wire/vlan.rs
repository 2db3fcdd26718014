//! VLAN tags (IEEE 802.1Q, 802.1ad): zero, one or two per frame. Read by parse, matched with an interface's ids,
//! replaced by the outgoing interface's in `set_l2`.

use super::ethernet::ethertype;

/// Bytes one tag adds to a frame.
pub const TAG_LEN: usize = 4;

/// One tag: protocol identifier and control information (priority 3 bits, drop eligible 1, VLAN id 12).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub tpid: u16,
    /// Priority, drop eligibility, VLAN id.
    pub tci: u16,
}

impl Tag {
    /// VLAN id, 1 to 4094; 0 marks a tag that carries a priority only.
    #[inline]
    #[must_use]
    pub const fn id(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// Whether `ethertype` announces a tag.
#[inline]
#[must_use]
pub const fn is_tpid(ethertype: u16) -> bool {
    ethertype == ethertype::VLAN || ethertype == ethertype::SERVICE_VLAN
}

/// The tags of one frame or interface, outer first; at most two.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VlanTags {
    tags: [Tag; 2],
    count: u8,
}

impl VlanTags {
    /// No tag.
    pub const NONE: Self = Self {
        tags: [Tag { tpid: 0, tci: 0 }; 2],
        count: 0,
    };

    /// Tags as this node sends them: one is a customer tag, two are a service and a customer tag (802.1ad).
    /// None when there are more than two or an id is not within 1 to 4094.
    #[must_use]
    pub fn from_ids(ids: &[u16]) -> Option<Self> {
        let mut tags = Self::NONE;
        for (i, &id) in ids.iter().enumerate() {
            if id == 0 || id > 4094 {
                return None;
            }
            let tpid = if i + 1 < ids.len() {
                ethertype::SERVICE_VLAN
            } else {
                ethertype::VLAN
            };
            if !tags.push(Tag { tpid, tci: id }) {
                return None;
            }
        }
        Some(tags)
    }

    /// Adds an inner tag; false (and unchanged) when there are two.
    #[inline]
    pub fn push(&mut self, tag: Tag) -> bool {
        let Some(place) = self.tags.get_mut(usize::from(self.count)) else {
            return false;
        };
        *place = tag;
        self.count += 1;
        true
    }

    /// The tags, outer first.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Tag] {
        self.tags.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// How many.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// The ids in one number, outer in the high half of two: equal for frames of one interface whatever their TPIDs
    /// (a kernel may turn an outer 0x88a8 into 0x8100) and priorities. 0 without tags.
    #[inline]
    #[must_use]
    pub const fn ids(&self) -> u32 {
        match self.count {
            0 => 0,
            1 => self.tags[0].id() as u32,
            _ => (self.tags[0].id() as u32) << 16 | self.tags[1].id() as u32,
        }
    }

    /// Bytes of an Ethernet header with these tags.
    #[inline]
    #[must_use]
    pub const fn l2_len(&self) -> usize {
        14 + TAG_LEN * self.count as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_become_a_service_and_a_customer_tag() {
        let tags = VlanTags::from_ids(&[100, 200]).unwrap();
        assert_eq!(
            tags.as_slice(),
            [
                Tag {
                    tpid: 0x88a8,
                    tci: 100
                },
                Tag {
                    tpid: 0x8100,
                    tci: 200
                }
            ]
        );
        assert_eq!((tags.ids(), tags.l2_len()), (100 << 16 | 200, 22));
    }

    #[test]
    fn ids_ignore_tpid_and_priority() {
        let mut tags = VlanTags::NONE;
        assert!(tags.push(Tag {
            tpid: 0x88a8,
            tci: 0xe000 | 7
        }));
        assert_eq!(tags.ids(), VlanTags::from_ids(&[7]).unwrap().ids());
    }

    #[test]
    fn reserved_ids_and_third_tags_are_refused() {
        assert_eq!(VlanTags::from_ids(&[0]), None);
        assert_eq!(VlanTags::from_ids(&[4095]), None);
        assert_eq!(VlanTags::from_ids(&[1, 2, 3]), None);
    }
}
