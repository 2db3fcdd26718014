/* Named wrappers of DPDK's static-inline calls and thread-local variables, and the numbers that Rust
 * relies on. bindgen reads this file; shim.c implements it and checks the numbers against the headers. */
#ifndef TWINPATH_SHIM_H
#define TWINPATH_SHIM_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Byte offsets inside struct rte_mbuf of the fields that Rust reads or writes in place. */
#define TWINPATH_MBUF_BUF_ADDR 0
#define TWINPATH_MBUF_DATA_OFF 16
#define TWINPATH_MBUF_REFCNT 18
#define TWINPATH_MBUF_NB_SEGS 20
#define TWINPATH_MBUF_PORT 22
#define TWINPATH_MBUF_OL_FLAGS 24
#define TWINPATH_MBUF_PACKET_TYPE 32
#define TWINPATH_MBUF_PKT_LEN 36
#define TWINPATH_MBUF_DATA_LEN 40
#define TWINPATH_MBUF_BUF_LEN 54
#define TWINPATH_MBUF_SIZE 128

/* Room in front of and around a frame. */
#define TWINPATH_HEADROOM 128
#define TWINPATH_LCORES_MAX 128
/* Bytes of a port name, its final zero included. */
#define TWINPATH_ETH_NAME_MAX 64
/* Keys of one lookup in a hash table. */
#define TWINPATH_HASH_BULK 32

/* Casts and shifts in the originals keep bindgen from reading them as numbers. */
static const uint64_t TWINPATH_RSS_WANTED __rte_unused =
	RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
static const uint64_t TWINPATH_RSS_TCP4 __rte_unused = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t TWINPATH_RSS_UDP4 __rte_unused = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t TWINPATH_RSS_SOURCE __rte_unused = RTE_ETH_RSS_L3_SRC_ONLY;
static const uint64_t TWINPATH_RSS_DESTINATION __rte_unused =
	RTE_ETH_RSS_L3_DST_ONLY | RTE_ETH_RSS_L4_DST_ONLY;
static const uint64_t TWINPATH_TX_FAST_FREE __rte_unused = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t TWINPATH_RX_IPV4_CKSUM __rte_unused = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t TWINPATH_RX_TCP_CKSUM __rte_unused = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t TWINPATH_RX_UDP_CKSUM __rte_unused = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
/* What a driver says of a frame that it has received. */
static const uint64_t TWINPATH_IP_CKSUM_MASK __rte_unused = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t TWINPATH_IP_CKSUM_GOOD __rte_unused = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t TWINPATH_L4_CKSUM_MASK __rte_unused = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t TWINPATH_L4_CKSUM_GOOD __rte_unused = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint32_t TWINPATH_TUNNEL_MASK __rte_unused = RTE_PTYPE_TUNNEL_MASK;
/* In place of the number of a port: all of them, those that come later too. */
static const uint16_t TWINPATH_ETH_ALL __rte_unused = RTE_ETH_ALL;
static const uint32_t TWINPATH_DEV_INTR_RMV __rte_unused = RTE_ETH_DEV_INTR_RMV;
static const uint32_t TWINPATH_MQ_RX_RSS __rte_unused = RTE_ETH_MQ_RX_RSS;

/* Per burst: one call from Rust, everything below is inlined. */
uint16_t twinpath_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
uint16_t twinpath_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
struct rte_mbuf *twinpath_mbuf_alloc(struct rte_mempool *pool);
void twinpath_mbuf_free(struct rte_mbuf *mbuf);
/* Puts a second mbuf behind the segments of the first; false, and nothing done, when there are too many. */
bool twinpath_mbuf_chain(struct rte_mbuf *mbuf, struct rte_mbuf *tail);
/* Copies all segments into the first one and frees the others; false, and nothing done, when they don't fit. */
bool twinpath_mbuf_join(struct rte_mbuf *mbuf);

/* rte_errno of the calling thread. */
int twinpath_errno(void);
/* Link state without waiting; 0 or a negative errno. Speed in Mbit/s, UINT32_MAX when unknown. */
int twinpath_link(uint16_t port, bool *up, uint32_t *speed_mbps);

#endif
