//! A slow and obvious NAT and firewall for one VRF: lists instead of tables, no timers, no workers. It can't know which
//! random port a new mapping gets, so it is told what came out and says whether that may be.
//!
//! A test feeds it every packet with what the node sent for it; the oracle answers with what is wrong.

use dataplane::flow::{Addr, FlowKey};

use crate::config::Setup;

/// What the oracle remembers.
#[derive(Debug)]
pub struct Oracle {
    setup: Setup,
    flows: Vec<Flow>,
    mappings: Vec<Mapping>,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    inside: FlowKey,
    outside: FlowKey,
}

/// RFC 4787 REQ-1: one public endpoint per inside endpoint and protocol.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    protocol: u8,
    inside: (Addr, u16),
    public: (Addr, u16),
}

impl Oracle {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new(setup: Setup) -> Self {
        Self {
            setup,
            flows: Vec::new(),
            mappings: Vec::new(),
        }
    }

    /// A packet from inside came with `key`, and `sent` left by the WAN.
    ///
    /// # Errors
    /// Why that is wrong.
    pub fn from_inside(&mut self, key: &FlowKey, sent: Option<FlowKey>) -> Result<(), String> {
        let known = self.flows.iter().find(|f| f.inside == *key);
        if let Some(flow) = known {
            return equal(Some(flow.outside), sent);
        }
        // The firewall of the default setup lets the inside open anything; only exhaustion may refuse.
        let Some(outside) = sent else { return Ok(()) };
        let translated = self.setup.pool_addresses > 0 && key.src.is_v4();
        if translated {
            self.judge(key, &outside)?;
        } else {
            equal(Some(*key), sent)?;
        }
        if let Some(other) = self.flows.iter().find(|f| f.outside == outside) {
            return Err(format!("{outside:?} belongs to {:?} already", other.inside));
        }
        self.flows.push(Flow {
            inside: *key,
            outside,
        });
        Ok(())
    }

    fn judge(&mut self, key: &FlowKey, outside: &FlowKey) -> Result<(), String> {
        if (outside.dst, outside.dst_port, outside.proto) != (key.dst, key.dst_port, key.proto) {
            return Err(format!("{key:?} left for another destination: {outside:?}"));
        }
        let inside = (key.src, key.src_port);
        let public = (outside.src, outside.src_port);
        if !self.is_of_pool(public) {
            return Err(format!("{public:?} is not of the pool"));
        }
        for m in self.mappings.iter().filter(|m| m.protocol == key.proto) {
            if m.inside == inside && m.public != public {
                return Err(format!(
                    "{inside:?} was {:?} and is {public:?} now (RFC 4787 REQ-1)",
                    m.public
                ));
            }
            if m.inside != inside && m.public == public {
                return Err(format!("{public:?} belongs to {:?} and to {inside:?}", m.inside));
            }
        }
        for m in &self.mappings {
            if m.inside.0 == key.src && m.public.0 != public.0 {
                return Err(format!("{} has two public addresses (RFC 4787 REQ-2)", key.src));
            }
            let block = |(address, port): (Addr, u16)| {
                (
                    address,
                    (port - self.setup.pool_ports.first) / self.setup.block_size,
                )
            };
            if m.inside.0 != key.src && block(m.public) == block(public) {
                return Err(format!("{} and {} share a block", m.inside.0, key.src));
            }
        }
        self.mappings.push(Mapping {
            protocol: key.proto,
            inside,
            public,
        });
        Ok(())
    }

    fn is_of_pool(&self, (address, port): (Addr, u16)) -> bool {
        (0..self.setup.pool_addresses).any(|n| crate::config::public(n) == address)
            && self.setup.pool_ports.contains(port)
    }

    /// A packet from outside came with `key`, and `sent` left by the LAN: only replies may pass.
    ///
    /// # Errors
    /// Why that is wrong.
    pub fn from_outside(&self, key: &FlowKey, sent: Option<FlowKey>) -> Result<(), String> {
        let flow = self.flows.iter().find(|f| f.outside == key.reversed());
        equal(flow.map(|f| f.inside.reversed()), sent)
    }

    /// Flows that the node let out, with the tuple they left with.
    pub fn flows(&self) -> impl Iterator<Item = (FlowKey, FlowKey)> + '_ {
        self.flows.iter().map(|f| (f.inside, f.outside))
    }
}

fn equal(expected: Option<FlowKey>, sent: Option<FlowKey>) -> Result<(), String> {
    if expected == sent {
        Ok(())
    } else {
        Err(format!("{expected:?} was to be sent, and {sent:?} was"))
    }
}
