//! One edit of the base file per kind of fault: what is replaced, by what, and the one message that must come.

/// A case.
type Case = (&'static str, &'static str, &'static str);

pub(super) fn all() -> Vec<Case> {
    [
        names_and_syntax(),
        references(),
        used_twice(),
        bounds_and_rules(),
        protection(),
        pools_and_sync(),
        taps(),
    ]
    .concat()
}

fn taps() -> Vec<Case> {
    vec![
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tun\"",
            "15:13: exception = \"tun\" can't be used; use \"none\" or \"tap\"",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"",
            "15:13: the tap of port \"wan0\" has no name; add kernel_interface: the kernel interface of that name is made, and mirrors the port",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"sixteen-letters0\"",
            "16:20: no kernel interface can be called \"sixteen-letters0\"; use at most 15 letters, digits, dots and dashes",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"wan0,mac=fixed\"",
            "16:20: no kernel interface can be called \"wan0,mac=fixed\"; use at most 15 letters, digits, dots and dashes",
        ),
        (
            "kernel_interface = \"lan0\"",
            "kernel_interface = \"lan0\"\nexception = \"tap\"",
            "11:20: \"lan0\" is the interface below port \"lan0\", and can't be made as a tap; give the tap another name, or leave exception out: the kernel sees the frames of that interface",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"wan0\"\nexception_packets_per_s = { rooting = 100 }",
            "17:29: unknown key rooting in exception_packets_per_s = { ... } of [[port]]; did you mean \"routing\"?",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"wan0\"\nexception_packets_per_s = { bgp = 100 }",
            "17:29: unknown key bgp in exception_packets_per_s = { ... } of [[port]]; use one of: link, neighbor, ha, routing, local",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"wan0\"\nexception_packets_per_s = { ha = 1_000_001 }",
            "17:34: ha = 1000001 is out of range; use 0 to 1000000",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"wan0\"\nexception_packets_per_s = { ha = -1 }",
            "17:34: ha = -1 is out of range; use 0 to 1000000",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"wan0\"\nexception_packets_per_s = { local = \"many\" }",
            "17:37: local is a string; write a whole number without quotes",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"wan0\"\nexception_packets_per_s = 500",
            "17:27: exception_packets_per_s is an integer; write it as a table, exception_packets_per_s = { ... } of [[port]]",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nexception_packets_per_s = { ha = 100 }",
            "15:27: exception_packets_per_s limits what goes to a tap, and port \"wan0\" has none; add exception = \"tap\", or remove it",
        ),
    ]
}

fn names_and_syntax() -> Vec<Case> {
    vec![
        (
            "device = \"0000:01:00.0\"",
            "devcie = \"0000:01:00.0\"",
            "14:1: unknown key devcie in [[port]]; did you mean \"device\"?",
        ),
        (
            "id = 1\n",
            "id = 1\nnmae = 2\n",
            "5:1: unknown key nmae in [node]; did you mean \"name\"?",
        ),
        (
            "[node]",
            "[nod]",
            "2:2: unknown key nod in the file; did you mean \"node\"?",
        ),
        (
            "id = 1\n",
            "id = \"1\"\n",
            "4:6: id is a string; write a whole number without quotes",
        ),
        (
            "name = \"node1\"",
            "name = 1",
            "3:8: name is an integer; write a text in quotes",
        ),
        (
            "id = 1\n",
            "id = 0\n",
            "4:6: id = 0 is out of range; use 1 to 255",
        ),
        (
            "id = 1\n",
            "",
            "2:1: [node] has no id; add id = 1, and another number on the other node",
        ),
        (
            "\"node1\"",
            "\"../x\"",
            "3:8: name = \"../x\" can't be used; use 1 to 32 of a-z A-Z 0-9 _ - .",
        ),
        (
            "workers = 2",
            "workers = 2\nidle = \"busy\"",
            "7:8: idle = \"busy\" can't be used; use \"adaptive\" or \"poll\"",
        ),
        (
            "workers = 2",
            "workers = ",
            "6:11: string values must be quoted, expected literal string; correct the TOML syntax here",
        ),
        (
            "id = 1\n",
            "id = 1\nid = 2\n",
            "5:1: duplicate key; correct the TOML syntax here",
        ),
        (
            "id = 10\n",
            "",
            "40:1: [[vrf.firewall.rule]] has no id; add id = a number that is unique in the VRF",
        ),
        (
            "[vrf.timeouts]\nicmp_s = 60",
            "[vrf.timeouts]\nicmp_s = 60\ntcp_s = 1",
            "40:1: unknown key tcp_s in [vrf.timeouts]; did you mean \"icmp_s\"?",
        ),
    ]
}

fn references() -> Vec<Case> {
    vec![
        (
            "port = \"lan0\"",
            "port = \"lna0\"",
            "17:8: there is no port \"lna0\"; did you mean \"lan0\"?",
        ),
        (
            "vrf = \"isp\"",
            "vrf = \"ips\"",
            "26:7: there is no VRF \"ips\"; did you mean \"isp\"?",
        ),
        (
            "inbound = \"lan\"",
            "inbound = \"dmz\"",
            "42:11: there is no interface \"dmz\"; use one of: lan, wan, other",
        ),
        (
            "inbound = \"lan\"",
            "inbound = \"other\"",
            "42:11: interface \"other\" is in the VRF \"isp\"; name an interface of the VRF \"main\"",
        ),
        (
            "pool = \"public\"",
            "pool = \"pubic\"",
            "53:8: there is no pool \"pubic\"; did you mean \"public\"?",
        ),
        (
            "listen_ha_group = \"group1\"",
            "listen_ha_group = \"group2\"",
            "55:19: there is no HA group \"group2\"; did you mean \"group1\"?",
        ),
        (
            "listen_ha_group = \"group1\"",
            "",
            "56:1: a VRF with a peer listens to no HA group, so both nodes would be active; \
             add listen_ha_group = \"...\" to [vrf.ha_fp_conntrack]",
        ),
    ]
}

fn used_twice() -> Vec<Case> {
    vec![
        (
            "name = \"wan0\"",
            "name = \"lan0\"\ndevice = \"1\"\n[[port]]\nname = \"wan0\"",
            "13:8: port \"lan0\" is already defined in line 9; choose another name",
        ),
        (
            "name = \"isp\"",
            "name = \"isp\"\n[[vrf]]\nname = \"main\"",
            "63:8: VRF \"main\" is already defined in line 28; choose another name",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"net_af_packet0,iface=x\"",
            "14:10: device net_af_packet0 is already used in line 10; give each port a device of its own",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"net_af_packet1,iface=lan0\"",
            "14:10: interface lan0 is already used in line 10; give each port an interface of its own",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nkernel_interface = \"lan0\"",
            "15:20: kernel interface lan0 is already used in line 11; give each port its own",
        ),
        (
            "port = \"wan0\"\nvlan = [100]",
            "port = \"wan0\"\nvlan = []",
            "23:8: port and vlan wan0 untagged is already used in line 19; use another vlan, or remove one of the interfaces",
        ),
        (
            "addresses = [\"192.0.2.2/24\"]",
            "addresses = [\"192.0.2.2/24\", \"192.0.2.2/32\"]",
            "21:30: address 192.0.2.2 is already used in line 21; use each address once in a VRF",
        ),
        (
            "action = \"accept\"\n",
            "action = \"accept\"\n[[vrf.firewall.rule]]\nid = 10\naction = \"drop\"\n",
            "47:6: rule 10 is already defined in line 41; use another id",
        ),
        (
            "[vrf.timeouts]",
            "[[vrf.route]]\nprefix = \"0.0.0.0/0\"\ninterface = \"wan\"\ngateway = \"192.0.2.254\"\n[vrf.timeouts]",
            "39:10: the route to 0.0.0.0/0 is there twice; remove one, or give it another interface or gateway",
        ),
        (
            "[[vrf]]\nname = \"isp\"",
            "[[vrf.ha_fp_conntrack.peer]]\nname = \"peer2\"\nsource = \"10.150.0.1\"\naddress = \"10.150.0.2\"\n[[vrf]]\nname = \"isp\"",
            "63:11: the peer at 10.150.0.2 is already \"peer1\"; remove one of the two",
        ),
    ]
}

fn bounds_and_rules() -> Vec<Case> {
    vec![
        (
            "workers = 2",
            "workers = 2\nworker_cores = [0, 7]",
            "7:20: core 7 doesn't exist; use 0, 1",
        ),
        (
            "workers = 2",
            "workers = \"2\"\nworker_cores = [0, 1]",
            "6:11: workers is a string; write a whole number without quotes",
        ),
        (
            "workers = 2",
            "workers = 2\nworker_cores = [0]",
            "7:16: worker_cores names 1 cores for 2 threads; name one core per thread, a core may come twice",
        ),
        (
            "vlan = [100]",
            "vlan = [4095]",
            "25:9: vlan = \"4095\" can't be used; use VLAN ids from 1 to 4094",
        ),
        (
            "vlan = [100]",
            "vlan = [1, 2, 3]",
            "25:8: vlan has 3 tags; use at most two, the outer one first",
        ),
        (
            "inside = [",
            "slots = 3\ninside = [",
            "29:9: slots = 3 can't occupy 2 workers × 2 event threads; use at least 4 on both nodes",
        ),
        (
            "inside = [",
            "slots = 4097\ninside = [",
            "29:9: slots = 4097 is out of range; use 1 to 4096",
        ),
        (
            "inside = [\"100.64.0.0/10\"]",
            "inside = [\"100.65.0.0/10\"]",
            "29:11: inside = \"100.65.0.0/10\" can't be used; write 100.64.0.0/10, without host bits",
        ),
        (
            "name = \"isp\"",
            "name = \"isp\"\nannounce_pools = true",
            "62:18: VRF \"isp\" has no pool to announce; add a [[vrf.cg_nat.pool]], or leave announce_pools out",
        ),
        (
            "icmp_s = 60",
            "icmp_s = 59",
            "39:10: icmp_s = 59 is below the 60 s of RFC 5508 section 3.2, REQ-2; \
             use 60 or more, or allow_short_timeouts = true in [vrf.timeouts]",
        ),
        (
            "icmp_s = 60",
            "tcp_established_s = 7439",
            "39:21: tcp_established_s = 7439 is below the 7440 s of RFC 5382 section 5, REQ-5; \
             use 7440 or more, or allow_short_timeouts = true in [vrf.timeouts]",
        ),
        (
            "block_size = 512",
            "block_size = 100",
            "49:14: block_size = 100 is not a multiple of 64; use 128",
        ),
        (
            "block_size = 512",
            "ports = \"1024-1300\"\nblock_size = 512",
            "50:14: block_size = 512 is more than the 277 ports of the pool; use a smaller block or more ports",
        ),
        (
            "protocol = \"tcp\"\n",
            "",
            "43:22: a rule has ports, but no protocol that has them; add protocol = \"tcp\" or \"udp\", or remove the ports",
        ),
        (
            "inbound = \"lan\"",
            "source = [\"10.0.0.0/8\"]\ndestination = [\"2001:db8::/32\"]",
            "43:16: no packet goes from 10.0.0.0/8 to 2001:db8::/32: different families; use prefixes of one family",
        ),
        (
            "gateway = \"192.0.2.254\"",
            "gateway = \"192.0.3.254\"",
            "33:11: gateway 192.0.3.254 is not on the link of \"wan\"; \
             use a gateway inside one of the interface's addresses, or add such an address",
        ),
        (
            "device = \"net_af_packet0,iface=lan0\"",
            "device = \"net_af_packet0,iface=lan0\"\nrx_queues = 2",
            "11:13: rx_queues = 2, but the device has 1; add qpairs=2 to device, or use fewer queues",
        ),
        (
            "device = \"net_af_packet0,iface=lan0\"",
            "device = \"net_af_packet0,iface=lan0,qpairs=4\"\nrx_queues = 2",
            "11:13: rx_queues = 2, but the kernel spreads frames over the 4 queue pairs of the device; \
             use rx_queues = 4, or frames in the other queues are lost",
        ),
        (
            "workers = 2",
            "workers = 2\nrss_key = \"6d5a\"",
            "7:11: rss_key = \"6d5a\" can't be used; write 40 to 64 bytes as pairs of hex digits, \
             as openssl rand -hex 52 makes them",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nrss = \"destination\"",
            "15:7: rss = \"destination\" chooses among queues, and there is one; \
             add rx_queues, at best one for each worker, or remove rss",
        ),
        (
            "device = \"0000:01:00.0\"",
            "device = \"0000:01:00.0\"\nrx_queues = 2\nrss = \"even\"",
            "16:7: rss = \"even\" can't be used; use \"flow\" or \"source\" or \"destination\" or \"off\"",
        ),
        (
            "[[interface]]\nname = \"lan\"\n",
            "[[interface]]\nname = \"lan\"\nmtu = 9000\n",
            "17:7: mtu = 9000 takes 9084 bytes of the device's ring, whose frames have 2048; \
             add blocksz=36864,framesz=9216 to device, with a framecnt that is a multiple of 4, or lower mtu",
        ),
        (
            "mac = \"02:00:00:00:00:01\"",
            "mac = \"03:00:00:00:00:01\"",
            "37:7: mac = \"03:00:00:00:00:01\" can't be used; use the MAC address of one station, not a group address",
        ),
    ]
}

fn protection() -> Vec<Case> {
    vec![
        (
            "action = \"accept\"\n",
            "action = \"accept\"\nsync = \"after\"\n",
            "46:8: sync = \"after\" can't be used; use \"always\", \"never\", or \"after 3\" with 1 to 3600 seconds",
        ),
        (
            "action = \"accept\"\n",
            "action = \"accept\"\nsync = \"after 0\"\n",
            "46:8: sync = \"after 0\" can't be used; use \"always\", \"never\", or \"after 3\" with 1 to 3600 seconds",
        ),
        (
            "outbound = \"wan\"\npool",
            "outbound = \"wan\"\noutput_commit = \"on\"\npool",
            "53:17: output_commit = \"on\" can't be used; use \"off\" or \"open\" or \"closed\"",
        ),
        (
            "name = \"isp\"\n[[ha",
            "name = \"isp\"\noutput_commit = \"open\"\n[[ha",
            "62:17: packets are to wait for a peer, but the VRF has none; add [[vrf.ha_fp_conntrack.peer]], or remove \
             output_commit",
        ),
        (
            "inside = [\"100.64.0.0/10\"]\n",
            "inside = [\"100.64.0.0/10\"]\nflow_counters = \"off\"\n",
            "30:17: flow_counters is a string; write true or false without quotes",
        ),
        (
            "inside = [\"100.64.0.0/10\"]\n",
            "inside = [\"100.64.0.0/10\"]\nstandby = \"forward\"\n",
            "30:11: standby = \"forward\" can't be used; use \"drop\" or \"redirect\"",
        ),
        (
            "name = \"isp\"\n[[ha",
            "name = \"isp\"\nstandby = \"redirect\"\n[[ha",
            "62:11: packets are to go to the active node, but the VRF has no peer; add [[vrf.ha_fp_conntrack.peer]], or \
             remove standby",
        ),
        (
            "action = \"accept\"\n",
            "action = \"accept\"\nsync = \"never\"\noutput_commit = \"closed\"\n",
            "46:8: sync = \"never\" keeps flows from the peer, and output_commit = \"closed\" waits for the peer to have them; \
             remove one of the two",
        ),
        (
            "action = \"accept\"\n",
            "action = \"accept\"\nsync = \"after 3\"\noutput_commit = \"open\"\n",
            "46:8: sync = \"after 3\" keeps flows from the peer, and output_commit = \"open\" waits for the peer to have them; \
             remove one of the two",
        ),
        (
            "outbound = \"wan\"\npool",
            "outbound = \"wan\"\nsync = \"never\"\noutput_commit = \"open\"\npool",
            "53:8: sync = \"never\" keeps flows from the peer, and output_commit = \"open\" waits for the peer to have them; \
             remove one of the two",
        ),
        (
            "inside = [\"100.64.0.0/10\"]\n",
            "inside = [\"100.64.0.0/10\"]\noutput_commit_timeout_ms = 0\n",
            "30:28: output_commit_timeout_ms = 0 is out of range; use 1 to 1000",
        ),
        (
            "block_size = 512\n[[vrf.cg_nat.rule]]\n",
            "block_size = 512\nfiltering = \"endpoint-independent\"\n[[vrf.cg_nat.rule]]\nsync = \"never\"\n",
            "52:8: flows of a pool that anybody may send to are always synced; remove sync, or use a pool with filtering = \
             \"endpoint-dependent\"",
        ),
    ]
}

fn pools_and_sync() -> Vec<Case> {
    vec![
        (
            "\"198.51.100.1-198.51.100.4\"]",
            "\"198.51.100.1-198.51.100.4\", \"198.51.100.4\"]",
            "48:43: pool \"public\" has 198.51.100.4, which pool \"public\" has in line 48; take it out of one of them",
        ),
        (
            "[[vrf.cg_nat.rule]]",
            "[[vrf.cg_nat.pool]]\nname = \"more\"\naddresses = [\"198.51.100.0/24\"]\n[[vrf.cg_nat.rule]]",
            "52:14: pool \"more\" has 198.51.100.1, which pool \"public\" has in line 48; take it out of one of them",
        ),
        (
            "\"198.51.100.1-198.51.100.4\"",
            "\"100.127.255.255\"",
            "48:14: pool \"public\" overlaps the inside prefix 100.64.0.0/10; use public addresses that are not inside",
        ),
        (
            "outbound = \"wan\"\npool",
            "outbound = \"wan\"\nsource = [\"10.0.0.0/8\"]\npool",
            "53:11: source 10.0.0.0/8 is not among the VRF's inside prefixes; add it to inside, on both nodes",
        ),
        (
            "name = \"isp\"",
            "name = \"isp\"\n[[vrf.cg_nat.pool]]\nname = \"same\"\naddresses = [\"198.51.100.2\"]",
            "64:14: the VRFs \"isp\" and \"main\" share pool addresses, but not their HA group; \
             let both listen to one HA group, or use other addresses",
        ),
        (
            "address = \"192.0.2.1\"",
            "address = \"198.51.100.1\"",
            "64:53: 198.51.100.1 is both virtual and in a pool; take it out of one of them",
        ),
        (
            "{ interface = \"wan\", address = \"192.0.2.1\" }",
            "{ interface = \"other\", address = \"192.0.2.1\" }",
            "64:55: 192.0.2.1 is on \"other\", whose VRF \"isp\" doesn't listen to \"group1\"; \
             set listen_ha_group of that VRF, or move the address to its group",
        ),
        (
            "address = \"10.150.0.2\"",
            "address = \"fd00::2\"",
            "59:11: source 10.150.0.1 and address fd00::2 are of different families; use two IPv4 or two IPv6 addresses",
        ),
        (
            "interface = \"sync0\"",
            "interface = \"lan0\"",
            "66:13: sync interface \"lan0\" is the fast-path port \"lan0\": user traffic could delay the lanes, \
             or reach them; use a kernel interface that no port owns",
        ),
        (
            "interface = \"sync0\"",
            "interface = \"sync0\"\nsecond_interface = \"sync0\"",
            "67:20: both links would fail together: second_interface is interface; use another kernel interface",
        ),
        (
            "interface = \"sync0\"",
            "interface = \"sync0\"\nsecond_interface = \"lan0\"",
            "67:20: sync interface \"lan0\" is the fast-path port \"lan0\": user traffic could delay the lanes, \
             or reach them; use a kernel interface that no port owns",
        ),
        (
            "address = \"10.150.0.2\"",
            "address = \"10.150.0.2\"\nsecond_source = \"10.151.0.1\"\nsecond_address = \"10.151.0.2\"",
            "56:1: a peer has a second link, and no interface for it; add second_interface to [sync]",
        ),
        (
            "address = \"10.150.0.2\"",
            "address = \"10.150.0.2\"\nsecond_source = \"10.151.0.1\"",
            "56:1: [[vrf.ha_fp_conntrack.peer]] has no second_address; add second_address = the other node's address there",
        ),
        (
            "security = \"none\"",
            "",
            "65:1: [sync] doesn't say how lanes are protected; \
             write security = \"tls\", or security = \"none\" to accept that they are plain, on a link nobody else \
             can reach",
        ),
        (
            "security = \"none\"",
            "security = \"ssl\"",
            "67:12: security = \"ssl\" can't be used; use \"tls\" or \"none\"",
        ),
        (
            "security = \"none\"",
            "security = \"tls\"\nprivate_key = \"/etc/twinpath/sync.key\"",
            "56:1: peer \"peer1\" has no public_keys to prove who it is; \
             add public_keys = [\"tpk1...\"] with the line that twinpathctl key generate prints there",
        ),
        (
            "security = \"none\"",
            "security = \"none\"\nprivate_key = \"sync.key\"",
            "68:15: private_key = \"sync.key\" can't be used; \
             write the whole path of a file, as /etc/twinpath/sync.key",
        ),
        (
            "address = \"10.150.0.2\"",
            "address = \"10.150.0.2\"\npublic_keys = [\"tpk1qq\"]",
            "60:16: public_keys = \"tpk1qq\" can't be used; it has 2 digits instead of 58: \
             use the line that twinpathctl key generate has printed on the other node",
        ),
        (
            "[sync]\ninterface = \"sync0\"\nsecurity = \"none\"\n",
            "",
            "56:1: a VRF has a peer, but there is no [sync] to reach it; add [sync] with interface and security",
        ),
        (
            "name = \"isp\"",
            "name = \"isp\"\nnetns = \"a\"\nkernel_vrf = \"b\"",
            "62:9: a VRF has both kernel_vrf and netns; keep the one its routes come from",
        ),
    ]
}
