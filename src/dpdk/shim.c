/* See shim.h. The assertions are what makes reading an mbuf from Rust sound: a DPDK whose layout differs
 * fails to build here instead of corrupting frames. */
#include "shim.h"

#include <stddef.h>

#define SAME_OFFSET(field, number)                                                                 \
	_Static_assert(offsetof(struct rte_mbuf, field) == (number), "rte_mbuf." #field " moved")
#define SAME_SIZE(field, number)                                                                   \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == (number), "rte_mbuf." #field " resized")

SAME_OFFSET(buf_addr, TWINPATH_MBUF_BUF_ADDR);
SAME_OFFSET(data_off, TWINPATH_MBUF_DATA_OFF);
SAME_OFFSET(refcnt, TWINPATH_MBUF_REFCNT);
SAME_OFFSET(nb_segs, TWINPATH_MBUF_NB_SEGS);
SAME_OFFSET(port, TWINPATH_MBUF_PORT);
SAME_OFFSET(ol_flags, TWINPATH_MBUF_OL_FLAGS);
SAME_OFFSET(packet_type, TWINPATH_MBUF_PACKET_TYPE);
SAME_OFFSET(pkt_len, TWINPATH_MBUF_PKT_LEN);
SAME_OFFSET(data_len, TWINPATH_MBUF_DATA_LEN);
SAME_OFFSET(buf_len, TWINPATH_MBUF_BUF_LEN);
SAME_SIZE(buf_addr, 8);
SAME_SIZE(data_off, 2);
SAME_SIZE(refcnt, 2);
SAME_SIZE(nb_segs, 2);
SAME_SIZE(port, 2);
SAME_SIZE(ol_flags, 8);
SAME_SIZE(packet_type, 4);
SAME_SIZE(pkt_len, 4);
SAME_SIZE(data_len, 2);
SAME_SIZE(buf_len, 2);
_Static_assert(sizeof(struct rte_mbuf) == TWINPATH_MBUF_SIZE, "rte_mbuf resized");
_Static_assert(RTE_PKTMBUF_HEADROOM == TWINPATH_HEADROOM, "headroom changed");
_Static_assert(RTE_MAX_LCORE >= TWINPATH_LCORES_MAX, "fewer lcores than planned with");
_Static_assert(RTE_HASH_LOOKUP_BULK_MAX >= TWINPATH_HASH_BULK, "smaller lookups than planned with");
_Static_assert(RTE_ETH_NAME_MAX_LEN == TWINPATH_ETH_NAME_MAX, "port names resized");

uint16_t twinpath_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, packets, count);
}

uint16_t twinpath_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, packets, count);
}

struct rte_mbuf *twinpath_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void twinpath_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

bool twinpath_mbuf_chain(struct rte_mbuf *mbuf, struct rte_mbuf *tail)
{
	return rte_pktmbuf_chain(mbuf, tail) == 0;
}

bool twinpath_mbuf_join(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_linearize(mbuf) == 0;
}

int twinpath_errno(void)
{
	return rte_errno;
}

int twinpath_link(uint16_t port, bool *up, uint32_t *speed_mbps)
{
	struct rte_eth_link link = {0};
	int code = rte_eth_link_get_nowait(port, &link);

	*up = code == 0 && link.link_status == RTE_ETH_LINK_UP;
	*speed_mbps = link.link_speed;
	return code;
}
