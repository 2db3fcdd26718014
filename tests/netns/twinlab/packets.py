"""Packets written out by hand, with checksums computed over the whole: the slow, obvious counterpart of a fast path
that only adjusts them.
"""

import socket
import struct

from .shell import checksum

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58


def address(text):
    """Bytes of an address of either family."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def ethernet(target, source, payload, tags=()):
    """A frame; tags from the outside in, the outer one of two a service tag (IEEE 802.1ad)."""
    kind = 0x86DD if payload[0] >> 4 == 6 else 0x0800
    types = [0x88A8, 0x8100][-len(tags):]
    body = b"".join(struct.pack("!HH", *tag) for tag in zip(types, tags)) + struct.pack("!H", kind) + payload
    return bytes.fromhex(target.replace(":", "")) + bytes.fromhex(source.replace(":", "")) + body


def ipv4(source, target, protocol, payload, ttl=64, options=b"", identification=0x1234, service=0):
    """An IPv4 packet that must not be fragmented."""
    length = 20 + len(options)
    header = struct.pack("!BBHHHBBH", 0x40 | length // 4, service, length + len(payload), identification, 0x4000, ttl,
                         protocol, 0) + address(source) + address(target) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(source, target, protocol, payload, hops=64, extensions=()):
    """An IPv6 packet; extensions are (type, body after its first byte)."""
    chain, following = b"", protocol
    for kind, body in reversed(extensions):
        chain = bytes([following]) + body + chain
        following = kind
    return struct.pack("!IHBB", 6 << 28, len(chain) + len(payload), following, hops) + address(source) \
        + address(target) + chain + payload


def _summed(source, target, protocol, segment, offset):
    """A segment with its checksum at `offset` filled in, over the pseudo header of either family."""
    ends = address(source) + address(target)
    pseudo = ends + (struct.pack("!II", len(segment), protocol) if len(ends) == 32
                     else struct.pack("!HH", protocol, len(segment)))
    padded = pseudo + segment + bytes(len(segment) % 2)
    total = checksum(padded)
    if protocol == UDP and total == 0:
        total = 0xFFFF
    return segment[:offset] + struct.pack("!H", total) + segment[offset + 2:]


def udp(source, source_port, target, target_port, data):
    """A UDP datagram."""
    return _summed(source, target, UDP, struct.pack("!HHHH", source_port, target_port, 8 + len(data), 0) + data, 6)


def tcp(source, source_port, target, target_port, flags, sequence=1000, acknowledged=0, options=b"", data=b"",
        window=65000):
    """A TCP segment."""
    header = struct.pack("!HHIIBBHHH", source_port, target_port, sequence, acknowledged,
                         (20 + len(options)) // 4 << 4, flags, window, 0, 0)
    return _summed(source, target, TCP, header + options + data, 16)


def icmp(kind, code, rest, data):
    """An ICMP message; `rest` is the second half of its first eight bytes."""
    message = struct.pack("!BBH", kind, code, 0) + rest + data
    return message[:2] + struct.pack("!H", checksum(message + bytes(len(message) % 2))) + message[4:]


def icmpv6(source, target, kind, code, rest, data):
    """An ICMPv6 message."""
    return _summed(source, target, ICMPV6, struct.pack("!BBH", kind, code, 0) + rest + data, 2)
