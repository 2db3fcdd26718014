//! Headers as checked views: a view is made once, from a slice that is long enough, and its getters and setters
//! touch fixed offsets of a fixed-size array, so nothing is checked twice. Views know layouts, not policy: what is a
//! valid packet is decided by [`crate::stage::parse`].
//!
//! Order as on the wire, outermost first.

pub mod ethernet;
pub mod vlan;

pub mod arp;
pub mod ipv4;
pub mod ipv6;

pub mod ext;

pub mod icmp4;
pub mod icmp6;
pub mod tcp;
pub mod udp;

pub mod checksum;

pub mod build;

/// Declares a header view over a fixed-size array, with network-order getters and setters.
///
/// `view! { /// doc Name[LEN] { /// doc get/set: u16 @ offset, … } }`
macro_rules! view {
    (
        $(#[doc = $doc:literal])+
        $name:ident[$len:literal] {
            $($(#[doc = $fdoc:literal])+ $get:ident / $set:ident: $ty:ident @ $at:literal,)*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy)]
        pub struct $name<B>(B);

        impl<B> $name<B> {
            /// Bytes of the fixed part of this header.
            pub const LEN: usize = $len;
        }

        impl<'a> $name<&'a [u8; $len]> {
            /// A view of the header at the start of `bytes`; none when they are too short.
            #[inline]
            #[must_use]
            pub fn at(bytes: &'a [u8]) -> Option<Self> {
                bytes.first_chunk().map(Self)
            }
        }

        impl<'a> $name<&'a mut [u8; $len]> {
            /// A changeable view of the header at the start of `bytes`; none when they are too short.
            #[inline]
            #[must_use]
            pub fn at_mut(bytes: &'a mut [u8]) -> Option<Self> {
                bytes.first_chunk_mut().map(Self)
            }
        }

        impl<B: core::ops::Deref<Target = [u8; $len]>> $name<B> {
            $(
                $(#[doc = $fdoc])+
                #[inline]
                #[must_use]
                pub fn $get(&self) -> $crate::wire::field!($ty) {
                    $crate::wire::get!(self.0, $ty, $at)
                }
            )*
        }

        impl<B: core::ops::DerefMut<Target = [u8; $len]>> $name<B> {
            $(
                #[doc = concat!("Sets what [`Self::", stringify!($get), "`] reads.")]
                #[inline]
                pub fn $set(&mut self, value: $crate::wire::field!($ty)) {
                    $crate::wire::set!(self.0, $ty, $at, value);
                }
            )*
        }
    };
}

macro_rules! field {
    (u8) => {
        u8
    };
    (u16) => {
        u16
    };
    (u32) => {
        u32
    };
    (mac) => {
        [u8; 6]
    };
    (mac_pair) => {
        [u8; 12]
    };
    (port_pair) => {
        [u8; 4]
    };
    (ip4) => {
        [u8; 4]
    };
    (ip6) => {
        [u8; 16]
    };
    (ip4_pair) => {
        [u8; 8]
    };
    (ip6_pair) => {
        [u8; 32]
    };
}

macro_rules! get {
    ($b:expr, u8, $at:literal) => {
        $b[$at]
    };
    ($b:expr, u16, $at:literal) => {
        u16::from_be_bytes([$b[$at], $b[$at + 1]])
    };
    ($b:expr, u32, $at:literal) => {
        u32::from_be_bytes([$b[$at], $b[$at + 1], $b[$at + 2], $b[$at + 3]])
    };
    // The bounds are constants within a fixed array: the compiler sees that neither can fail.
    ($b:expr, $ty:ident, $at:literal) => {
        $b[$at..$at + size_of::<$crate::wire::field!($ty)>()]
            .try_into()
            .unwrap_or([0; _])
    };
}

macro_rules! set {
    ($b:expr, u8, $at:literal, $v:expr) => {
        $b[$at] = $v
    };
    ($b:expr, u16, $at:literal, $v:expr) => {
        $b[$at..$at + 2].copy_from_slice(&$v.to_be_bytes())
    };
    ($b:expr, u32, $at:literal, $v:expr) => {
        $b[$at..$at + 4].copy_from_slice(&$v.to_be_bytes())
    };
    ($b:expr, $ty:ident, $at:literal, $v:expr) => {
        $b[$at..$at + $v.len()].copy_from_slice(&$v)
    };
}

pub(crate) use {field, get, set, view};
