//! How a port spreads packets over its receive queues: what its card is asked to hash, and what it then says of its key and
//! its table. Read once, when the port has started. A card that says nothing is no fault: packets are handed over then.

use std::fmt;

use dataplane::rss::{Rss, Spread, SpreadError};
use thiserror::Error;

use crate::dpdk::error::Errno;
use crate::dpdk::sys;

/// Entries of a group of the table.
const GROUP: usize = 64;
/// Bytes of a key when the driver doesn't say.
const KEY_DEFAULT: u8 = 40;

/// What came of a port's RSS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRss {
    /// What the configuration asks for.
    pub asked: Rss,
    /// What the card was told to hash.
    pub hashed: Rss,
    /// The card's key and table, or why they aren't known.
    pub spread: Result<Spread, Unknown>,
    /// It was to have another key, and keeps its own.
    pub keeps_key: bool,
}

/// Why it isn't known which queue a packet comes in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unknown {
    /// There is no choice.
    #[error("there is one receive queue")]
    OneQueue,
    /// The configuration says so.
    #[error("switched off")]
    Off,
    /// Nothing that the device offers.
    #[error("the driver offers no RSS")]
    NotOffered,
    /// The driver doesn't answer.
    #[error("the driver doesn't tell its {what}: {cause}")]
    Untold {
        /// What was asked for.
        what: &'static str,
        /// DPDK's answer.
        cause: Errno,
    },
    /// The driver has no table of queues.
    #[error("the driver has no table of queues")]
    NoTable,
    /// The driver answers something else than it was told.
    #[error("the driver doesn't confirm what it was told to hash")]
    Unconfirmed,
    /// Hashes can't be reckoned.
    #[error(transparent)]
    Unusable(#[from] SpreadError),
}

impl fmt::Display for PortRss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.spread, self.hashed) {
            (Err(why), _) => write!(f, "{why}")?,
            (Ok(_), Rss::Source) => write!(f, "a source's packets come in by one queue")?,
            (Ok(_), _) => write!(f, "public ports are chosen that bring replies to their owner")?,
        }
        // One queue, or none that is chosen by hash, leaves nothing to complain about.
        if self.hashed != self.asked && self.hashed != Rss::Off {
            write!(f, "; the driver can't hash the {} alone", self.asked.name())?;
        }
        if self.keeps_key {
            f.write_str("; the card keeps a key of its own")?;
        }
        Ok(())
    }
}

/// What a device is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    asked: Rss,
    hashed: Rss,
    /// DPDK's flags for it; 0 when RSS stays off.
    pub(super) flags: u64,
    /// Why it stays off.
    off: Unknown,
    /// The key it is to have, in the length that it wants; empty for its own.
    key: Vec<u8>,
}

impl Told {
    /// What can be done of what is asked for on a device that offers these flags.
    pub(super) fn choose(asked: Rss, rx_queues: u16, offered: u64) -> Self {
        let basic = offered & sys::TWINPATH_RSS_WANTED;
        let off = |off| Self {
            asked,
            hashed: Rss::Off,
            flags: 0,
            off,
            key: Vec::new(),
        };
        if rx_queues <= 1 {
            return off(Unknown::OneQueue);
        }
        if basic == 0 {
            return off(Unknown::NotOffered);
        }
        let alone = match asked {
            Rss::Off => return off(Unknown::Off),
            Rss::Flow => 0,
            Rss::Source => sys::TWINPATH_RSS_SOURCE,
            Rss::Destination => sys::TWINPATH_RSS_DESTINATION,
        };
        let can = offered & alone == alone;
        Self {
            asked,
            hashed: if can { asked } else { Rss::Flow },
            flags: if can { basic | alone } else { basic },
            off: Unknown::Off,
            key: Vec::new(),
        }
    }

    /// With a key; a device that wants more bytes gets the first ones again.
    pub(super) fn with_key(self, key: &[u8], wanted: u8) -> Self {
        let wanted = usize::from(key_bytes(wanted));
        let key = key.iter().copied().cycle().take(wanted).collect();
        Self { key, ..self }
    }

    /// The same for DPDK; valid as long as this one lives.
    pub(super) fn conf(&mut self) -> sys::rte_eth_rss_conf {
        let mut conf = sys::rte_eth_rss_conf {
            rss_hf: self.flags,
            ..sys::rte_eth_rss_conf::default()
        };
        if !self.key.is_empty() {
            conf.rss_key = self.key.as_mut_ptr();
            conf.rss_key_len = u8::try_from(self.key.len()).unwrap_or(u8::MAX);
        }
        conf
    }

    /// What the started device says of itself.
    pub(super) fn read(mut self, id: u16, info: &sys::rte_eth_dev_info, rx_queues: u16) -> PortRss {
        let spread = self.spread(id, info, rx_queues);
        let keeps = |spread: &Spread| !self.key.is_empty() && spread.key() != self.key;
        PortRss {
            asked: self.asked,
            hashed: self.hashed,
            keeps_key: spread.as_ref().is_ok_and(keeps),
            spread,
        }
    }

    fn spread(&mut self, id: u16, info: &sys::rte_eth_dev_info, rx_queues: u16) -> Result<Spread, Unknown> {
        if self.flags == 0 {
            return Err(self.off);
        }
        let untold = |what| move |cause| Unknown::Untold { what, cause };
        let (mut key, mut flags) = hash(id, info.hash_key_size).map_err(untold("key"))?;
        if flags & self.flags != self.flags || (!self.key.is_empty() && key != self.key) {
            // Some drivers take it by itself only.
            tell(id, self.conf()).map_err(untold("hash"))?;
            (key, flags) = hash(id, info.hash_key_size).map_err(untold("key"))?;
        }
        let alone = self.flags & !sys::TWINPATH_RSS_WANTED;
        if flags & sys::TWINPATH_RSS_WANTED == 0 || flags & alone != alone {
            return Err(Unknown::Unconfirmed);
        }
        let queues = table(id, info.reta_size, rx_queues)?;
        let has = |flag: u64| flags & flag != 0;
        let fields = self
            .hashed
            .fields(has(sys::TWINPATH_RSS_TCP4), has(sys::TWINPATH_RSS_UDP4));
        Ok(Spread::new(&key, fields, &queues)?)
    }
}

/// The table of queues. One that leaves a queue out, so that a worker would have nothing to do, is written anew.
fn table(id: u16, entries: u16, rx_queues: u16) -> Result<Vec<u16>, Unknown> {
    if entries == 0 {
        return Err(Unknown::NoTable);
    }
    let untold = |cause| Unknown::Untold {
        what: "table of queues",
        cause,
    };
    let found = table_of(id, entries).map_err(untold)?;
    if entries < rx_queues || (0..rx_queues).all(|queue| found.contains(&queue)) {
        return Ok(found);
    }
    set_table(id, entries, rx_queues).map_err(untold)?;
    table_of(id, entries).map_err(untold)
}

/// The key, and flags of what is hashed.
fn hash(id: u16, said: u8) -> Result<(Vec<u8>, u64), Errno> {
    let len = key_bytes(said);
    // Larger than any driver's, since not all look at the length.
    let mut key = vec![0; usize::from(u8::MAX) + 1];
    let mut conf = sys::rte_eth_rss_conf {
        rss_key: key.as_mut_ptr(),
        rss_key_len: len,
        ..sys::rte_eth_rss_conf::default()
    };
    // SAFETY: the port is started; DPDK fills the structure and the key, for which there is room.
    Errno::check(unsafe { sys::rte_eth_dev_rss_hash_conf_get(id, &raw mut conf) })?;
    key.truncate(usize::from(len));
    Ok((key, conf.rss_hf))
}

/// Bytes of a device's key, by what it says of them.
const fn key_bytes(said: u8) -> u8 {
    if said == 0 { KEY_DEFAULT } else { said }
}

fn tell(id: u16, mut conf: sys::rte_eth_rss_conf) -> Result<(), Errno> {
    // SAFETY: the port is started; the key, if there is one, is the caller's, and DPDK copies it.
    Errno::check(unsafe { sys::rte_eth_dev_rss_hash_update(id, &raw mut conf) }).map(drop)
}

fn groups(entries: u16) -> Vec<sys::rte_eth_rss_reta_entry64> {
    let group = sys::rte_eth_rss_reta_entry64 {
        mask: u64::MAX,
        reta: [0; GROUP],
    };
    vec![group; usize::from(entries).div_ceil(GROUP)]
}

fn table_of(id: u16, entries: u16) -> Result<Vec<u16>, Errno> {
    let mut groups = groups(entries);
    // SAFETY: the port is started, and there are groups for all of its entries.
    Errno::check(unsafe { sys::rte_eth_dev_rss_reta_query(id, groups.as_mut_ptr(), entries) })?;
    let all = groups.iter().flat_map(|group| group.reta);
    Ok(all.take(usize::from(entries)).collect())
}

/// Writes all queues in turn.
fn set_table(id: u16, entries: u16, rx_queues: u16) -> Result<(), Errno> {
    let mut groups = groups(entries);
    let queues = (0..rx_queues).cycle();
    let places = groups.iter_mut().flat_map(|group| &mut group.reta);
    for (place, queue) in places.zip(queues) {
        *place = queue;
    }
    // SAFETY: as above; DPDK copies the groups.
    Errno::check(unsafe { sys::rte_eth_dev_rss_reta_update(id, groups.as_mut_ptr(), entries) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    #[test]
    fn a_device_is_told_what_it_offers_of_what_is_asked_for() {
        let basic = sys::TWINPATH_RSS_WANTED;
        let (source, destination) = (sys::TWINPATH_RSS_SOURCE, sys::TWINPATH_RSS_DESTINATION);
        // Half of the two flags of destinations: addresses alone would say nothing of ports.
        let half = destination & destination.wrapping_neg();
        for (asked, queues, offered, hashed, flags) in [
            (Rss::Flow, 2, ALL, Rss::Flow, basic),
            (
                Rss::Flow,
                2,
                sys::TWINPATH_RSS_TCP4,
                Rss::Flow,
                sys::TWINPATH_RSS_TCP4,
            ),
            (Rss::Flow, 1, ALL, Rss::Off, 0),
            (Rss::Flow, 2, 0, Rss::Off, 0),
            (Rss::Source, 2, ALL, Rss::Source, basic | source),
            (Rss::Source, 2, basic, Rss::Flow, basic),
            (Rss::Source, 2, source, Rss::Off, 0),
            (Rss::Destination, 4, ALL, Rss::Destination, basic | destination),
            (Rss::Destination, 4, basic | half, Rss::Flow, basic),
            (Rss::Off, 4, ALL, Rss::Off, 0),
        ] {
            let told = Told::choose(asked, queues, offered);
            assert_eq!(
                (told.hashed, told.flags),
                (hashed, flags),
                "{asked:?} {offered:x}"
            );
        }
    }

    #[test]
    fn a_key_has_the_length_that_the_device_wants() {
        let given: Vec<u8> = (1..=41).collect();
        let told = |key: &[u8], wanted| Told::choose(Rss::Flow, 2, ALL).with_key(key, wanted).key;
        assert_eq!(told(&given, 0), given[..40]);
        assert_eq!(told(&given, 40), given[..40]);
        assert_eq!(told(&given, 52), [&given[..], &given[..11]].concat());
        assert_eq!(told(&[], 52), [0; 0]);
    }

    #[test]
    fn what_came_of_it_is_said_with_its_reason() {
        let say = |asked, queues, offered| {
            let told = Told::choose(asked, queues, offered);
            let spread = if told.flags == 0 {
                Err(told.off)
            } else {
                let fields = told.hashed.fields(true, true);
                Ok(Spread::new(&[1; 40], fields, &[0, 1]).unwrap())
            };
            PortRss {
                asked,
                hashed: told.hashed,
                spread,
                keeps_key: asked == Rss::Source,
            }
            .to_string()
        };
        let basic = sys::TWINPATH_RSS_WANTED;
        let known = "public ports are chosen that bring replies to their owner";
        assert_eq!(say(Rss::Flow, 2, ALL), known);
        assert_eq!(
            say(Rss::Destination, 2, basic),
            format!("{known}; the driver can't hash the destination alone")
        );
        assert_eq!(
            say(Rss::Source, 2, ALL),
            "a source's packets come in by one queue; the card keeps a key of its own"
        );
        assert_eq!(say(Rss::Flow, 1, ALL), "there is one receive queue");
        assert_eq!(say(Rss::Destination, 2, 0), "the driver offers no RSS");
        assert_eq!(say(Rss::Off, 2, ALL), "switched off");
    }
}
