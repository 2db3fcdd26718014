//! Translation in place. So far only the interface.
use super::meta::Meta;
use crate::flow::{Direction, FlowKey};
use crate::io::Packet;
use crate::wire::{ethernet::Mac, vlan::VlanTags};

/// Gives the packet the tuple `to` and takes one from its TTL or hop limit.
pub fn rewrite_flow(_frame: &mut [u8], _meta: &Meta, _to: &FlowKey) {}

/// Takes a rewrite back: the tuple and TTL the packet arrived with.
pub fn restore_flow(_frame: &mut [u8], _meta: &Meta) {}

/// Translates an ICMP error.
pub fn rewrite_icmp_error(_frame: &mut [u8], _meta: &Meta, _to: &FlowKey, _direction: Direction) {}

/// Replaces the Ethernet header.
pub fn set_l2<P: Packet>(_packet: &mut P, _meta: &Meta, _dst: Mac, _src: Mac, _vlans: &VlanTags) -> bool {
    false
}
